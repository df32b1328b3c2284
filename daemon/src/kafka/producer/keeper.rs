//! What may take long and must not keep the event loop: making and dropping handles, and asking about the line.

use super::handle::Handle;
use super::{Current, Mailbox, Report, UplinkReport, UplinkSettings, lock};
use crate::kafka::client::Voice;
use crate::kafka::errors::reason;
use gateway::ids::ProducerId;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Handles that hung while they were dropped. Beyond it no new one is made: each holds memory and connections.
const ABANDONED_MAX: u32 = 4;
/// The line is asked about this often while it is down …
const PROBE_DOWN: Duration = Duration::from_secs(2);
/// … and while it is up and something is on its way, unless an acknowledgement came meanwhile: a dead line says nothing by itself.
const PROBE_UP: Duration = Duration::from_secs(5);
/// While it is up and nothing is on its way.
const PROBE_IDLE: Duration = Duration::from_secs(15);
/// An answer to that is waited for this long.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// How long brokers may refuse our password or certificate, or we theirs, before the handle is given up …
const REFUSED_PATIENCE: Duration = Duration::from_secs(5);
/// … and how long nothing is tried then: librdkafka alone would try again every second, for months and from every gateway.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// What the keeper is told.
pub(super) enum Command {
    /// Make a new handle, and drop the older one first.
    New(ProducerId),
    /// Wait at most so long for what is in flight, then end.
    Stop(Duration),
}

/// Whether the brokers can be reached.
pub(super) struct Line {
    up: AtomicBool,
    /// Something was acknowledged since the keeper last looked.
    acknowledged: AtomicBool,
    /// Since when the brokers refuse us, or we them, and why.
    refused: Mutex<Option<(Instant, String)>>,
    report: Report,
}

impl Line {
    pub(super) fn new(report: Report) -> Line {
        Line { up: AtomicBool::new(false), acknowledged: AtomicBool::new(false), refused: Mutex::default(), report }
    }

    /// An event was acknowledged.
    pub(super) fn acknowledged(&self) {
        self.acknowledged.store(true, Ordering::Relaxed);
        self.set(true, "an event was acknowledged");
    }

    /// A broker answered lately.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// What a client says about its connections.
    fn hear(&self, code: RDKafkaErrorCode, text: &str) {
        match code {
            RDKafkaErrorCode::AllBrokersDown => self.set(false, text),
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL => self.refused(text),
            // A certificate that is not believed comes as a lost connection; its text is all there is to tell it by.
            _ if text.contains("SSL") => self.refused(text),
            _ => {}
        }
    }

    fn refused(&self, why: &str) {
        lock(&self.refused).get_or_insert_with(|| (Instant::now(), why.to_owned()));
    }

    fn set(&self, up: bool, why: &str) {
        if up {
            *lock(&self.refused) = None;
        }
        if self.is_up() != up && self.up.swap(up, Ordering::Relaxed) != up {
            match up {
                true => tracing::info!(why, "kafka is reached"),
                false => tracing::warn!(why, "kafka is out of reach"),
            }
            (self.report)(UplinkReport::Line { up });
        }
    }
}

/// Makes and drops handles, and asks about the line: all that may take long.
pub(super) struct Keeper {
    settings: UplinkSettings,
    inbox: Receiver<Command>,
    current: Arc<Mutex<Current>>,
    report: Report,
    line: Arc<Line>,
    abandoned: u32,
    /// When a broker last answered, as far as the keeper looked.
    answered: Instant,
    /// One for all handles: a new one begins with what the older one said already.
    voice: Arc<Voice>,
    topic_trouble: Option<RDKafkaErrorCode>,
}

