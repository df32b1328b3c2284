//! The only place that asks what time it is for the core.
//!
//! Monotonic time stands still while the device sleeps, as the timers of the event loop do: time in a drawer ages nothing. Wall time
//! is told only where it can be true, for a device without a clock battery wakes up in 1970.

use crate::config::Config;
use gateway::time::{Now, Wall};
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use std::cell::Cell;
use std::ops::Range;
use std::time::Instant;

/// 2024-01-01T00:00:00Z: no clock that was ever set shows less.
const PLAUSIBLE_FROM_MS: i64 = 1_704_067_200_000;
/// 2100-01-01T00:00:00Z: no clock that was set right shows as much.
const PLAUSIBLE_BEFORE_MS: i64 = 4_102_444_800_000;

/// Wall time in Unix milliseconds, where it can be true.
pub fn wall_ms() -> Option<i64> {
    plausible(Timestamp::now())
}

fn plausible(at: Timestamp) -> Option<i64> {
    Some(at.as_millisecond()).filter(|unix_ms| (PLAUSIBLE_FROM_MS..PLAUSIBLE_BEFORE_MS).contains(unix_ms))
}

/// The house's business days: each begins at `gateway.business_day_starts` in `gateway.time_zone`.
#[derive(Debug, Clone)]
pub struct BusinessDays {
    time_zone: TimeZone,
    starts: civil::Time,
}

impl Default for BusinessDays {
    fn default() -> BusinessDays {
        BusinessDays { time_zone: TimeZone::UTC, starts: civil::Time::midnight() }
    }
}

/// The device's clock, and the house's business day. Cheap to clone; clones agree.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    days: BusinessDays,
    /// The business day that was looked up last: it is asked for several times an order, and the rules of a time zone are dear.
    today: Cell<Day>,
}

/// A business day: its number, and all instants of it.
#[derive(Debug, Clone, Copy)]
struct Day {
    number: i32,
    begins: Timestamp,
    ends: Timestamp,
}

/// Holds no instant.
const NO_DAY: Day = Day { number: 0, begins: Timestamp::MAX, ends: Timestamp::MIN };

impl Clock {
    /// A clock whose monotonic time begins now.
    pub fn new(config: &Config) -> Clock {
        Clock::of(BusinessDays::new(config))
    }

    fn of(days: BusinessDays) -> Clock {
        Clock { start: Instant::now(), days, today: Cell::new(NO_DAY) }
    }

    /// What it shows.
    pub fn now(&self) -> Now {
        // 500 million years of running time fit.
        let mono_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, wall: self.wall(Timestamp::now()) }
    }

    fn wall(&self, at: Timestamp) -> Option<Wall> {
        plausible(at).map(|unix_ms| Wall { unix_ms, business_day: self.business_day(at) })
    }

    /// The business day at a wall time in Unix milliseconds.
    pub fn day_of(&self, unix_ms: i64) -> i32 {
        // A time that no calendar has is as good as any other day.
        Timestamp::from_millisecond(unix_ms).map_or(0, |at| self.days.look_up(at).number)
    }

    fn business_day(&self, at: Timestamp) -> i32 {
        let today = self.today.get();
        if today.begins <= at && at < today.ends {
            return today.number;
        }
        let day = self.days.look_up(at);
        self.today.set(day);
        day.number
    }
}

impl BusinessDays {
    /// Those of the config.
    pub fn new(config: &Config) -> BusinessDays {
        BusinessDays { time_zone: config.gateway.time_zone.clone(), starts: config.gateway.business_day_starts }
    }

    /// The day of a wall time in Unix milliseconds; `None` for a time that no calendar has.
    pub fn day_of(&self, unix_ms: i64) -> Option<civil::Date> {
        let number = self.look_up(Timestamp::from_millisecond(unix_ms).ok()?).number;
        civil::date(1970, 1, 1).checked_add(jiff::Span::new().try_days(number).ok()?).ok()
    }

    /// All of a day, in Unix milliseconds; `None` for one at the ends of the calendar.
    pub fn span_ms(&self, day: civil::Date) -> Option<Range<i64>> {
        let start = |day: civil::Date| Some(self.start(day)?.as_millisecond());
        Some(start(day)?..start(day.tomorrow().ok()?)?)
    }

    fn start(&self, day: civil::Date) -> Option<Timestamp> {
        Some(day.to_datetime(self.starts).to_zoned(self.time_zone.clone()).ok()?.timestamp())
    }

    /// The last day whose start is not after `at`. Asked by instants, not by the time on the wall, so that it never goes back when
    /// the clocks do: a start that they show twice counts the first time, one that they skip counts when it would have come.
    fn look_up(&self, at: Timestamp) -> Day {
        let start = |day| self.start(day);
        let shown = at.to_zoned(self.time_zone.clone()).date();
        let candidates = [shown.tomorrow().unwrap_or(shown), shown];
        let begun = candidates.into_iter().find(|day| start(*day).is_some_and(|start| start <= at));
        let day = begun.unwrap_or_else(|| shown.yesterday().unwrap_or(shown));
        let ends = day.tomorrow().ok().and_then(start);
        match (start(day), ends) {
            (Some(begins), Some(ends)) => Day { number: day_number(day), begins, ends },
            // At the ends of the calendar: looked up each time.
            _ => Day { number: day_number(day), ..NO_DAY },
        }
    }
}

