//! The topics under `ord/v1/{gateway}`.
//!
//! ```text
//! …/t/{terminal}/submit             terminal -> gateway   request
//! …/t/{terminal}/answer             gateway  -> terminal  answer
//! …/t/{terminal}/status/{orderId}   gateway  -> terminal  projection; the order id is percent-encoded
//! …/t/{terminal}/state              terminal -> gateway   {"online":true}
//! …/gateway                         gateway  -> all       {"online":true,…}
//! …/board                           gateway  -> all       the board
//! ```

use gateway::ids::{Name, OrderId};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters: an order id may hold `/`, `+`, `#`, `%` and any script.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The topics of one gateway.
#[derive(Debug, Clone)]
pub struct Topics {
    prefix: String,
}

/// What a topic that a message arrived on is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// A terminal submits.
    Submit(Name),
    /// A terminal is answered.
    Answer(Name),
    /// A terminal says whether it is there.
    State(Name),
    /// An order's status. `None`: the topic names no terminal or no order that there could be.
    Status(Option<(Name, OrderId)>),
    /// The gateway says whether it is there.
    Gateway,
    /// None of these, or the terminal's segment is no name.
    Unknown,
}

impl Topics {
    pub fn new(gateway: &Name) -> Topics {
        Topics { prefix: format!("ord/v1/{gateway}") }
    }

    /// All of them.
    pub fn all(&self) -> String {
        format!("{}/#", self.prefix)
    }

    /// Every terminal's submissions.
    pub fn submits(&self) -> String {
        format!("{}/t/+/submit", self.prefix)
    }

    /// Every terminal's state.
    pub fn states(&self) -> String {
        format!("{}/t/+/state", self.prefix)
    }

    /// Every terminal's statuses.
    pub fn all_statuses(&self) -> String {
        format!("{}/t/+/status/#", self.prefix)
    }

    /// The statuses of one terminal's orders.
    pub fn statuses(&self, terminal: &Name) -> String {
        format!("{}/t/{terminal}/status/#", self.prefix)
    }

    pub fn submit(&self, terminal: &Name) -> String {
        format!("{}/t/{terminal}/submit", self.prefix)
    }

    pub fn answer(&self, terminal: &Name) -> String {
        format!("{}/t/{terminal}/answer", self.prefix)
    }

    pub fn state(&self, terminal: &Name) -> String {
        format!("{}/t/{terminal}/state", self.prefix)
    }

    pub fn status(&self, terminal: &Name, order: &OrderId) -> String {
        format!("{}/t/{terminal}/status/{}", self.prefix, utf8_percent_encode(order.as_str(), ESCAPED))
    }

    pub fn gateway(&self) -> String {
        format!("{}/gateway", self.prefix)
    }

    pub fn board(&self) -> String {
        format!("{}/board", self.prefix)
    }

    /// Reads the topic that a message arrived on.
    pub fn read(&self, topic: &[u8]) -> Channel {
        self.split(topic).unwrap_or(Channel::Unknown)
    }

    fn split(&self, topic: &[u8]) -> Option<Channel> {
        let rest = std::str::from_utf8(topic).ok()?.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        if rest == "gateway" {
            return Some(Channel::Gateway);
        }
        let (terminal, channel) = rest.strip_prefix("t/")?.split_once('/')?;
        let name = terminal.parse::<Name>();
        if let Some(order) = channel.strip_prefix("status/") {
            return Some(Channel::Status(name.ok().zip(decode(order))));
        }
        match channel {
            "submit" => Some(Channel::Submit(name.ok()?)),
            "answer" => Some(Channel::Answer(name.ok()?)),
            "state" => Some(Channel::State(name.ok()?)),
            _ => None,
        }
    }
}

/// An order id from a topic's last segment; `None` unless [`Topics::status`] writes it the same way.
fn decode(segment: &str) -> Option<OrderId> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    let order = text.parse::<OrderId>().ok()?;
    (utf8_percent_encode(order.as_str(), ESCAPED).to_string() == segment).then_some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        Topics::new(&"store-042".parse().unwrap())
    }

    #[test]
    fn the_topics_are_those_of_the_contract() {
        let (topics, till) = (topics(), "till-1".parse().unwrap());
        assert_eq!(topics.submits(), "ord/v1/store-042/t/+/submit");
        assert_eq!(topics.submit(&till), "ord/v1/store-042/t/till-1/submit");
        assert_eq!(topics.answer(&till), "ord/v1/store-042/t/till-1/answer");
        assert_eq!(topics.status(&till, &"order-123".parse().unwrap()), "ord/v1/store-042/t/till-1/status/order-123");
        assert_eq!(topics.states(), "ord/v1/store-042/t/+/state");
        assert_eq!(topics.all_statuses(), "ord/v1/store-042/t/+/status/#");
        assert_eq!(topics.gateway(), "ord/v1/store-042/gateway");
        assert_eq!(topics.board(), "ord/v1/store-042/board");
    }

    #[test]
    fn an_order_id_of_slashes_and_wildcards_is_one_segment_and_reads_back() {
        let (topics, till): (_, Name) = (topics(), "till-1".parse().unwrap());
        for text in ["a/b", "#", "+", "a%2Fb", "ü ~.-_", "日本", "../../x"] {
            let order: OrderId = text.parse().unwrap();
            let topic = topics.status(&till, &order);
            assert_eq!(topic.matches('/').count(), 6, "{topic}");
            assert!(!topic.contains(['+', '#']), "{topic}");
            assert_eq!(topics.read(topic.as_bytes()), Channel::Status(Some((till.clone(), order))));
        }
    }

    #[test]
    fn a_topic_that_is_not_ours_or_names_no_terminal_is_unknown() {
        for topic in [
            "ord/v1/store-043/t/till-1/submit",
            "ord/v1/store-0422/t/till-1/submit",
            "ord/v1/store-042/t//submit",
            "ord/v1/store-042/t/tïll/submit",
            "ord/v1/store-042/t/a b/submit",
            "ord/v1/store-042/t/till-1/submit/more",
            "ord/v1/store-042/t/till-1",
            "ord/v1/store-042",
            "",
        ] {
            assert_eq!(topics().read(topic.as_bytes()), Channel::Unknown, "{topic}");
        }
        assert_eq!(topics().read(b"ord/v1/store-042/t/\xff/submit"), Channel::Unknown);
        let long = format!("ord/v1/store-042/t/{}/submit", "x".repeat(49));
        assert_eq!(topics().read(long.as_bytes()), Channel::Unknown);
    }

    #[test]
    fn a_status_topic_that_the_gateway_would_not_write_names_no_order() {
        for topic in ["t/till-1/status/a/b", "t/till-1/status/%2f", "t/till-1/status/%FF", "t/till-1/status/", "t/tïll/status/x"] {
            assert_eq!(topics().read(format!("ord/v1/store-042/{topic}").as_bytes()), Channel::Status(None), "{topic}");
        }
    }
}
