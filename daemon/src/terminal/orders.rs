//! Orders as a restaurant's terminals submit them, of about 400 bytes.

use gateway::ids::RequestId;
use gateway::time::rfc3339;
use serde_json::{Map, Number, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is on the menu: id, name, price in cents.
const MENU: [(&str, &str, u64); 8] = [
    ("food-001", "Pizza Margherita", 1_250),
    ("food-002", "Tagliatelle al ragù", 1_390),
    ("food-003", "Insalata mista", 680),
    ("food-004", "Tiramisù", 590),
    ("food-005", "Cheeseburger", 1_090),
    ("food-006", "Pommes frites", 420),
    ("food-007", "Espresso", 240),
    ("food-008", "Sparkling water 0.5 l", 390),
];

/// An order that is not submitted yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The id under which it is submitted, every time.
    pub request_id: RequestId,
    pub user_id: String,
    /// The event's `data`.
    pub data: Map<String, Value>,
}

impl Order {
    /// The request, as it goes over MQTT and over serial lines of JSON.
    pub fn request(&self) -> String {
        json!({"requestId": self.request_id.as_str(), "userId": self.user_id, "data": self.data}).to_string()
    }

    /// The request without its id, as it goes over serial lines in binary frames.
    pub fn body(&self) -> String {
        json!({"userId": self.user_id, "data": self.data}).to_string()
    }

    /// The body of `POST /api/v1/orders`.
    pub fn http_body(&self) -> String {
        let mut body = self.data.clone();
        body.insert("userId".into(), self.user_id.clone().into());
        Value::Object(body).to_string()
    }
}

/// An endless source of orders, no two of them with one request id: not in a run, not across runs.
#[derive(Debug)]
pub struct Orders {
    run: u64,
    made: u64,
    chance: u64,
}

impl Orders {
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Orders, getrandom::Error> {
        Ok(Orders { run: getrandom::u64()?, made: 0, chance: getrandom::u64()? })
    }

    /// The next order.
    pub fn make(&mut self) -> Order {
        self.made += 1;
        let request_id =
            format!("{:016x}-{}", self.run, self.made).parse().expect("hexadecimal digits and a hyphen, far below 64 characters");
        let mut total = 0;
        let lines: Vec<Value> = (0..2 + self.pick(2))
            .map(|_| {
                let (id, name, cents) = MENU[self.pick(MENU.len())];
                let quantity = 1 + self.pick(3) as u64;
                total += cents * quantity;
                json!({"foodId": id, "foodName": name, "price": money(cents), "quantity": quantity, "discount": 0})
            })
            .collect();
        let mut data = Map::new();
        data.insert("restaurantId".into(), "restaurant-789".into());
        data.insert("orderDetails".into(), lines.into());
        data.insert("totalPrice".into(), money(total));
        data.insert("createdAt".into(), rfc3339(unix_ms()).into());
        data.insert("channel".into(), ["eat in", "takeaway"][self.pick(2)].into());
        Order { request_id, user_id: format!("user-{}", self.pick(10_000)), data }
    }

    /// A number below `end`, by splitmix64: good enough to vary a menu.
    fn pick(&mut self, end: usize) -> usize {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).expect("below a usize")
    }
}

/// An amount with its two digits, never by way of a binary float.
fn money(cents: u64) -> Value {
    let text = format!("{}.{:02}", cents / 100, cents % 100);
    Value::Number(text.parse::<Number>().expect("digits, a point and two digits"))
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::request::Request;
    use std::collections::HashSet;

    #[test]
    fn every_order_is_a_request_of_about_400_bytes_over_either_way() {
        let (mut orders, mut bytes) = (Orders::new().unwrap(), 0);
        for _ in 0..200 {
            let order = orders.make();
            let request = Request::parse(order.request().as_bytes()).unwrap();
            assert_eq!(request.id, order.request_id);
            let posted = Request::parse_new_order(order.request_id.clone(), order.http_body().as_bytes()).unwrap();
            assert_eq!((posted.user_id, posted.data), (request.user_id, request.data));
            bytes += order.request().len();
        }
        assert!((300 * 200..500 * 200).contains(&bytes), "{} bytes an order", bytes / 200);
    }

    #[test]
    fn no_request_id_comes_twice() {
        let mut sources = [Orders::new().unwrap(), Orders::new().unwrap()];
        let ids: HashSet<_> = (0..1_000).map(|n| sources[n % 2].make().request_id).collect();
        assert_eq!(ids.len(), 1_000);
    }
}
