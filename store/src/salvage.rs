//! Reads what can be read of a sled log that sled itself does not open, or of which it would throw a part away.
//!
//! sled 0.34 appends messages to segments. Each has a checksum and says where in the whole log it stands, so an intact one can be believed
//! wherever it is found, whatever became of `conf`, of the snapshots, of the segment's header or of the messages around it:
//!
//! ```text
//!  0       4      5
//! +-------+------+-----------+------------------+-----------+--------------+
//! | crc32 | kind | len       | segment number   | page      | body, len    |   varints, little-endian
//! +-------+------+-----------+------------------+-----------+--------------+
//! crc32: of the body, then of the header behind it; inverted
//!
//! kind 3, a batch begins: the place up to which it reaches, i64
//! kind 4, the page is free
//! kind 8, a page: next page, merging child, merging:1, prefix length:1, low key, high key, 0:1 for a leaf, count, keys, values
//! kind 10, a change of a page: 0:1 key value, or 1:1 key for a removal; keys without the page's prefix
//! ```
//!
//! All intact messages are applied in the order of their places. A page stands for every key from its low to its high one, so it
//! replaces all that was known there: the last word on a key is the newest intact one. Values are not held in memory, only where they are.

use crate::sled_disk::SEGMENT_BYTES;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SEGMENT_HEADER_BYTES: usize = 20;
/// A header is never longer: 4 + 1 + three varints.
const HEADER_BYTES_MAX: usize = 32;
/// What the device gives or refuses in one piece.
const SECTOR_BYTES: usize = 512;

const CANCELLED: u8 = 1;
const CAP: u8 = 2;
const BATCH: u8 = 3;
const FREE: u8 = 4;
const OTHERS: std::ops::RangeInclusive<u8> = 5..=11;
const PAGE: u8 = 8;
const LINK: u8 = 10;

/// What was read of a log.
#[derive(Debug)]
pub(crate) struct Salvage {
    file: File,
    values: BTreeMap<Vec<u8>, Span>,
    /// Messages that were intact.
    pub intact: u64,
    /// Bytes in which none was, although one should be: neither empty nor the rest of a segment.
    pub damaged_bytes: u64,
}

/// Bytes of the log's file.
#[derive(Debug, Clone, Copy)]
struct Span {
    offset: u64,
    len: usize,
}

/// An intact message.
#[derive(Debug, Clone, Copy)]
struct Message {
    /// Its place in the whole log, and the one behind it.
    lsn: u64,
    end: u64,
    kind: u8,
    page: u64,
    body: Span,
}

impl Salvage {
    /// Reads the log of a store's folder.
    ///
    /// # Errors
    /// The file cannot be opened. What cannot be read in it is left out.
    pub fn read(store: &Path) -> io::Result<Salvage> {
        let file = File::open(store.join("db"))?;
        let mut salvage = Salvage { file, values: BTreeMap::new(), intact: 0, damaged_bytes: 0 };
        let mut messages = salvage.find()?;
        messages.sort_by_key(|message| message.lsn);
        salvage.intact = messages.len() as u64;
        leave_torn_batch_out(&salvage.file, &mut messages);
        salvage.apply(&messages);
        Ok(salvage)
    }

