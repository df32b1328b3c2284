//! How much a run met: a simulator that meets nothing finds nothing.

/// How much a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers by kind.
    pub stored: u64,
    /// Repeats.
    pub duplicates: u64,
    /// Rejections.
    pub rejected: u64,
    /// Commits that were durable.
    pub commits: u64,
    /// Status records that changed something.
    pub statuses: u64,
    /// Orders whose time on the board was over.
    pub closings: u64,
    /// Remembered things that expired.
    pub expired: u64,
    /// Dead letters and held events.
    pub buried: u64,
    /// Starts of a gateway process.
    pub lives: u64,
    /// Starts and reopenings that found a commit of unclear outcome.
    pub unclear: u64,
    /// Copies in Kafka of what was there already.
    pub repeats: u64,
    /// Events that were appended again after a person's decision.
    pub released: u64,
    /// Alarms that somebody has seen.
    pub seen: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            stored: self.stored + other.stored,
            duplicates: self.duplicates + other.duplicates,
            rejected: self.rejected + other.rejected,
            commits: self.commits + other.commits,
            statuses: self.statuses + other.statuses,
            closings: self.closings + other.closings,
            expired: self.expired + other.expired,
            buried: self.buried + other.buried,
            lives: self.lives + other.lives,
            unclear: self.unclear + other.unclear,
            repeats: self.repeats + other.repeats,
            released: self.released + other.released,
            seen: self.seen + other.seen,
        }
    }
}
