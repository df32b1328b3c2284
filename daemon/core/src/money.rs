//! Exact decimal sums. Amounts travel as JSON number text and are never turned into binary floats.

use serde_json::{Number, Value};

/// Digits after the point that a sum may have; amounts with more are refused.
const SCALE_MAX: u32 = 12;

/// A decimal number, `units` × 10^-`scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    units: i128,
    scale: u32,
}

impl Decimal {
    /// Zero.
    pub const ZERO: Decimal = Decimal { units: 0, scale: 0 };

    /// Reads a JSON number; `None` for another value, an exponent, or more digits than a price can have.
    pub fn read(value: &Value) -> Option<Decimal> {
        let Value::Number(number) = value else { return None };
        Decimal::parse(number.as_str())
    }

    /// Reads the text of such a number.
    pub fn parse(text: &str) -> Option<Decimal> {
        let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        // 24 digits leave room for a thousand lines of a thousand each below i128's 38.
        if text.len() > 26 || scale > SCALE_MAX as usize {
            return None;
        }
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        if digits.is_empty() || text.matches('.').count() > 1 {
            return None;
        }
        let units = digits.chars().filter(|c| *c != '.').try_fold(0, |units, c| Some(units * 10 + i128::from(c.to_digit(10)?)))?;
        Some(Decimal { units: if negative { -units } else { units }, scale: u32::try_from(scale).ok()? })
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.units < 0
    }

    fn at_scale(self, scale: u32) -> Option<i128> {
        self.units.checked_mul(10_i128.checked_pow(scale - self.scale)?)
    }

    /// The sum; `None` if it does not fit.
    pub fn plus(self, other: Decimal) -> Option<Decimal> {
        let scale = self.scale.max(other.scale);
        Some(Decimal { units: self.at_scale(scale)?.checked_add(other.at_scale(scale)?)?, scale })
    }

    /// The difference; `None` if it does not fit.
    pub fn minus(self, other: Decimal) -> Option<Decimal> {
        self.plus(Decimal { units: other.units.checked_neg()?, scale: other.scale })
    }

    /// `self` taken `count` times; `None` if it does not fit.
    pub fn times(self, count: u32) -> Option<Decimal> {
        Some(Decimal { units: self.units.checked_mul(i128::from(count))?, scale: self.scale })
    }

    /// The JSON number with all its digits: 12.50 stays 12.50.
    pub fn to_json(self) -> Value {
        let width = self.scale as usize + 1;
        let digits = format!("{:0width$}", self.units.unsigned_abs());
        let (whole, fraction) = digits.split_at(digits.len() - self.scale as usize);
        let sign = if self.units < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        // The text is built from digits alone, which is what a JSON number is.
        Value::Number(format!("{sign}{whole}{point}{fraction}").parse::<Number>().expect("digits are a number"))
    }
}

/// A count: 2 for 2 and for 2.0, which are one number in JSON. `None` for anything else.
pub fn count(value: &Value) -> Option<u64> {
    let number = Decimal::read(value)?;
    let one = 10_i128.checked_pow(number.scale)?;
    (number.units % one == 0).then_some(number.units / one)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Decimal> {
        Decimal::read(&serde_json::from_str(text).expect("JSON"))
    }

    #[test]
    fn sums_keep_every_digit() {
        let price = read("12.50").expect("a price");
        let sum = price.times(2).and_then(|p| p.minus(read("0.005")?)).expect("fits");
        assert_eq!(sum.to_json().to_string(), "24.995");
        assert_eq!(price.to_json().to_string(), "12.50");
        assert_eq!(read("0.1").and_then(|a| a.plus(read("0.2")?)).expect("fits").to_json().to_string(), "0.3");
        assert_eq!(read("-0.05").expect("fits").to_json().to_string(), "-0.05");
    }

    #[test]
    fn what_is_no_price_is_none() {
        for bad in ["\"1\"", "1e3", "null", "1.0000000000001", "123456789012345678901234567"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
    #[test]
    fn a_count_may_be_written_with_a_point() {
        // JavaScript writes 2, Lua and PHP write 2.0, and a schema takes both for an integer.
        for (text, whole) in [("2", Some(2)), ("2.0", Some(2)), ("938.000", Some(938)), ("0.0", Some(0)), ("2.5", None), ("-1", None)] {
            assert_eq!(count(&serde_json::from_str(text).expect("JSON")), whole, "{text}");
        }
    }
}