    /// Keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.values.keys().map(Vec::as_slice)
    }

    /// A value; `None` if it cannot be read any more.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        read_span(&self.file, *self.values.get(key)?)
    }

    fn find(&mut self) -> io::Result<Vec<Message>> {
        let len = self.file.metadata()?.len();
        let mut messages = Vec::new();
        let mut segment = vec![0; SEGMENT_BYTES];
        for base in (0..len).step_by(SEGMENT_BYTES) {
            let here = usize::try_from(len - base).map_or(SEGMENT_BYTES, |rest| rest.min(SEGMENT_BYTES));
            read_what_can_be_read(&self.file, &mut segment[..here], base);
            self.damaged_bytes += find_in(&segment[..here], base, &mut messages);
        }
        Ok(messages)
    }

    fn apply(&mut self, messages: &[Message]) {
        let mut prefixes: HashMap<u64, Vec<u8>> = HashMap::new();
        for message in messages {
            let Some(body) = read_span(&self.file, message.body) else { continue };
            let mut parser = Parser { bytes: &body, at: 0 };
            match message.kind {
                FREE => drop(prefixes.remove(&message.page)),
                PAGE => {
                    if let Some(page) = parser.page() {
                        self.replace(&page, message.body.offset);
                        prefixes.insert(message.page, page.prefix().to_vec());
                    }
                }
                LINK => {
                    if let (Some((key, value)), Some(prefix)) = (parser.link(), prefixes.get(&message.page)) {
                        let key = [prefix.as_slice(), key].concat();
                        match value {
                            Some(value) => drop(self.values.insert(key, value.behind(message.body.offset))),
                            None => drop(self.values.remove(&key)),
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn replace(&mut self, page: &Page<'_>, offset: u64) {
        let Some(records) = &page.records else { return };
        let high = if page.high.is_empty() { Bound::Unbounded } else { Bound::Excluded(page.high.to_vec()) };
        if page.high.is_empty() || page.low < page.high {
            let known: Vec<_> = self.values.range((Bound::Included(page.low.to_vec()), high)).map(|(key, _)| key.clone()).collect();
            for key in known {
                self.values.remove(&key);
            }
        }
        for (key, value) in records {
            self.values.insert([page.prefix(), key].concat(), value.behind(offset));
        }
    }
}

impl Span {
    fn behind(self, offset: u64) -> Span {
        Span { offset: self.offset + offset, len: self.len }
    }
}

/// Fills a buffer; sectors that the device refuses stay zero.
fn read_what_can_be_read(file: &File, buffer: &mut [u8], offset: u64) {
    if file.read_exact_at(buffer, offset).is_ok() {
        return;
    }
    for (n, sector) in buffer.chunks_mut(SECTOR_BYTES).enumerate() {
        if file.read_exact_at(sector, offset + (n * SECTOR_BYTES) as u64).is_err() {
            sector.fill(0);
        }
    }
}

fn read_span(file: &File, span: Span) -> Option<Vec<u8>> {
    let mut bytes = vec![0; span.len];
    file.read_exact_at(&mut bytes, span.offset).ok()?;
    Some(bytes)
}

/// Finds the intact messages of a segment; gives the bytes that hold none and should.
fn find_in(segment: &[u8], base: u64, messages: &mut Vec<Message>) -> u64 {
    let mut at = SEGMENT_HEADER_BYTES;
    let mut damaged = 0;
    while at < segment.len() {
        match intact(segment, at, base) {
            // What follows is the padding of a full segment.
            Some((message, _)) if message.kind == CAP => break,
            Some((message, end)) => {
                messages.push(message);
                at = end;
            }
            None => {
                damaged += u64::from(segment[at] != 0);
                at += 1;
            }
        }
    }
    damaged
}

/// The message that begins here, and where it ends.
fn intact(segment: &[u8], at: usize, base: u64) -> Option<(Message, usize)> {
    let kind = *segment.get(at + 4)?;
    if !matches!(kind, CANCELLED | CAP | BATCH | FREE) && !OTHERS.contains(&kind) {
        return None;
    }
    let mut parser = Parser { bytes: segment, at: at + 5 };
    let len = usize::try_from(parser.number()?).ok()?;
    let (number, page) = (parser.number()?, parser.number()?);
    let begin = parser.at;
    let end = begin.checked_add(len).filter(|end| *end <= segment.len() && begin - at <= HEADER_BYTES_MAX)?;
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let mut digest = crc.digest();
    digest.update(&segment[begin..end]);
    digest.update(&segment[at + 4..begin]);
    let expected = u32::from_le_bytes(*segment[at..].first_chunk::<4>()?);
    if digest.finalize() ^ u32::MAX != expected {
        return None;
    }
    let lsn = number.checked_mul(SEGMENT_BYTES as u64)?.checked_add(at as u64)?;
    let end_lsn = lsn + (end - at) as u64;
    Some((Message { lsn, end: end_lsn, kind, page, body: Span { offset: base + begin as u64, len } }, end))
}

/// A batch whose end never arrived was never acknowledged: it is left out with all behind its beginning, as sled leaves it out.
fn leave_torn_batch_out(file: &File, messages: &mut Vec<Message>) {
    let Some(last) = messages.last().map(|message| message.end) else { return };
    let torn = messages.iter().position(|message| {
        let end = || read_span(file, message.body).and_then(|body| Some(u64::from_le_bytes(*body.first_chunk::<8>()?)));
        message.kind == BATCH && end().is_some_and(|end| end > last)
    });
    if let Some(torn) = torn {
        messages.truncate(torn);
    }
}

/// A leaf, or a page that only points to others.
struct Page<'b> {
    prefix_len: usize,
    low: &'b [u8],
    high: &'b [u8],
    /// Keys without the prefix, and where in the body their values are.
    records: Option<Vec<(&'b [u8], Span)>>,
}

impl<'b> Page<'b> {
    fn prefix(&self) -> &'b [u8] {
        &self.low[..self.prefix_len]
    }
}

/// Steps through bytes; nothing where they end too early.
struct Parser<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Parser<'b> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        match self.byte()? {
            small @ 0..=240 => Some(u64::from(small)),
            high @ 241..=248 => Some(240 + 256 * (u64::from(high) - 241) + u64::from(self.byte()?)),
            249 => Some(2288 + 256 * u64::from(self.byte()?) + u64::from(self.byte()?)),
            long @ 250..=255 => {
                let mut bytes = [0; 8];
                for byte in &mut bytes[..usize::from(long) - 247] {
                    *byte = self.byte()?;
                }
                Some(u64::from_le_bytes(bytes))
            }
        }
    }

    fn span(&mut self) -> Option<Span> {
        let len = usize::try_from(self.number()?).ok()?;
        let offset = self.at;
        self.at = offset.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        Some(Span { offset: offset as u64, len })
    }

    fn text(&mut self) -> Option<&'b [u8]> {
        let Span { len, .. } = self.span()?;
        self.bytes.get(self.at - len..self.at)
    }

    fn page(&mut self) -> Option<Page<'b>> {
        let (_next, _merging_child, _merging) = (self.number()?, self.number()?, self.byte()?);
        let prefix_len = usize::from(self.byte()?);
        let (low, high) = (self.text()?, self.text()?);
        let leaf = self.byte()? == 0;
        let count = self.number()?;
        let mut records = None;
        if leaf {
            let keys = (0..count).map(|_| self.text()).collect::<Option<Vec<_>>>()?;
            let values = (0..count).map(|_| self.span()).collect::<Option<Vec<_>>>()?;
            records = Some(keys.into_iter().zip(values).collect());
        }
        (prefix_len <= low.len()).then_some(Page { prefix_len, low, high, records })
    }

    /// A key, and its value or that it was removed; changes of other kinds concern no key.
    fn link(&mut self) -> Option<(&'b [u8], Option<Span>)> {
        match self.byte()? {
            0 => Some((self.text()?, Some(self.span()?))),
            1 => Some((self.text()?, None)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, Op, Read, Space};
    use crate::tests::sled_options as options;
    use crate::{SledDisk, disk};
    use proptest::prelude::*;

    fn op(key: u16, value: Option<Vec<u8>>) -> Op {
        Op { key: [b"Q".as_slice(), &key.to_be_bytes()].concat(), value }
    }

    fn all(disk: &SledDisk) -> Vec<disk::Record> {
        disk.range(&[], &[u8::MAX], usize::MAX, usize::MAX).unwrap()
    }

    fn salvaged(store: &Path) -> Vec<disk::Record> {
        let salvage = Salvage::read(store).unwrap();
        salvage.keys().map(|key| (key.to_vec(), salvage.get(key).unwrap())).collect()
    }

    /// Writes and removals over enough keys that pages split, merge and move between segments.
    fn lives() -> impl Strategy<Value = Vec<Vec<(u16, Option<usize>)>>> {
        let change = (0..400u16, prop::option::weighted(0.7, 0..9_000usize));
        prop::collection::vec(prop::collection::vec(change, 1..60), 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn an_undamaged_log_is_read_as_sled_reads_it(life in lives()) {
            let dir = tempfile::tempdir().unwrap();
            let mut disk = SledDisk::open(options(dir.path())).unwrap();
            for (n, batch) in life.into_iter().enumerate() {
                let last: BTreeMap<u16, Option<usize>> = batch.into_iter().collect();
                let value = |len: usize| vec![n.to_le_bytes()[0]; len];
                let ops: Vec<_> = last.into_iter().map(|(key, len)| op(key, len.map(value))).collect();
                disk.commit(&ops, Space::Floor).unwrap();
                if n % 20 == 19 {
                    disk.reopen().unwrap();
                }
            }
            let expected = all(&disk);
            drop(disk);
            let found = salvaged(&dir.path().join("store"));
            let differs = (0..found.len().max(expected.len())).find(|n| found.get(*n) != expected.get(*n));
            let key = |records: &[disk::Record]| differs.and_then(|n| records.get(n).map(|(key, value)| (key.clone(), value.len())));
            prop_assert!(differs.is_none(), "{:?} was found, {:?} is there", key(&found), key(&expected));
        }

        #[test]
        fn noise_is_no_message(bytes in prop::collection::vec(any::<u8>(), 0..4_000)) {
            let mut messages = Vec::new();
            find_in(&bytes, 0, &mut messages);
            prop_assert!(messages.is_empty());
            let mut parser = Parser { bytes: &bytes, at: 0 };
            let _ = (parser.page().is_some(), parser.link().is_some());
        }
    }

    #[test]
    fn garbage_costs_the_records_in_it_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = SledDisk::open(options(dir.path())).unwrap();
        for n in 0..200 {
            disk.commit(&[op(n, Some(vec![7; 500]))], Space::Floor).unwrap();
        }
        let expected = all(&disk);
        drop(disk);
        let store = dir.path().join("store");
        let db = File::options().write(true).open(store.join("db")).unwrap();
        db.write_all_at(&[0xA5; 4096], 40_000).unwrap();
        std::fs::remove_file(store.join("conf")).unwrap();
        let found = salvaged(&store);
        assert!(found.len() > 150 && found.iter().all(|record| expected.contains(record)), "{} of {}", found.len(), expected.len());
        assert!(Salvage::read(&store).unwrap().damaged_bytes > 0);
    }
}
