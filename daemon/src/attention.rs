//! What a person should see to, in sentences: one place that says what is wrong and what to do, for /health and /operations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a sentence is about: there is one sentence each at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The line to Kafka is down.
    Line,
    /// A new store that is being rebuilt.
    NewCard,
    /// Another gateway that has our id.
    Stranger,
    /// Why Kafka does not take events.
    Kafka,
    /// The last reload.
    Config,
    /// Paired pages that are not any more.
    Pages,
    /// Certificates that expire.
    Certificates,
    /// A disk that is full, stalls or fails.
    Disk,
    /// Dead letters that wait for a decision.
    DeadLetters,
    /// The dead letter topic does not take them.
    DeadLetterTopic,
    /// Printers that do not print.
    Printers,
    /// Orders go out and no status comes back.
    Statuses,
}

/// The sentences. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Attention(Arc<Mutex<BTreeMap<Subject, String>>>);

impl Attention {
    /// Says it until something else, or nothing, is to be said about the subject; `true` if that is news.
    pub fn say(&self, subject: Subject, sentence: Option<String>) -> bool {
        let mut sentences = self.get();
        match sentence {
            Some(sentence) => sentences.insert(subject, sentence.clone()) != Some(sentence),
            None => sentences.remove(&subject).is_some(),
        }
    }

    /// All of them.
    pub fn sentences(&self) -> Vec<String> {
        self.get().values().cloned().collect()
    }

    fn get(&self) -> MutexGuard<'_, BTreeMap<Subject, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
