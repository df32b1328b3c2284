//! What to do about a broker that sends what cannot be read.
//!
//! A packet that rumqttc cannot read ends the connection, and nothing behind it is read. Noise does not come twice. A message that the
//! broker keeps for our session does, at every connect; and one that it retains comes back with every subscription, clean start or not.

/// How often in a row connections ended so. It outlives them.
#[derive(Debug, Default)]
pub struct Unreadable {
    seen: u32,
}

/// How the next connection gets past it. Each gives up more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// None: the session goes on.
    Resume,
    /// The broker forgets the session, with all that waits in it: terminals submit it again.
    CleanStart,
    /// As before, and the broker keeps what it retains to itself: terminals' states are not known, old statuses stay.
    NothingRetained,
}

impl Unreadable {
    /// A connection ended. `good`: it had served for a while, so what went before has nothing to do with it.
    pub fn ended(&mut self, unreadable: bool, good: bool) {
        if good {
            self.seen = 0;
        }
        if unreadable {
            self.seen = self.seen.saturating_add(1);
        }
    }

    pub fn remedy(&self) -> Remedy {
        match self.seen {
            0 | 1 => Remedy::Resume,
            2 => Remedy::CleanStart,
            _ => Remedy::NothingRetained,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_in_a_row_more_is_given_up_until_a_connection_is_good() {
        let mut unreadable = Unreadable::default();
        let mut after = |broken: bool, good: bool| {
            unreadable.ended(broken, good);
            unreadable.remedy()
        };
        assert_eq!(after(true, false), Remedy::Resume, "it may have been noise");
        assert_eq!(after(true, false), Remedy::CleanStart);
        assert_eq!(after(false, false), Remedy::CleanStart, "the broker was not there");
        assert_eq!([after(true, false), after(true, false)], [Remedy::NothingRetained; 2]);
        assert_eq!(after(false, true), Remedy::Resume);
        assert_eq!([after(true, true), after(true, true)], [Remedy::Resume; 2], "the first since long");
    }
}
