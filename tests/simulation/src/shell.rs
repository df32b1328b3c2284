//! The shell around the core: it carries out what the core asks for, with all the delays and losses that a real one meets.

use crate::breakage::Breakage;
use crate::centre::Meaning;
use crate::disk::Fate;
use crate::faults::Fault;
use crate::kafka::{Batch, EVENTS, LogRecord, partition_of};
use crate::model::{Check, Violation};
use crate::store_thread::{Job, Step};
use crate::terminals;
use crate::world::{Event, World};
use gateway::ids::{ProducerId, Seq};
use gateway::io::{Delivery, FailureClass, Input, Output};
use gateway::time::Now;
use std::sync::Arc;

impl World {
    /// Lets the model see an output.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_output(&mut self, now: Now, output: &Output) -> Check {
        match output {
            Output::Answer { reply_to, answer } => self.model.answered(now, *reply_to, answer),
            Output::SessionOpened { reply_to, durable } => {
                let session = self.sessions_asked.get(reply_to);
                let stored = session
                    .is_some_and(|(who, session)| self.model.image.sessions.contains_key(&(self.terminals[*who].name.clone(), *session)));
                self.model.session_opened(*reply_to, durable.then_some(stored))
            }
            Output::Decided { reply_to, outcome } => self.model.decided(*reply_to, *outcome),
            Output::Deliver { producer, seq, event } => self.model.delivering(*producer, *seq, event),
            Output::NewProducer { producer } => self.model.producer_wanted(*producer),
            Output::Show(orders) => self.model.shown(orders),
            Output::ShowBoard(board) => self.model.board_shown(board),
            Output::Notice(notice) => self.model.noticed(notice),
            Output::Load { .. } | Output::Store { .. } | Output::Reopen | Output::Read { .. } | Output::Sweep { .. } => Ok(()),
        }
    }

    /// Does what the core asks for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn carry_out(&mut self, output: Output) -> Check {
        match output {
            Output::Load { load, wanted } => self.read(Step::Load(load, wanted)),
            Output::Read { from, events_max, bytes_max } => self.read(Step::Read { from, events_max, bytes_max }),
            Output::Sweep { from, keys_max, old } => self.read(Step::Sweep { from, keys_max, old }),
            Output::Store { commit, batch } => {
                let batch = Arc::new(batch);
                self.model.committing(self.clock(), commit, &batch)?;
                self.job(Job::Commit(commit, batch));
            }
            Output::Reopen => self.job(Job::Reopen),
            Output::Answer { reply_to, answer } => self.answer(reply_to, answer),
            Output::SessionOpened { reply_to, durable } => {
                if let Some((who, session)) = self.sessions_asked.remove(&reply_to) {
                    let after = self.dice.between(0, 40);
                    self.at(after, Event::Terminal(who, terminals::Step::Session(session, durable)));
                }
            }
            Output::Deliver { producer, seq, event } => {
                if let Some(handle) = self.kafka.handle(producer) {
                    let partition = handle.take(seq, event);
                    self.send_soon(producer, partition);
                }
            }
            Output::NewProducer { producer } => {
                self.drop_handle();
                let after = self.kafka_delay();
                self.at(after, Event::Make { life: self.life, producer });
            }
            Output::Decided { .. } | Output::Show(_) | Output::ShowBoard(_) | Output::Notice(_) => {}
        }
        Ok(())
    }

    fn read(&mut self, step: Step) {
        let after = if self.storm(Fault::SlowReads) { self.dice.below(300) } else { self.dice.below(3) };
        self.at(after, Event::Store { life: self.life, generation: self.store.generation, step });
    }

    fn job(&mut self, job: Job) {
        if self.store.push(job) {
            self.begin_job();
        }
    }

    fn begin_job(&mut self) {
        let after = self.dice.below(3);
        self.at(after, Event::Store { life: self.life, generation: self.store.generation, step: Step::Begin });
    }

    /// A thread of the store takes a step.
    ///
    /// # Errors
    /// The core broke one of the store's bounds.
    pub fn store_step(&mut self, step: Step) -> Check {
        match step {
            Step::Begin => self.begin_front(),
            Step::End => self.end_front(),
            Step::Load(..) | Step::Read { .. } | Step::Sweep { .. } => {
                self.read_now(step);
                Ok(())
            }
        }
    }

    fn begin_front(&mut self) -> Check {
        let Some(job) = self.store.front().cloned() else { return Ok(()) };
        if let Job::Commit(_, batch) = &job {
            if self.storm(Fault::UnclearCommit) && self.dice.chance(60) {
                let happened = self.dice.chance(500);
                self.store.disk.platter().fate = Fate::Unclear { happened };
            }
            self.store.write(batch).map_err(|reason| Violation(format!("the store refuses a batch: {reason}")))?;
        }
        let (low, high) = self.profile.sync_ms;
        let mut takes = self.dice.between(low, high);
        if self.storm(Fault::SlowDisk) && self.dice.chance(30) {
            takes = self.dice.between(5_000, 30_000);
        }
        self.at(takes, Event::Store { life: self.life, generation: self.store.generation, step: Step::End });
        Ok(())
    }

    fn end_front(&mut self) -> Check {
        let skips = self.breakage == Some(Breakage::SkipsASync) && self.dice.chance(200);
        let Some((job, written)) = self.store.end(skips) else { return Ok(()) };
        let input = match job {
            Job::Commit(commit, _) => match written {
                Ok(()) => Input::Stored { commit },
                Err(failure) => Input::StoreFailed { commit, failure },
            },
            Job::Reopen => self.reopen(),
        };
        if self.store.front().is_some() {
            self.begin_job();
        }
        // One channel, in order: a crash may come before the core hears of it.
        self.at(1, Event::Input { life: self.life, input });
        Ok(())
    }

    fn reopen(&mut self) -> Input {
        if self.storm(Fault::ReopenFails) && self.dice.chance(400) {
            self.store.disk.platter().reopen_fails = true;
        }
        let store = self.store.store.as_mut().expect("a living gateway has a store");
        let input = match store.reopen() {
            Ok(opened) => Input::Reopened(Box::new(opened)),
            Err(_) => Input::ReopenFailed,
        };
        // What was asked of the store before is never answered.
        self.store.generation += 1;
        input
    }

    fn read_now(&mut self, step: Step) {
        if self.storm(Fault::ReadError) && self.dice.chance(10) {
            self.store.disk.platter().read_fails = true;
        }
        let store = self.store.store();
        let input = match step {
            Step::Load(load, wanted) => match store.load(&wanted) {
                Ok(found) => Input::Loaded { load, found },
                Err(_) => Input::LoadFailed { load },
            },
            Step::Read { from, events_max, bytes_max } => match store.read_head(from, events_max, bytes_max) {
                Ok(events) => Input::Head { events },
                Err(_) => Input::HeadFailed,
            },
            Step::Sweep { from, keys_max, old } => match store.sweep(from.as_ref(), keys_max, old) {
                Ok((expired, next)) => Input::Swept { expired, next },
                Err(_) => Input::Swept { expired: vec![], next: from },
            },
            Step::Begin | Step::End => return,
        };
        self.store.disk.platter().read_fails = false;
        let after = if self.storm(Fault::SlowReads) { self.dice.below(300) } else { 0 };
        self.at(after, Event::Read { generation: self.store.generation, input });
    }

    fn kafka_delay(&mut self) -> u64 {
        let (low, high) = self.profile.kafka_ms;
        self.dice.between(low, high)
    }

    /// The handle is made, or not.
    ///
    /// # Errors
    /// What the core does wrong.
    pub fn make(&mut self, life: u32, producer: ProducerId) -> Check {
        if life != self.life || self.gateway.is_none() || producer != self.model.producer() {
            return Ok(());
        }
        if self.storm(Fault::NoProducer) && self.dice.chance(400) {
            return self.feed(Input::ProducerFailed { producer, class: FailureClass::Hold, reason: "no producer could be made".into() });
        }
        self.kafka.make(producer);
        self.feed(Input::ProducerReady { producer, delivered: None })
    }

    /// The handle is dropped with all that it holds; what was on the wire may still arrive.
    pub fn drop_handle(&mut self) {
        let Some(mut handle) = self.kafka.handle.take() else { return };
        if handle.broken || !self.storm(Fault::LateAppend) {
            return;
        }
        for partition in 0..handle.queues.len() {
            let on_the_wire = self.dice.index(4);
            let batch = handle.next_batch(partition, on_the_wire);
            // A poisonous event is refused whenever it arrives, and what is behind it with it.
            let sound: Batch = batch.into_iter().take_while(|(_, event)| self.mended || !is_poison(event)).collect();
            if !sound.is_empty() {
                let after = self.dice.between(1, 2_000);
                self.at(after, Event::LateAppend(partition, sound));
            }
        }
    }

    fn send_soon(&mut self, producer: ProducerId, partition: usize) {
        let after = self.kafka_delay();
        let Some(handle) = self.kafka.handle(producer) else { return };
        if !handle.busy[partition] {
            handle.busy[partition] = true;
            self.at(after, Event::Send { producer, partition });
        }
    }

    /// The line is there again: what waited goes on.
    pub fn kafka_is_back(&mut self) {
        if self.outage {
            return;
        }
        let after = self.kafka_delay();
        if let Some(handle) = &self.kafka.handle {
            let (producer, partitions) = (handle.id, handle.queues.len());
            for partition in 0..partitions {
                self.at(after, Event::Send { producer, partition });
            }
        }
        self.at(after, Event::Consume);
    }

    /// The producer sends the next batch of a partition.
    ///
    /// # Errors
    /// What the gateway did wrong.
    pub fn send(&mut self, producer: ProducerId, partition: usize) -> Check {
        let events_max = self.profile.kafka_batch;
        let (outage, gapless) = (self.outage, self.breakage != Some(Breakage::LeavesAGap));
        let Some(handle) = self.kafka.handle(producer) else { return Ok(()) };
        if handle.broken || outage {
            return Ok(());
        }
        handle.busy[partition] = false;
        let batch = handle.next_batch(partition, events_max);
        if batch.is_empty() {
            return Ok(());
        }
        let fate = self.fate_of(&batch);
        match fate {
            Fortune::Taken => {
                let next = self.kafka.logs[EVENTS][partition].len();
                self.append_events(partition, &batch)?;
                for (offset, (seq, _)) in (next..).zip(batch) {
                    self.report_later(producer, partition, seq, acknowledged(partition, offset));
                }
            }
            Fortune::Forgotten => {
                for (seq, _) in batch {
                    self.report_later(producer, partition, seq, acknowledged(partition, 0));
                }
            }
            Fortune::Refused { class, appended } => {
                if appended {
                    self.append_events(partition, &batch)?;
                }
                let failed = |class| Delivery::Failed { class, reason: "simulated".into() };
                for (seq, _) in batch {
                    self.report_later(producer, partition, seq, failed(class));
                }
                // Gapless: nothing that follows may pass a batch that failed for good.
                if gapless && let Some(handle) = self.kafka.handle(producer) {
                    handle.broken = true;
                    for (seq, event) in handle.drain() {
                        let partition = partition_of(event.order_id.as_str());
                        self.report_later(producer, partition, seq, failed(FailureClass::Recreate));
                    }
                }
            }
        }
        if self.kafka.handle(producer).is_some_and(|handle| !handle.broken && !handle.queues[partition].is_empty()) {
            self.send_soon(producer, partition);
        }
        Ok(())
    }

    fn fate_of(&mut self, batch: &Batch) -> Fortune {
        if self.breakage == Some(Breakage::AcknowledgesByItself) && self.dice.chance(100) {
            return Fortune::Forgotten;
        }
        if !self.mended && batch.iter().any(|(_, event)| is_poison(event)) {
            return Fortune::Refused { class: FailureClass::ThisEvent, appended: false };
        }
        let class = if self.storm(Fault::NotAuthorized) && self.dice.chance(30) {
            FailureClass::Person
        } else if self.storm(Fault::BatchFails) && self.dice.chance(100) {
            // Even one that is said to be about an event, though it is not.
            self.dice.pick(&[FailureClass::Hold, FailureClass::Recreate, FailureClass::Hold, FailureClass::ThisEvent])
        } else if self.storm(Fault::AckLost) && self.dice.chance(100) {
            return Fortune::Refused { class: FailureClass::Hold, appended: true };
        } else {
            return Fortune::Taken;
        };
        Fortune::Refused { class, appended: false }
    }

    fn report_later(&mut self, producer: ProducerId, partition: usize, seq: Seq, outcome: Delivery) {
        let after = self.kafka_delay();
        let now_ms = self.now_ms;
        let Some(handle) = self.kafka.handle(producer) else { return };
        let at = (now_ms + after).max(handle.reported_at[partition]);
        handle.reported_at[partition] = at;
        self.at(at - now_ms, Event::Report { life: self.life, producer, seq, outcome });
    }

    /// The producer's report reaches the core, unless its handle is gone.
    ///
    /// # Errors
    /// What the core does wrong.
    pub fn report(&mut self, life: u32, producer: ProducerId, seq: Seq, outcome: Delivery) -> Check {
        let replaced = self.kafka.handle.as_ref().is_some_and(|handle| handle.id != producer);
        if life != self.life || self.gateway.is_none() || replaced {
            return Ok(());
        }
        self.feed(Input::Delivered { producer, seq, outcome })
    }

    /// Kafka takes a batch.
    ///
    /// # Errors
    /// It should never have been sent.
    pub fn append_events(&mut self, partition: usize, batch: &Batch) -> Check {
        for (seq, event) in batch {
            let outgoing = self.profile.settings.dialect.encode(&self.profile.settings.gateway, *seq, event);
            let header = |name: &str| outgoing.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
            let epoch = header("gateway-epoch").and_then(|text| text.parse().ok());
            let named = header("gateway-seq") == Some(seq.to_string()) && epoch.is_some();
            if !named || partition_of(outgoing.key) != partition {
                return Err(Violation(format!("{seq} has wrong headers or another key: {outgoing:?}")));
            }
            let first = !self.model.kafka.has(*seq);
            self.model.appended(outgoing.key, epoch.unwrap_or_default(), *seq, event)?;
            let record = LogRecord {
                key: Some(outgoing.key.as_bytes().to_vec()),
                value: Some(outgoing.value),
                gateway_id: header("gateway-id"),
                epoch,
                meaning: Meaning::Nothing,
            };
            self.append(EVENTS, partition, record);
            if first {
                self.centre_reads(event);
            }
        }
        Ok(())
    }
}

fn acknowledged(partition: usize, offset: usize) -> Delivery {
    let (partition, offset) = (i32::try_from(partition).expect("few"), i64::try_from(offset).expect("few"));
    Delivery::Acknowledged { partition, offset }
}

/// What becomes of a batch.
enum Fortune {
    /// Appended, and acknowledged.
    Taken,
    /// Reported failed.
    Refused {
        /// How.
        class: FailureClass,
        /// It was appended all the same.
        appended: bool,
    },
    /// Acknowledged, and never appended: only a breakage does so.
    Forgotten,
}

fn is_poison(event: &gateway::event::OrderEvent) -> bool {
    event.user_id.as_deref() == Some("poison")
}
