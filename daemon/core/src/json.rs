//! JSON that keeps what it was given: sorted keys, and each number as the text that it came as (never a binary float).

use serde_json::{Map, Value};

/// A JSON object. Its keys are sorted, so that its text is one.
pub type Object = Map<String, Value>;

/// Reads one JSON object and nothing after it.
///
/// # Errors
/// A sentence fragment with line and column.
pub fn object(bytes: &[u8]) -> Result<Object, String> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it is another JSON value".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// Compact text of an object.
pub fn text(object: &Object) -> String {
    // A map of strings and JSON values has no way to fail: no foreign `Serialize` runs, no key is anything but a string.
    serde_json::to_string(object).expect("JSON values always serialise")
}
