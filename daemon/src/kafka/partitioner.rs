//! Which partition a key lands in, as librdkafka, Java and Sarama compute it: for reading, where no library tells.

use gateway::dialect::Partitioner;

/// The partition of `key` in a topic of `partitions` partitions, which must be at least 1. The key must not be empty: an empty one is
/// spread at random by some.
pub(super) fn partition_of(partitioner: Partitioner, key: &[u8], partitions: i32) -> i32 {
    let hash = match partitioner {
        Partitioner::Murmur2Random => murmur2(key) & 0x7fff_ffff,
        Partitioner::Fnv1aRandom => sarama_fnv1a(key),
        Partitioner::ConsistentRandom => crc32(key),
    };
    let partition = hash % partitions.max(1).unsigned_abs();
    i32::try_from(partition).expect("a remainder is below its divisor, which is an i32")
}

/// Kafka's murmur2, with its seed: <https://github.com/apache/kafka/blob/4.1/clients/src/main/java/org/apache/kafka/common/utils/Utils.java>.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java's int length wraps in the same way; keys are far shorter.
    #[expect(clippy::cast_possible_truncation)]
    let mut hash = SEED ^ (key.len() as u32);
    let mut words = key.chunks_exact(4);
    for word in words.by_ref() {
        let k = u32::from_le_bytes(word.try_into().expect("chunks_exact(4) gives four bytes")).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (k ^ (k >> R)).wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u32, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// FNV-1a as Sarama's `NewHashPartitioner` uses it: the absolute value of the signed hash.
fn sarama_fnv1a(key: &[u8]) -> u32 {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.cast_signed().unsigned_abs()
}

/// CRC-32 (IEEE), bit by bit: a key is a gateway's name, hashed once per start.
fn crc32(key: &[u8]) -> u32 {
    !key.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of librdkafka's own tests (rdmurmur2.c from Java, rdfnv1a.c from Go).
    const VECTORS: [(&str, u32, u32); 11] = [
        ("kafka", 0xd067_cf64, 0x0d33_c4e1),
        ("giberish123456789", 0x8f55_2b0c, 0x77a5_8295),
        ("1234", 0x9fc9_7b14, 0x023b_dd03),
        ("234", 0xe7c0_09ca, 0x2dea_3cd2),
        ("34", 0x8739_30da, 0x740f_a83e),
        ("4", 0x5a4b_5ca1, 0x310c_a263),
        ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4f1c, 0x65cb_d69c),
        ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4a62_b377, 0x6e49_c79a),
        ("eAmbleWillBeRemoved,ThePrePartThatIs", 0xe0e4_e09e, 0x69ee_d356),
        ("AmbleWillBeRemoved,ThePrePartThatIs", 0x62b8_b43f, 0x6abc_c023),
        ("", 0x106e_08d9, 0x7ee3_623b),
    ];

    #[test]
    fn hashes_are_those_of_java_and_sarama() {
        for (key, java, sarama) in VECTORS {
            assert_eq!(murmur2(key.as_bytes()), java, "{key:?}");
            assert_eq!(sarama_fnv1a(key.as_bytes()), sarama, "{key:?}");
        }
    }

    #[test]
    fn crc32_gives_its_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
