//! Reproducible pseudorandom numbers: the generator behind the simulated network and the tests.
//!
//! The sequence is part of the contract, on every platform and in every version: a seed that was noted down
//! can be replayed forever. It is not a source of secrets.

use std::ops::Range;

/// The environment variable that replays a seed.
pub const SEED_VARIABLE: &str = "CHARM4RS_SEED";

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, passes BigCrush, splits well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent sequence for each `stream` of one seed.
    #[must_use]
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        rng.next_u64();
        rng
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 32 bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        u32::try_from(self.next_u64() >> 32).expect("32 bits are left")
    }

    /// A number in `range` (its start, if it is empty).
    #[inline]
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        let span = range.end.saturating_sub(range.start).max(1);
        // Multiply and shift: the bias is below 2^-32 for the spans in use here.
        let scaled = (u128::from(self.next_u64()) * u128::from(span)) >> 64;
        range.start + u64::try_from(scaled).expect("below the span")
    }

    /// An index below `len`.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn below(&mut self, len: usize) -> usize {
        assert!(len > 0, "an index into nothing");
        usize::try_from(self.range(0..len as u64)).expect("below a usize")
    }

    /// True with probability `p`. For 0 it draws no number, so a fault that is off does not change the sequence.
    pub fn chance(&mut self, p: f64) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "53 of the bits are enough for a probability")]
        let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        p > 0.0 && unit(self.next_u64()) < p
    }

    /// Puts a slice into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (2..=items.len()).rev() {
            let other = self.below(end);
            items.swap(end - 1, other);
        }
    }
}

/// The seed in the environment, in decimal or `0x` hexadecimal.
#[must_use]
pub fn from_environment() -> Option<u64> {
    parse(&std::env::var(SEED_VARIABLE).ok()?)
}

/// Parses a seed.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Runs `body` for the seed in the environment, else for the first `count` seeds. Prints the seed that fails.
///
/// # Panics
/// If `body` does.
pub fn for_each(count: u64, body: impl Fn(u64)) {
    let seeds = from_environment().map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(seed))) {
            eprintln!("replay with {SEED_VARIABLE}={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        let mut rng = Rng::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn every_value_of_a_range_is_drawn_and_no_other() {
        let mut rng = Rng::new(7);
        let mut hits = [0u32; 10];
        for _ in 0..10_000 {
            hits[usize::try_from(rng.range(5..15)).unwrap() - 5] += 1;
        }
        assert!(hits.iter().all(|&n| (800..1_200).contains(&n)), "{hits:?}");
        assert_eq!(rng.range(3..3), 3);
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_chance_of_zero_draws_nothing() {
        let mut rng = Rng::new(5);
        assert!(!rng.chance(0.0));
        assert_eq!(rng, Rng::new(5));
        assert!(rng.chance(1.0));
    }

    #[test]
    fn a_seed_is_parsed_in_decimal_and_hexadecimal() {
        for (text, seed) in [("17", Some(17)), (" 0xff ", Some(255)), ("seventeen", None), ("", None)] {
            assert_eq!(parse(text), seed, "{text}");
        }
    }
}