impl Keeper {
    pub(super) fn new(
        settings: UplinkSettings,
        inbox: Receiver<Command>,
        current: Arc<Mutex<Current>>,
        report: Report,
        line: Arc<Line>,
    ) -> Keeper {
        let heard = Arc::clone(&line);
        let voice = Arc::new(Voice::new("uplink", move |code, text| heard.hear(code, text)));
        Keeper { settings, inbox, current, report, line, abandoned: 0, answered: Instant::now(), voice, topic_trouble: None }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.inbox.recv_timeout(self.pause()) {
                Ok(Command::New(producer)) => self.renew(producer),
                Ok(Command::Stop(flush)) => return self.stop(flush),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return self.stop(Duration::ZERO),
            }
        }
    }

    fn pause(&self) -> Duration {
        match &*lock(&self.current) {
            Current::Refused { until, .. } => until.saturating_duration_since(Instant::now()),
            Current::Nothing | Current::Handle(_) if self.line.is_up() => PROBE_UP,
            Current::Nothing | Current::Handle(_) => PROBE_DOWN,
        }
    }

    fn look(&mut self) {
        let again = match &*lock(&self.current) {
            Current::Refused { mailbox, .. } => Some(mailbox.producer),
            Current::Nothing | Current::Handle(_) => None,
        };
        let refused = lock(&self.line.refused).clone().filter(|(since, _)| since.elapsed() >= REFUSED_PATIENCE);
        match (again, refused) {
            (Some(producer), _) => self.try_again(producer),
            (None, Some((_, why))) => self.refuse(why),
            (None, None) => self.probe(),
        }
    }

    /// Gives the handle up for a while; all that it holds fails.
    fn refuse(&mut self, why: String) {
        tracing::error!(why, pause_s = REFUSED_PAUSE.as_secs(), "kafka refuses this gateway, or cannot prove who it is");
        let until = Instant::now() + REFUSED_PAUSE;
        // At no time does nobody report on what is delivered.
        let handle = {
            let mut current = lock(&self.current);
            match std::mem::take(&mut *current) {
                Current::Handle(handle) => {
                    *current = Current::Refused { mailbox: Arc::clone(handle.mailbox()), why: why.clone(), until };
                    handle
                }
                other @ (Current::Nothing | Current::Refused { .. }) => {
                    *current = other;
                    return;
                }
            }
        };
        handle.refuse(&why);
        self.retire(handle);
        *lock(&self.line.refused) = None;
    }

    /// A new handle under the name of the one that was given up: the core knows no other.
    fn try_again(&mut self, producer: ProducerId) {
        if let Err(why) = self.make(producer) {
            let mailbox = Arc::new(Mailbox::new(producer));
            *lock(&self.current) = Current::Refused { mailbox, why, until: Instant::now() + REFUSED_PAUSE };
        }
    }

    fn retire(&mut self, handle: Handle) {
        if !handle.retire() {
            self.abandoned += 1;
        }
    }

    fn renew(&mut self, producer: ProducerId) {
        let older = std::mem::take(&mut *lock(&self.current));
        if let Current::Handle(older) = older {
            self.retire(older);
        }
        if let Err(reason) = self.make(producer) {
            tracing::error!(producer = producer.0, reason, "kafka producer could not be made");
            return (self.report)(UplinkReport::Failed { producer, reason });
        }
        (self.report)(UplinkReport::Ready(producer));
        self.probe();
    }

    fn make(&mut self, producer: ProducerId) -> Result<(), String> {
        if self.abandoned >= ABANDONED_MAX {
            return Err(format!("{} older handles hang; the daemon must be started anew", self.abandoned));
        }
        let config = self.settings.config();
        let (report, line, voice) = (Arc::clone(&self.report), Arc::clone(&self.line), Arc::clone(&self.voice));
        *lock(&self.current) = Current::Handle(Handle::make(producer, &config, report, line, voice)?);
        Ok(())
    }

    /// Asks a broker about the topic. The answer says that the line is up; while acknowledgements come, nothing needs to be asked.
    fn probe(&mut self) {
        if self.line.acknowledged.swap(false, Ordering::Relaxed) {
            self.answered = Instant::now();
            return;
        }
        let Some(producer) = lock(&self.current).handle().map(Handle::producer) else {
            return;
        };
        let idle = self.line.is_up() && producer.in_flight_count() == 0;
        if idle && self.answered.elapsed() < PROBE_IDLE {
            return;
        }
        let topic = self.settings.connection.kafka.topic.as_str();
        match producer.client().fetch_metadata(Some(topic), PROBE_LIMIT) {
            Ok(metadata) => {
                self.answered = Instant::now();
                self.line.set(true, "a broker answered");
                let trouble = metadata.topics().first().and_then(|topic| topic.error()).map(RDKafkaErrorCode::from);
                if trouble.is_some() && trouble != self.topic_trouble {
                    tracing::warn!(topic, ?trouble, "kafka does not take events for this topic");
                }
                self.topic_trouble = trouble;
            }
            Err(error) if !self.line.acknowledged.load(Ordering::Relaxed) => self.line.set(false, &reason(&error)),
            Err(_) => {}
        }
    }

    fn stop(&mut self, flush: Duration) {
        let Current::Handle(handle) = std::mem::take(&mut *lock(&self.current)) else {
            return;
        };
        if let Err(error) = handle.producer().flush(flush) {
            tracing::info!(reason = reason(&error), "events in flight stay in the outbox");
        }
        handle.retire();
    }
}
