//! What a broker tells of a topic beyond its partitions: its id, which changes when it is made anew under the same name, and what we may
//! do with it.

use rdkafka::bindings as native;
use rdkafka::bindings::rd_kafka_AclOperation_t as Operation;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, client::Client};
use std::ffi::{CStr, CString};
use std::time::Duration;

/// A topic as a broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    /// In base 64, as Kafka's tools print it. Brokers before 2.8 give every topic the same.
    pub(super) id: String,
    /// What this gateway's user may do; `None` if the broker does not tell.
    operations: Option<Vec<Operation>>,
}

impl Topic {
    /// Whether records may be written; `true` if the broker does not tell.
    pub(super) fn may_be_written(&self) -> bool {
        self.may(Operation::RD_KAFKA_ACL_OPERATION_WRITE)
    }

    /// Whether records may be read; `true` if the broker does not tell.
    pub(super) fn may_be_read(&self) -> bool {
        self.may(Operation::RD_KAFKA_ACL_OPERATION_READ)
    }

    fn may(&self, operation: Operation) -> bool {
        self.operations.as_ref().is_none_or(|known| known.contains(&operation))
    }
}

/// Asks a broker, and waits for the answer at most so long.
///
/// # Errors
/// Why the topic cannot be described: it is missing, it is denied, or no broker answers in time.
#[allow(unsafe_code, reason = "rdkafka has no safe call that describes topics")]
pub(super) fn describe<C: ClientContext>(client: &Client<C>, topic: &str, limit: Duration) -> Result<Topic, RDKafkaErrorCode> {
    let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let mut names = [name.as_ptr()];
    let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    let mut complaint = [0; 256];
    // SAFETY: the client outlives the call. Each object that is made here is destroyed here, after its last use; what is read from the
    // answer is copied before the answer is destroyed. The names are copied by the collection.
    unsafe {
        let topics = native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = native::rd_kafka_AdminOptions_new(client.native_ptr(), native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        native::rd_kafka_AdminOptions_set_request_timeout(options, limit_ms, complaint.as_mut_ptr(), complaint.len());
        let refused = native::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        if !refused.is_null() {
            native::rd_kafka_error_destroy(refused);
        }
        let queue = native::rd_kafka_queue_new(client.native_ptr());
        native::rd_kafka_DescribeTopics(client.native_ptr(), topics, options, queue);
        let answer = native::rd_kafka_queue_poll(queue, limit_ms);
        let found = read(answer);
        native::rd_kafka_event_destroy(answer);
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_TopicCollection_destroy(topics);
        found
    }
}

/// Reads the answer about one topic.
///
/// # Safety
/// `answer` is null or an event of librdkafka that is not destroyed yet.
#[allow(unsafe_code, reason = "see `describe`")]
unsafe fn read(answer: *mut native::rd_kafka_event_t) -> Result<Topic, RDKafkaErrorCode> {
    let right = |code: RDKafkaRespErr| match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(code),
    };
    // SAFETY: the caller's promise; an event that is none about topics gives null, which is looked for.
    unsafe {
        if answer.is_null() {
            return Err(RDKafkaErrorCode::OperationTimedOut);
        }
        right(native::rd_kafka_event_error(answer))?;
        let result = native::rd_kafka_event_DescribeTopics_result(answer);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Unknown);
        }
        let mut count = 0;
        let described = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count == 0 {
            return Err(RDKafkaErrorCode::UnknownTopicOrPartition);
        }
        let topic = *described;
        right(native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(topic)))?;
        let id = native::rd_kafka_Uuid_base64str(native::rd_kafka_TopicDescription_topic_id(topic));
        let mut count = 0;
        let operations = native::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
        Ok(Topic {
            id: CStr::from_ptr(id).to_string_lossy().into_owned(),
            operations: (!operations.is_null()).then(|| std::slice::from_raw_parts(operations, count).to_vec()),
        })
    }
}
