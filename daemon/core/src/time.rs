//! Time as an argument: the core has no clock.

use std::fmt::Write;

/// What the clock shows as an input arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds since some point before the start: for backoff, limits and ages.
    pub mono_ms: u64,
    /// Wall time, if the device knows it.
    pub wall: Option<Wall>,
}

/// Wall time, which may jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wall {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: i64,
    /// The business day in the house's time zone, in days since 1970-01-01: it begins at `gateway.business_day_starts`.
    pub business_day: i32,
}

/// Formats `unix_ms` as RFC 3339 in UTC with milliseconds, `2024-01-01T12:00:00.000Z`.
///
/// Valid for the years 0 to 9999, which is all that RFC 3339 can say; others are clamped.
pub fn rfc3339(unix_ms: i64) -> String {
    const YEAR_0_MS: i64 = -62_167_219_200_000;
    const YEAR_9999_END_MS: i64 = 253_402_300_799_999;
    let ms = unix_ms.clamp(YEAR_0_MS, YEAR_9999_END_MS);
    let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (h, m, s, milli) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
    let mut text = String::with_capacity("2024-01-01T12:00:00.000Z".len());
    // A string takes whatever is written to it.
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{milli:03}Z");
    text
}

/// Reads back what [`rfc3339`] writes; `None` for anything else.
pub fn unix_ms(text: &str) -> Option<i64> {
    let shape = b"dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |(byte, shape): (u8, u8)| if shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
    if text.len() != shape.len() || !text.bytes().zip(shape.iter().copied()).all(fits) {
        return None;
    }
    let field = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let in_day = (field(11, 13)? * 60 + field(14, 16)?) * 60 + field(17, 19)?;
    let ms = (days_from_civil(year, month, day) * 86_400 + in_day) * 1_000 + field(20, 23)?;
    // A date that does not exist, like the 31st of April, would read as another one.
    (rfc3339(ms) == text).then_some(ms)
}

/// Days from 1970-01-01 to a Gregorian date, after Howard Hinnant (<https://howardhinnant.github.io/date_algorithms.html>).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Gregorian date of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_are_printed_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_704_110_400_000), "2024-01-01T12:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
