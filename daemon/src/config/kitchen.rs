//! `[kitchen]`: when a ticket stands out for its age.

use super::section::Section;

/// `[kitchen]`: how long a ticket may wait. `late_minutes` is more than `warn_minutes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kitchen {
    /// Minutes after which a ticket is marked.
    pub warn_minutes: u64,
    /// Minutes after which it is late.
    pub late_minutes: u64,
}

impl Default for Kitchen {
    fn default() -> Self {
        Kitchen { warn_minutes: 5, late_minutes: 10 }
    }
}

pub(super) fn read(mut section: Section<'_>) -> Kitchen {
    let default = Kitchen::default();
    let origin = section.origin().clone();
    let warn_minutes = section.within("warn_minutes", default.warn_minutes, 1..=240);
    let late_minutes = section.within("late_minutes", default.late_minutes, 2..=480);
    if late_minutes <= warn_minutes {
        section.problem(&origin, "late_minutes", format!("is {late_minutes}; give more than warn_minutes, which is {warn_minutes}"));
    }
    section.finish();
    Kitchen { warn_minutes, late_minutes }
}
