//! What a Kafka error means for the uplink: one table.

use gateway::io::FailureClass;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Codes that are not [`FailureClass::Hold`]. Whatever Kafka may say that nobody here has thought of is held: holding keeps the order
/// and loses nothing.
const CLASSES: &[(FailureClass, &[Code])] = &[
    (
        FailureClass::ThisEvent,
        &[Code::MessageSizeTooLarge, Code::MessageBatchTooLarge, Code::InvalidRecord, Code::InvalidTimestamp, Code::PolicyViolation],
    ),
    (
        FailureClass::Recreate,
        &[
            Code::Fatal,
            Code::GaplessGuarantee,
            Code::Inconsistent,
            Code::Fenced,
            Code::ProducerFenced,
            Code::OutOfOrderSequenceNumber,
            Code::InvalidProducerEpoch,
            Code::InvalidProducerIdMapping,
            Code::InvalidTransactionalState,
            Code::UnknownProducerId,
        ],
    ),
    (
        FailureClass::Person,
        &[
            Code::TopicAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::TransactionalIdAuthorizationFailed,
            Code::Authentication,
            Code::SaslAuthenticationFailed,
            Code::UnsupportedSASLMechanism,
            Code::SSL,
            Code::Resolve,
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::UnknownPartition,
            Code::InvalidTopic,
            Code::InvalidRequiredAcks,
            Code::UnsupportedCompressionType,
            Code::UnsupportedForMessageFormat,
            Code::UnsupportedFeature,
            Code::UnsupportedVersion,
        ],
    ),
];

/// The class of a failed delivery.
pub(super) fn class(code: Code) -> FailureClass {
    CLASSES.iter().find(|(_, codes)| codes.contains(&code)).map_or(FailureClass::Hold, |(class, _)| *class)
}

/// An error for people: librdkafka's name and number, by which it can be looked up, and its sentence.
pub(super) fn reason(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => format!("{code:?} ({}): {code}", code as i32),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! rows {
        ($($name:ident: $code:ident $number:literal => $class:ident;)*) => {$(
            #[test]
            fn $name() {
                assert_eq!(Code::$code as i32, $number);
                assert_eq!(class(Code::$code), FailureClass::$class);
            }
        )*};
    }

    rows! {
        a_full_queue_is_held: QueueFull -184 => Hold;
        an_expired_message_is_held: MessageTimedOut -192 => Hold;
        a_purge_of_the_queue_is_held: PurgeQueue -152 => Hold;
        a_purge_in_flight_is_held: PurgeInflight -151 => Hold;
        a_timeout_is_held: OperationTimedOut -185 => Hold;
        a_lost_connection_is_held: BrokerTransportFailure -195 => Hold;
        no_broker_is_held: AllBrokersDown -187 => Hold;
        too_few_replicas_are_held: NotEnoughReplicas 19 => Hold;
        a_broker_without_disk_is_held: KafkaStorageError 56 => Hold;
        a_quota_is_held: ThrottlingQuotaExceeded 89 => Hold;
        the_unknown_is_held: Unknown -1 => Hold;
        a_message_over_the_limit_fails_alone: MessageSizeTooLarge 10 => ThisEvent;
        a_batch_over_the_limit_fails_its_events: MessageBatchTooLarge 18 => ThisEvent;
        an_invalid_record_fails_alone: InvalidRecord 87 => ThisEvent;
        an_invalid_timestamp_fails_alone: InvalidTimestamp 32 => ThisEvent;
        a_policy_fails_one_event: PolicyViolation 44 => ThisEvent;
        a_fatal_error_needs_a_new_handle: Fatal -150 => Recreate;
        a_gap_needs_a_new_handle: GaplessGuarantee -148 => Recreate;
        a_sequence_out_of_order_needs_a_new_handle: OutOfOrderSequenceNumber 45 => Recreate;
        a_forgotten_producer_needs_a_new_handle: UnknownProducerId 59 => Recreate;
        a_lost_id_mapping_needs_a_new_handle: InvalidProducerIdMapping 49 => Recreate;
        an_invalid_transactional_state_needs_a_new_handle: InvalidTransactionalState 48 => Recreate;
        an_old_epoch_needs_a_new_handle: InvalidProducerEpoch 47 => Recreate;
        a_fence_needs_a_new_handle: Fenced -144 => Recreate;
        a_denied_topic_needs_a_person: TopicAuthorizationFailed 29 => Person;
        a_denied_cluster_needs_a_person: ClusterAuthorizationFailed 31 => Person;
        a_denied_transactional_id_needs_a_person: TransactionalIdAuthorizationFailed 53 => Person;
        a_wrong_password_needs_a_person: Authentication -169 => Person;
        a_refused_login_needs_a_person: SaslAuthenticationFailed 58 => Person;
        a_wrong_certificate_needs_a_person: SSL -181 => Person;
        an_unknown_host_needs_a_person: Resolve -193 => Person;
        a_missing_topic_needs_a_person: UnknownTopicOrPartition 3 => Person;
        a_topic_unknown_at_send_needs_a_person: UnknownTopic -188 => Person;
        a_missing_partition_needs_a_person: UnknownPartition -190 => Person;
        a_compression_that_the_topic_refuses_needs_a_person: UnsupportedCompressionType 76 => Person;
    }

    #[test]
    fn a_reason_names_the_code_and_says_what_it_is() {
        let error = KafkaError::MessageProduction(Code::TopicAuthorizationFailed);
        assert_eq!(reason(&error), "TopicAuthorizationFailed (29): TopicAuthorizationFailed (Broker: Topic authorization failed)");
    }
}
