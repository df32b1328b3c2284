//! Whether a store still holds what its writer said.

use crate::writer::{self, Boot, Stored};
use anyhow::{Context, bail, ensure};
use gateway::ids::Seq;
use gateway::io::{Opened, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use store::{OfflineError, OpenError, SledDisk, Store};

/// Opens the store of a data folder as `store check` does.
///
/// # Errors
/// It does not open, or a record is wrong; also if there is none although something was stored.
pub fn check(data_dir: &Path, heard: &[Stored]) -> anyhow::Result<()> {
    match store::check(data_dir) {
        Ok(report) if report.problems_count == 0 => Ok(()),
        Ok(report) => bail!("store check finds: {}", report.problems.join("; ")),
        // The first start was cut off before there was one.
        Err(OfflineError::Open(OpenError::Missing { .. })) if heard.is_empty() => Ok(()),
        Err(error) => Err(error).context("store check refuses"),
    }
}

/// Opens the store of a data folder as the daemon does, and looks for all that was heard. Says whether it is a rescued one.
///
/// # Errors
/// It does not open or, unless it was `damaged` besides, had to be rescued; something that was heard is missing or there twice, or a batch is there in parts.
pub fn open(data_dir: &Path, boots: &[Boot], heard: &[Stored], damaged: bool) -> anyhow::Result<bool> {
    let (store, opened) = store::open_or_rescue(writer::options(data_dir), writer::gateway()).context("the store does not open")?;
    let aside = store::aside(data_dir)?;
    ensure!(damaged || aside.is_empty(), "a power cut alone left a store that had to be rescued: {aside:?}");
    let boots: BTreeMap<u64, &Boot> = boots.iter().map(|boot| (boot.number, boot)).collect();
    whole_batches(&opened, heard)?;
    let mut seen = BTreeSet::new();
    let mut from = opened.progress.next();
    while from < opened.next_seq {
        let events = store.read_head(from, 500, usize::MAX)?;
        ensure!(!events.is_empty(), "the outbox ends at {from}, before its end {}", opened.next_seq);
        for (seq, event) in events {
            let number = boot_of(event.order_id.as_str())?;
            let boot = boots.get(&number).with_context(|| format!("the event {seq} is of a boot that never was"))?;
            ensure!(*event == boot.event(seq.0), "the event {seq} is not what was stored");
            ensure!(seen.insert(event.order_id.clone()), "{} is queued twice", event.order_id);
            whole_order(&store, number, seq)?;
            from = seq.next();
        }
    }
    for stored in heard {
        for seq in stored.first..=stored.last {
            whole_order(&store, stored.boot, Seq(seq)).context("lost though it was heard")?;
            let queued = seen.contains(&writer::order_id(stored.boot, seq));
            ensure!(queued || seq <= opened.progress.0, "the event {seq} of boot {} is lost though it was heard", stored.boot);
        }
    }
    Ok(!aside.is_empty())
}

/// Compares what each batch writes besides its orders with the outbox.
fn whole_batches(opened: &Opened, heard: &[Stored]) -> anyhow::Result<()> {
    let ends: BTreeMap<_, _> = opened.offsets.iter().map(|(at, end)| (at.topic.as_str(), end.cast_unsigned())).collect();
    let end = ends.values().copied().max().unwrap_or(1);
    ensure!(opened.next_seq.0 == end, "the outbox ends at {}, and the last batch wrote {end}", opened.next_seq);
    let counted = opened.counters.running_ms + 1;
    ensure!(counted == end, "the counters are of the batch that ends at {counted}, the last one ends at {end}");
    for stored in heard {
        let end = ends.get(writer::partition(stored.boot).topic.as_str()).copied().unwrap_or(0);
        ensure!(end > stored.last, "the batch {stored:?} is lost though it was heard: the boot's last ends at {end}");
        ensure!(opened.progress.0 >= stored.progress, "the progress {} fell back behind {stored:?}", opened.progress);
    }
    Ok(())
}

fn whole_order(store: &Store<SledDisk>, boot: u64, seq: Seq) -> anyhow::Result<()> {
    let (request, order) = (writer::request(boot, seq.0), writer::order_id(boot, seq.0));
    let found = store.load(&Wanted { request: Some(request), order: Some(order.clone()), session: None, dead_letter: None })?;
    let remembered = found.request.with_context(|| format!("the request of {order} is forgotten"))?;
    ensure!((remembered.seq, &remembered.order_id) == (seq, &order), "the request of {order} is another's");
    let projection = found.order.with_context(|| format!("{order} has no projection"))?;
    ensure!(projection.order_id == order, "the projection of {order} is another's");
    Ok(())
}

fn boot_of(order: &str) -> anyhow::Result<u64> {
    let number = order.strip_prefix("order-").and_then(|rest| rest.split('-').next()?.parse().ok());
    number.with_context(|| format!("{order} was never stored"))
}
