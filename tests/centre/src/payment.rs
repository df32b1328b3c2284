//! Whether a payment succeeds.

/// Of 100 payments so many succeed.
const SUCCEED_OF_100: u64 = 85;

/// Whether the payment of this order succeeds under this seed: the same each time, in any process.
pub fn succeeds(seed: u64, order_id: &str) -> bool {
    draw(seed, order_id) % 100 < SUCCEED_OF_100
}

/// FNV-1a over the seed and the text, then the finaliser of `SplitMix64` so that all bits depend on all bytes.
pub(crate) fn draw(seed: u64, text: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(text.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighty_five_of_a_hundred_payments_succeed() {
        for seed in 1..=5 {
            let paid = (0..10_000).filter(|n| succeeds(seed, &format!("order-{n}"))).count();
            assert!((8_400..=8_600).contains(&paid), "{paid} with seed {seed}");
        }
    }

    #[test]
    fn the_draw_never_changes_from_release_to_release() {
        let failed = (0..40).filter(|n| !succeeds(1, &format!("order-{n}"))).collect::<Vec<_>>();
        assert_eq!(failed, [1, 5, 7, 16, 22]);
    }
}
