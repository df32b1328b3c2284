//! What a Kafka error means for the uplink: one table.

use gateway::io::FailureClass;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// The class of each code that was thought of; the table of docs/operations.md has the same. Whatever else Kafka may say is held: holding
/// keeps the order and loses nothing.
const CLASSES: &[(FailureClass, &[Code])] = &[
    (
        FailureClass::Hold,
        &[
            Code::BrokerTransportFailure,
            Code::AllBrokersDown,
            Code::OperationTimedOut,
            Code::NotLeaderForPartition,
            Code::LeaderNotAvailable,
            Code::NotEnoughReplicas,
            Code::NotEnoughReplicasAfterAppend,
            Code::ThrottlingQuotaExceeded,
            Code::KafkaStorageError,
            Code::QueueFull,
            Code::MessageTimedOut,
            Code::PurgeQueue,
            Code::PurgeInflight,
            Code::Unknown,
        ],
    ),
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
            Code::GroupAuthorizationFailed,
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

/// Nobody answered the first words of TLS. Most often librdkafka adds the question that is among [`REFUSALS`], but not always.
fn hung_up_on_tls(text: &str) -> bool {
    text.contains("SSL connection closed by peer") && text.contains("in state SSL_HANDSHAKE")
}

impl Refusal {
    /// What a client's error means for the connection; `None` if it is none of these.
    pub(super) fn of(code: Code, text: &str) -> Option<Refusal> {
        // A certificate that is not believed comes as a lost connection; its text is all there is to tell it by.
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => Some(Refusal::Login),
            _ if hung_up_on_plain(text) => Some(Refusal::HungUpOnPlain),
            _ if hung_up_on_tls(text) => Some(Refusal::HungUpOnTls),
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

    const PAGE: &str = include_str!("../../../docs/operations.md");
    const SOURCES: [&str; 5] = [
        include_str!("producer/transactions.rs"),
        include_str!("errors.rs"),
        include_str!("producer/keeper.rs"),
        include_str!("consumer.rs"),
        include_str!("../event_loop.rs"),
    ];
    const CASES: [&str; 2] = [include_str!("tests.rs"), include_str!("../../../tests/real/kafka_errors.py")];

    /// The cells of each row of the page's table of errors.
    fn rows() -> Vec<Vec<&'static str>> {
        let chapter = PAGE.split("## Kafka's errors").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let table = chapter.split("| class | errors |").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
        let cells = |row: &'static str| row.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
        let rows: Vec<_> = table.lines().skip(2).map(cells).collect();
        assert!(rows.len() > 10 && rows.iter().all(|cells| cells.len() == 5), "{rows:#?}");
        rows
    }

    fn quoted(cell: &'static str) -> impl Iterator<Item = &'static str> {
        cell.split('`').skip(1).step_by(2)
    }

    #[test]
    fn the_page_and_the_code_give_each_error_the_same_class() {
        let word = |class: FailureClass| match class {
            FailureClass::Hold => "hold",
            FailureClass::ThisEvent => "this event only",
            FailureClass::Recreate => "recreate the producer",
            FailureClass::Person => "a person is needed",
        };
        let of_code = |class: FailureClass, code: &Code| (format!("{code:?} ({})", *code as i32), word(class).to_owned());
        let mut coded: Vec<_> = CLASSES.iter().flat_map(|(class, codes)| codes.iter().map(|code| of_code(*class, code))).collect();
        let errors = |cell: &'static str| cell.split(", ").filter(|name| *name != "–");
        let mut written: Vec<_> =
            rows().iter().flat_map(|row| errors(row[1]).map(|name| (name.to_owned(), row[0].to_owned())).collect::<Vec<_>>()).collect();
        coded.sort();
        written.sort();
        assert_eq!(coded, written);
    }

    #[test]
    fn the_sentences_of_the_page_are_those_of_the_code() {
        for row in rows() {
            for sentence in quoted(row[2]).filter(|sentence| !sentence.starts_with("dumbwaiter ")) {
                assert!(SOURCES.iter().any(|source| source.contains(sentence)), "nothing says {sentence:?}");
            }
        }
    }

    #[test]
    fn each_row_of_the_page_is_driven_by_a_test() {
        for row in rows() {
            assert!(row[4] == "the simulator" || quoted(row[4]).count() > 0, "{row:?}");
            for name in quoted(row[4]) {
                let defined = |source: &str| source.contains(&format!("fn {name}(")) || source.contains(&format!("def {name}("));
                assert!(CASES.into_iter().any(defined), "no test is named {name}");
            }
        }
    }

    #[test]
    fn what_nobody_thought_of_is_held() {
        assert_eq!(class(Code::CoordinatorNotAvailable), FailureClass::Hold);
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
                "ssl://k:9092/bootstrap: Disconnected: SSL connection closed by peer (after 2ms in state SSL_HANDSHAKE)",
                Some(Refusal::HungUpOnTls),
            ),
            (Code::BrokerTransportFailure, "ssl://k:9093/1: Disconnected: SSL connection closed by peer (after 9ms in state UP)", None),
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
