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

/// Why the brokers and this gateway do not come together, as far as librdkafka tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The brokers refuse the user or the password, or how it is shown.
    Login,
    /// The broker's certificate is not believed.
    BrokerCertificate,
    /// The broker refuses this gateway's certificate, or misses one.
    OwnCertificate,
    /// What answers speaks no TLS that can be understood.
    Tls,
    /// Someone hung up on a TLS client: a plain port does, and so does a line that is just failing.
    HungUpOnTls,
    /// Someone hung up on a plain client: a TLS port does, and so does a line that is just failing.
    HungUpOnPlain,
}

/// What librdkafka's sentence contains, and what it means; the first that fits counts.
const REFUSALS: &[(&str, Refusal)] = &[
    ("connecting to a PLAINTEXT broker listener", Refusal::HungUpOnTls),
    ("certificate verify failed", Refusal::BrokerCertificate),
    // The names of TLS alerts: RFC 8446, section 6.2.
    ("alert certificate", Refusal::OwnCertificate),
    ("alert bad certificate", Refusal::OwnCertificate),
    ("alert unknown ca", Refusal::OwnCertificate),
    // Every error of OpenSSL itself; a line that fails during the handshake is none.
    ("SSL routines", Refusal::Tls),
];

/// The first request on a plain line was answered by an end of the connection.
fn hung_up_on_plain(text: &str) -> bool {
    text.contains("Disconnected") && text.contains("in state APIVERSION_QUERY") && !text.contains("ssl://")
}

impl Refusal {
    /// What a client's error means for the connection; `None` if it is none of these.
    pub(super) fn of(code: Code, text: &str) -> Option<Refusal> {
        // A certificate that is not believed comes as a lost connection; its text is all there is to tell it by.
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => Some(Refusal::Login),
            _ if hung_up_on_plain(text) => Some(Refusal::HungUpOnPlain),
            _ => REFUSALS.iter().find(|(part, _)| text.contains(part)).map(|(_, refusal)| *refusal),
        }
    }

    /// Whether waiting mends nothing: a client keeps the password and the certificates with which it was made.
    pub(super) fn lasts(self) -> bool {
        match self {
            Refusal::Login | Refusal::BrokerCertificate | Refusal::OwnCertificate | Refusal::Tls => true,
            Refusal::HungUpOnTls | Refusal::HungUpOnPlain => false,
        }
    }

    /// What to do about it.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Refusal::Login => "see kafka.username, kafka.password_file and kafka.sasl_mechanism; the file is read at each try",
            Refusal::BrokerCertificate if crate::clock::wall_ms().is_none() => {
                "the clock of this device is not set, so no certificate can be believed: set it"
            }
            Refusal::BrokerCertificate => {
                "the broker's certificate has expired, is for another name than kafka.brokers says, or is not signed by kafka.ca_file"
            }
            Refusal::OwnCertificate => "the brokers want another certificate than kafka.cert_file gives: it may have expired",
            Refusal::Tls => "see kafka.security and the port in kafka.brokers; something else may answer in the brokers' place",
            Refusal::HungUpOnTls => "if that lasts, the port may speak no TLS: see kafka.security and the port in kafka.brokers",
            Refusal::HungUpOnPlain => "if that lasts, the port may speak TLS: see kafka.security and the port in kafka.brokers",
        }
    }
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

    /// Sentences of librdkafka 2.12 towards Apache Kafka 4.1.
    #[test]
    fn what_librdkafka_says_of_a_connection_is_told_apart() {
        let cases = [
            (Code::Authentication, "SASL authentication error: Authentication failed: Invalid username or password", Some(Refusal::Login)),
            (
                Code::SSL,
                "ssl://k:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker \
                 certificate could not be verified, verify that ssl.ca.location is correctly configured (after 5ms in state SSL_HANDSHAKE)",
                Some(Refusal::BrokerCertificate),
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://k:9093/bootstrap: Receive failed: error:0A000416:SSL routines::ssl/tls alert certificate unknown: SSL alert \
                 number 46 (after 206ms in state APIVERSION_QUERY)",
                Some(Refusal::OwnCertificate),
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://k:9093/bootstrap: Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number \
                 42 (after 3ms in state APIVERSION_QUERY)",
                Some(Refusal::OwnCertificate),
            ),
            (
                Code::SSL,
                "ssl://k:9093/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version number",
                Some(Refusal::Tls),
            ),
            (Code::BrokerTransportFailure, "ssl://k:9093/bootstrap: Connection setup timed out in state SSL_HANDSHAKE", None),
            (
                Code::BrokerTransportFailure,
                "ssl://k:9092/bootstrap: SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT \
                 broker listener? (after 49ms in state SSL_HANDSHAKE)",
                Some(Refusal::HungUpOnTls),
            ),
            (
                Code::BrokerTransportFailure,
                "k:9093/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 135ms in state APIVERSION_QUERY)",
                Some(Refusal::HungUpOnPlain),
            ),
            (Code::BrokerTransportFailure, "k:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused", None),
            (Code::AllBrokersDown, "1/1 brokers are down", None),
        ];
        for (code, text, expected) in cases {
            assert_eq!(Refusal::of(code, text), expected, "{text}");
        }
    }

    #[test]
    fn a_reason_names_the_code_and_says_what_it_is() {
        let error = KafkaError::MessageProduction(Code::TopicAuthorizationFailed);
        assert_eq!(reason(&error), "TopicAuthorizationFailed (29): TopicAuthorizationFailed (Broker: Topic authorization failed)");
    }
}
