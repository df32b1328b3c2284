//! Records of the status topics, from whoever may write there: read, or passed over in a sentence of bounded length.

use gateway::dialect::Dialect;
use gateway::io::{PartitionName, Record, Select};

/// The sentence goes into the log.
const SENTENCE_BYTES_MAX: usize = 1024;

/// The record's key, up to the first zero; its value.
pub fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (key, value) = (parts.next(), parts.next());
    for select in [Select::All, Select::Partition, Select::Topic] {
        let at = PartitionName { topic: "order-status".into(), partition: 0 };
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        let record = Record { at, offset: 7, key, value, gateway_id: None, gateway_epoch: None, select };
        if let Err(why) = Dialect::OrderEvent.decode(&record) {
            assert!(why.len() <= SENTENCE_BYTES_MAX, "{} bytes: {why}", why.len());
        }
    }
}
