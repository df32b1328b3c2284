//! What terminals submit, over MQTT, HTTP and serial lines, and the MQTT topics that it comes on: taken, or refused in a sentence.

use gateway::ids::{Name, OrderId, RequestId};
use gateway::request::{Request, RequestError};
use topics::{Channel, Topics};

/// The daemon is a binary, and no library that could be asked.
#[allow(dead_code, unreachable_pub, reason = "the daemon uses the rest")]
#[path = "../../../daemon/src/ingress/mqtt/topics.rs"]
mod topics;

/// What a request's parts and its answer may come to, in bytes: the body is a part of both.
const ANSWER_BYTES_MAX: usize = 4096;

pub fn run(bytes: &[u8]) {
    let Some((way, body)) = bytes.split_first() else { return };
    let id: RequestId = "r-1".parse().expect("an id");
    let order: OrderId = "order-1".parse().expect("an id");
    match way % 5 {
        0 => answered(Request::parse(body)),
        1 => answered(Request::parse_with_id(id, body)),
        2 => answered(Request::parse_new_order(id, body)),
        3 => answered(Request::parse_event(id, &order, body)),
        _ => topic(body),
    }
}

fn answered(parsed: Result<Request, RequestError>) {
    if let Err(refused) = parsed {
        let answer = serde_json::to_string(&refused.into_answer(None)).expect("an answer is JSON");
        assert!(answer.len() <= ANSWER_BYTES_MAX, "{} bytes: {answer}", answer.len());
    }
}

fn topic(bytes: &[u8]) {
    let gateway: Name = "store-042".parse().expect("a name");
    let topics = Topics::new(&gateway);
    if let Channel::Status(Some((terminal, order))) = topics.read(bytes) {
        let written = topics.status(&terminal, &order);
        assert_eq!(topics.read(written.as_bytes()), Channel::Status(Some((terminal, order))), "{written}");
    }
}