fn day_number(day: civil::Date) -> i32 {
    let epoch = civil::date(1970, 1, 1);
    epoch.until(day).map_or(0, |span| span.get_days())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    fn clock(zone: &str, starts: (i8, i8)) -> Clock {
        Clock::of(BusinessDays { time_zone: TimeZone::get(zone).unwrap(), starts: civil::time(starts.0, starts.1, 0, 0) })
    }

    /// The business day of an instant, as a date.
    fn day(clock: &Clock, at: &str) -> String {
        let wall = clock.wall(at.parse().unwrap()).unwrap();
        (civil::date(1970, 1, 1) + wall.business_day.days()).to_string()
    }

    #[test]
    fn a_day_spans_what_belongs_to_it_also_when_the_clocks_change() {
        let days = clock("Europe/Berlin", (4, 0)).days;
        for (date, hours) in [((2025, 3, 29), 23), ((2025, 3, 30), 24), ((2025, 10, 25), 25), ((2025, 6, 1), 24)] {
            let date = civil::date(date.0, date.1, date.2);
            let span = days.span_ms(date).unwrap();
            assert_eq!(span.end - span.start, hours * 3_600_000, "{date}");
            assert_eq!(
                [span.start - 1, span.start, span.end - 1, span.end].map(|at| days.day_of(at).unwrap()),
                [date.yesterday().unwrap(), date, date, date.tomorrow().unwrap()]
            );
        }
    }

    #[test]
    fn a_business_day_begins_at_its_hour_in_the_house() {
        let berlin = clock("Europe/Berlin", (4, 0));
        assert_eq!(day(&berlin, "2026-01-10T02:59:59.999Z"), "2026-01-09");
        assert_eq!(day(&berlin, "2026-01-10T03:00:00Z"), "2026-01-10");
        assert_eq!(day(&berlin, "2026-07-10T01:59:59Z"), "2026-07-09");
        assert_eq!(day(&berlin, "2026-07-10T02:00:00Z"), "2026-07-10");
        let midnight = clock("America/Los_Angeles", (0, 0));
        assert_eq!(day(&midnight, "2026-01-10T07:59:59Z"), "2026-01-09");
        assert_eq!(day(&midnight, "2026-01-10T08:00:00Z"), "2026-01-10");
        let late = clock("Pacific/Auckland", (23, 30));
        assert_eq!(day(&late, "2026-07-10T11:29:00Z"), "2026-07-09");
        assert_eq!(day(&late, "2026-07-10T11:30:00Z"), "2026-07-10");
    }

    #[test]
    fn a_start_that_the_clocks_skip_counts_when_it_would_have_come() {
        // On 2026-03-29 Berlin goes from 02:00 to 03:00, at 01:00Z.
        let berlin = clock("Europe/Berlin", (2, 30));
        assert_eq!(day(&berlin, "2026-03-29T01:29:59Z"), "2026-03-28");
        assert_eq!(day(&berlin, "2026-03-29T01:30:00Z"), "2026-03-29");
        assert_eq!(day(&berlin, "2026-03-30T00:29:59Z"), "2026-03-29");
        assert_eq!(day(&berlin, "2026-03-30T00:30:00Z"), "2026-03-30");
    }

    #[test]
    fn a_business_day_never_goes_back_when_the_clocks_do() {
        // On 2026-10-25 Berlin goes from 03:00 back to 02:00, at 01:00Z: 02:30 is shown at 00:30Z and at 01:30Z.
        let berlin = clock("Europe/Berlin", (2, 30));
        assert_eq!(day(&berlin, "2026-10-25T00:29:59Z"), "2026-10-24");
        for after in ["00:30:00", "00:59:59", "01:00:00", "01:29:59", "01:30:00"] {
            assert_eq!(day(&berlin, &format!("2026-10-25T{after}Z")), "2026-10-25", "{after}");
        }
    }

    /// Every ten minutes of two years, in zones with unusual changes.
    #[test]
    fn business_days_follow_each_other_without_a_gap() {
        for zone in ["Europe/Berlin", "Australia/Lord_Howe", "America/Santiago", "Africa/Casablanca", "Asia/Kathmandu"] {
            for starts in [(0, 0), (2, 30), (4, 0), (23, 59)] {
                let clock = clock(zone, starts);
                let mut last = clock.business_day("2025-12-31T00:00:00Z".parse().unwrap());
                let mut at: Timestamp = "2025-12-31T00:00:00Z".parse().unwrap();
                let end: Timestamp = "2028-01-01T00:00:00Z".parse().unwrap();
                while at < end {
                    let day = clock.business_day(at);
                    assert_eq!(day, clock.days.look_up(at).number, "{zone} {starts:?} {at}: what was kept is not what holds");
                    assert!(day == last || day == last + 1, "{zone} {starts:?} {at}: {last} then {day}");
                    last = day;
                    at += 10.minutes();
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_never_set_tells_no_wall_time() {
        let clock = clock("UTC", (4, 0));
        for unset in ["1970-01-01T00:05:00Z", "2023-12-31T23:59:59Z", "2100-01-01T00:00:00Z"] {
            assert_eq!(clock.wall(unset.parse().unwrap()), None, "{unset}");
        }
        assert_eq!(clock.wall("2024-01-01T04:00:00Z".parse().unwrap()), Some(Wall { unix_ms: 1_704_081_600_000, business_day: 19_723 }));
    }

    #[test]
    fn monotonic_time_does_not_go_back() {
        let clock = clock("UTC", (4, 0));
        let (one, other) = (clock.now(), clock.clone().now());
        assert!(one.mono_ms <= other.mono_ms);
    }
}
