//! Payment card numbers. A gateway never holds one: whoever does must prove far more about a house's computer than anyone can.

use crate::json::Object;
use serde_json::Value;

/// Digits of a card number (ISO/IEC 7812).
const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// Parts of a field's name that say it holds one, written small and without what separates words.
const NAMES: [&str; 8] = ["cardnumber", "cardno", "cardnum", "creditcard", "debitcard", "ccnumber", "ccnum", "primaryaccountnumber"];
/// Other cards have numbers of the same kind, and belong to an order.
const OTHER_CARDS: [&str; 6] = ["loyalty", "gift", "member", "bonus", "club", "reward"];

/// The path of a field that is named like a card number and holds 13 to 19 digits that pass the Luhn check.
pub fn find(data: &Object) -> Option<String> {
    in_object(data, "data")
}

fn in_object(object: &Object, path: &str) -> Option<String> {
    object.iter().find_map(|(name, value)| Some(format!("{path}.{}", in_field(name, value)?)))
}

/// Elements of an array have the array's name.
fn in_field(name: &str, value: &Value) -> Option<String> {
    let is_one = |text: &str| is_number(text) && is_named(name);
    match value {
        Value::String(text) => is_one(text).then(|| name.into()),
        Value::Number(number) => is_one(number.as_str()).then(|| name.into()),
        Value::Array(values) => values.iter().find_map(|value| in_field(name, value)),
        Value::Object(object) => in_object(object, name),
        Value::Null | Value::Bool(_) => None,
    }
}

fn is_number(text: &str) -> bool {
    let mut digits = [0; *DIGITS.end()];
    let mut count = 0;
    for byte in text.bytes().filter(|byte| !b" -".contains(byte)) {
        if !byte.is_ascii_digit() || count == digits.len() {
            return false;
        }
        digits[count] = byte - b'0';
        count += 1;
    }
    // From the right, every second digit counts double.
    let weighed = digits[..count].iter().rev().enumerate().map(|(place, digit)| match (place % 2, digit * 2) {
        (0, _) => *digit,
        (_, double) => double / 10 + double % 10,
    });
    DIGITS.contains(&count) && weighed.map(u32::from).sum::<u32>() % 10 == 0
}

fn is_named(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    (has(&NAMES) || ["card", "pan"].contains(&name.as_str())) && !has(&OTHER_CARDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn path(data: &str) -> Option<String> {
        find(&json::object(data.as_bytes()).unwrap())
    }

    #[test]
    fn a_card_number_is_found_wherever_it_is() {
        assert_eq!(path(r#"{"cardNumber":"4111 1111 1111 1111"}"#).as_deref(), Some("data.cardNumber"));
        assert_eq!(path(r#"{"payment":{"credit_card":"5500-0000-0000-0004"}}"#).as_deref(), Some("data.payment.credit_card"));
        assert_eq!(path(r#"{"payment":[{"PAN":4111111111111111}]}"#).as_deref(), Some("data.payment.PAN"));
        assert_eq!(path(r#"{"a":{"b":{"card":"378282246310005"}}}"#).as_deref(), Some("data.a.b.card"));
    }

    #[test]
    fn what_only_resembles_one_is_an_orders_own() {
        // A wrong check digit, too short, too long, cut as tills print it.
        for number in ["4111111111111112", "411111111111", "41111111111111111111", "************1111", "", "0"] {
            assert_eq!(path(&format!(r#"{{"cardNumber":"{number}"}}"#)), None, "{number}");
        }
        // The right digits under another name: an article's number, a loyalty card.
        for name in ["foodId", "loyaltyCardNumber", "giftCardNo", "phone", "companyId", "discard"] {
            assert_eq!(path(&format!(r#"{{"{name}":"4111111111111111"}}"#)), None, "{name}");
        }
        assert_eq!(path(r#"{"cardNumber":true,"card":null,"pan":{"last4":"1111"},"card_no":1e15}"#), None);
    }
}
