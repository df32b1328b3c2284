//! Taking the events out of a store, as JSON lines that [`crate::import`] and people can read.
//!
//! ```json
//! {"gateway":"store-042","epoch":"0192a1b2c3d4e5f6","seq":90211,"terminal":"till-1","requestId":"01JC","event":{…}}
//! ```
//! `event` is what Kafka would get. A dead letter has `"dead":{"reason","sinceMs","attempts"}` besides, a held event
//! `"heldBehind":SEQ`, and an event from a time at which the clock was unknown `"clock":"unset"`. Dead and held ones come first, then the
//! outbox: so the seqs of each of the three rise.

use crate::disk::Read;
use crate::error::ReadError;
use crate::layout::{Kind, key, value};
use crate::reads;
use gateway::dialect::Dialect;
use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Name, Seq};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io::{self, Write};

/// An export that broke off. The store is as it was; what was written so far can be imported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
    /// The lines cannot be written.
    #[error("the lines cannot be written")]
    Write(#[from] io::Error),
}

/// How many lines were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Events of the outbox.
    pub queued: u64,
    /// Dead letters.
    pub dead: u64,
    /// Held events.
    pub held: u64,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Line {
    pub gateway: Name,
    /// 16 hex digits.
    pub epoch: String,
    pub seq: u64,
    pub terminal: Name,
    pub request_id: String,
    pub event: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<DeadMark>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_behind: Option<u64>,
}

/// What a dead letter's line says besides.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeadMark {
    pub reason: String,
    pub since_ms: i64,
    pub attempts: u32,
}

/// Writes every event that Kafka has not got: dead letters, held events, and the outbox above the progress.
pub(crate) fn export<R: Read>(disk: &R, gateway: &Name, mut out: impl Write) -> Result<ExportReport, ExportError> {
    let mut report = ExportReport::default();
    each(disk, key::all_dead(), |key, bytes| {
        let Kind::Dead(seq) = Kind::read(key)? else { return Ok(()) };
        let letter = value::dead_letter(key, bytes)?;
        let mut line = line(gateway, seq, &letter.event)?;
        line.dead = Some(DeadMark { reason: letter.reason, since_ms: letter.since_ms, attempts: letter.attempts });
        report.dead += 1;
        write(&mut out, &line)
    })?;
    each(disk, key::all_held(), |key, bytes| {
        let Kind::Held(dead, seq) = Kind::read(key)? else { return Ok(()) };
        let mut line = line(gateway, seq, &value::event(key, bytes)?)?;
        line.held_behind = Some(dead.0);
        report.held += 1;
        write(&mut out, &line)
    })?;
    let above = key::all_queued().from(key::queued(reads::progress(disk)?.next()));
    each(disk, above, |key, bytes| {
        let Kind::Queued(seq) = Kind::read(key)? else { return Ok(()) };
        report.queued += 1;
        write(&mut out, &line(gateway, seq, &value::queued(key, bytes)?)?)
    })?;
    out.flush()?;
    Ok(report)
}

/// [`reads::for_each`] with a step that may also fail to write.
fn each<R: Read>(
    disk: &R,
    range: crate::layout::Range,
    mut step: impl FnMut(&[u8], &[u8]) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut failed = Ok(());
    reads::for_each(disk, range, |key, bytes| {
        if failed.is_ok() {
            failed = step(key, bytes);
        }
        Ok(())
    })?;
    failed
}

fn line(gateway: &Name, seq: Seq, event: &OrderEvent) -> Result<Line, ExportError> {
    let outgoing = Dialect::OrderEvent.encode(gateway, seq, event);
    Ok(Line {
        gateway: gateway.clone(),
        epoch: event.epoch.to_string(),
        seq: seq.0,
        terminal: event.request.terminal.clone(),
        request_id: event.request.request_id.to_string(),
        event: serde_json::from_slice(&outgoing.value).map_err(io::Error::from)?,
        clock: (event.clock == Clock::Unset).then(|| event.clock.as_str().to_owned()),
        dead: None,
        held_behind: None,
    })
}

fn write(out: &mut impl Write, line: &Line) -> Result<(), ExportError> {
    let mut bytes = serde_json::to_vec(line).map_err(io::Error::from)?;
    bytes.push(b'\n');
    Ok(out.write_all(&bytes)?)
}
