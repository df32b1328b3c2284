//! What the uplink is about to commit to Kafka, written down before it begins.
//!
//! A file of its own, overwritten in place: it needs no room on a full disk, waits for no commit, and costs one block of flash. Two slots
//! take turns, so that a power cut tears at most the newer one, and what that would have said was not begun.
//!
//! ```text
//! at 0 and 4096, each at most 512 bytes:
//! | "DWI1" | number u64 | len u16 | body, len bytes      | crc32 of all before |   little-endian
//!            the higher one counts  postcard of `Intent`
//! ```

use gateway::ids::{Epoch, Seq};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const FILE: &str = "intent";
const MAGIC: [u8; 4] = *b"DWI1";
/// A block of the file system each: a torn write of one never touches the other.
const SLOTS: [u64; 2] = [0, 4096];
const SLOT_BYTES: usize = 512;
const HEAD_BYTES: usize = 14;
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// A place in the outbox that names its event: seqs alone are given anew by a new store, and by a copy of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch of the event.
    pub epoch: Epoch,
    /// All up to it is accounted for.
    pub seq: Seq,
}

/// What a transaction is about to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The topic under which Kafka keeps the progress.
    pub topic: String,
    /// The progress that Kafka keeps until the commit.
    pub before: Option<Progress>,
    /// The progress that it keeps after the commit.
    pub after: Progress,
    /// All before it is accounted for; it and what follows up to `after` is in the transaction.
    pub from: Seq,
    /// All up to it may be in Kafka already, as far as anybody can tell.
    pub repeats_upto: Seq,
}

/// The file. Whoever has the data folder has it.
#[derive(Debug)]
pub struct IntentFile {
    file: File,
    /// Of the slot that was written last.
    number: u64,
    last: Option<Intent>,
}

impl IntentFile {
    /// Opens it, and makes it where it is missing.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(data_dir: &Path) -> io::Result<IntentFile> {
        let path = data_dir.join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let size = SLOTS[1] + SLOT_BYTES as u64;
        if file.metadata()?.len() < size {
            // Written, not only made longer: what is overwritten later has its place on the disk.
            file.write_all_at(&vec![0; usize::try_from(size).unwrap_or_default()], 0)?;
            file.sync_all()?;
            crate::folder::sync_folder(data_dir)?;
        }
        let mut slots = [[0; SLOT_BYTES]; SLOTS.len()];
        for (slot, at) in slots.iter_mut().zip(SLOTS) {
            file.read_exact_at(slot, at)?;
        }
        let newest = slots.iter().filter_map(|slot| decode(slot)).max_by_key(|(number, _)| *number);
        let (number, last) = newest.map_or((0, None), |(number, intent)| (number, Some(intent)));
        Ok(IntentFile { file, number, last })
    }

    /// What was written last.
    pub fn last(&self) -> Option<&Intent> {
        self.last.as_ref()
    }

    /// Writes an intent, and returns once it is durable.
    ///
    /// # Errors
    /// The disk's. Then it may or may not be found at the next opening, and what it announces must not begin.
    pub fn write(&mut self, intent: Intent) -> io::Result<()> {
        let number = self.number + 1;
        let slot = encode(number, &intent)?;
        // The slot that does not hold the last one.
        self.file.write_all_at(&slot, SLOTS[usize::from(number % 2 == 1)])?;
        self.file.sync_data()?;
        (self.number, self.last) = (number, Some(intent));
        Ok(())
    }
}

fn encode(number: u64, intent: &Intent) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(intent).map_err(io::Error::other)?;
    let len = u16::try_from(body.len()).ok().filter(|len| HEAD_BYTES + usize::from(*len) + 4 <= SLOT_BYTES);
    let len = len.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the intent is too long"))?;
    let mut slot = MAGIC.to_vec();
    slot.extend_from_slice(&number.to_le_bytes());
    slot.extend_from_slice(&len.to_le_bytes());
    slot.extend_from_slice(&body);
    slot.extend_from_slice(&CRC.checksum(&slot).to_le_bytes());
    Ok(slot)
}

/// `None` if it was never written, or torn.
fn decode(slot: &[u8]) -> Option<(u64, Intent)> {
    let (head, rest) = slot.split_first_chunk::<HEAD_BYTES>()?;
    if head[..4] != MAGIC {
        return None;
    }
    let number = u64::from_le_bytes(head[4..12].try_into().ok()?);
    let len = usize::from(u16::from_le_bytes(head[12..14].try_into().ok()?));
    let (body, crc) = (rest.get(..len)?, rest.get(len..len + 4)?);
    let right = CRC.checksum(&slot[..HEAD_BYTES + len]).to_le_bytes() == crc;
    postcard::from_bytes(body).ok().filter(|_| right).map(|intent| (number, intent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(seq: u64) -> Intent {
        let progress = |seq| Progress { epoch: Epoch(7), seq: Seq(seq) };
        let topic = "t".repeat(249);
        Intent { topic, before: Some(progress(seq - 1)), after: progress(seq + 9), from: Seq(seq), repeats_upto: Seq(u64::MAX) }
    }

    #[test]
    fn the_last_intent_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(IntentFile::open(folder.path()).unwrap().last(), None);
        for seq in 1..=5 {
            IntentFile::open(folder.path()).unwrap().write(intent(seq)).unwrap();
            assert_eq!(IntentFile::open(folder.path()).unwrap().last(), Some(&intent(seq)));
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = IntentFile::open(folder.path()).unwrap();
        file.write(intent(1)).unwrap();
        file.write(intent(2)).unwrap();
        drop(file);
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        let len = encode(2, &intent(2)).unwrap().len();
        for torn in 0..len {
            let mut bytes = whole.clone();
            bytes[torn] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(IntentFile::open(folder.path()).unwrap().last(), Some(&intent(1)), "byte {torn}");
        }
    }

    #[test]
    fn the_bytes_of_a_slot_stay_as_they_are() {
        let intent = Intent {
            topic: "order-events".into(),
            before: None,
            after: Progress { epoch: Epoch(0x0102), seq: Seq(12) },
            from: Seq(3),
            repeats_upto: Seq(0),
        };
        let hex: String = encode(5, &intent).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "44574931050000000000000013000c6f726465722d6576656e74730082020c0300f42032ee");
    }
}
