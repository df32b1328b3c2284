//! JSON that keeps what it was given: sorted keys, and each number as the text that it came as (never a binary float).

use serde::Serialize;
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

/// Compact text of something whose keys are strings.
pub fn text(value: &impl Serialize) -> String {
    // Maps and structs of strings, numbers and JSON values have no way to fail.
    serde_json::to_string(value).expect("what has strings for keys always serialises")
}
