//! Keys of registrations, if the provider lets this backend choose them. Some providers serve any process that connects and names a key, so
//! a key must be unguessable.
//!
//! The n-th key of a lane is HMAC-SHA256 of n under 32 random bytes that the lane gets when it is opened. So a lack of random numbers is possible only
//! at start-up, where it is an error, and a key that a peer has seen says nothing about the next one.

use std::cell::Cell;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How many keys are tried: with short keys, one may be taken.
const TRIES: usize = 16;

/// See the module's text.
#[derive(Clone)]
pub(super) struct KeyChooser {
    mac: Hmac<Sha256>,
    count: Cell<u64>,
    mask: u64,
}

impl std::fmt::Debug for KeyChooser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyChooser").field("count", &self.count).finish_non_exhaustive()
    }
}

impl KeyChooser {
    /// Keys of at most `key_bytes` bytes, from `random` bytes that nothing else uses.
    pub(super) fn new(random: [u8; 32], key_bytes: usize) -> Self {
        let mask = match key_bytes {
            1..8 => (1 << (8 * key_bytes)) - 1,
            _ => u64::MAX,
        };
        let mac = Hmac::new_from_slice(&random).expect("HMAC takes keys of any length");
        Self { mac, count: Cell::new(0), mask }
    }

    fn next(&self) -> u64 {
        let count = self.count.get();
        self.count.set(count + 1);
        let mut mac = self.mac.clone();
        mac.update(&count.to_le_bytes());
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(mac.finalize().into_bytes());
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) & self.mask
    }

    /// Registers under a new key, and under another one if that is `taken`.
    pub(super) fn try_each<T, E>(
        &self,
        register: impl Fn(u64) -> Result<T, E>,
        taken: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        for _ in 1..TRIES {
            match register(self.next()) {
                Err(error) if taken(&error) => {}
                other => return other,
            }
        }
        register(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_between_lanes_and_registrations_and_have_the_requested_length() {
        let (one, two) = (KeyChooser::new([1; 32], 8), KeyChooser::new([2; 32], 8));
        let keys: std::collections::BTreeSet<u64> = (0..1_000).flat_map(|_| [one.next(), two.next()]).collect();
        assert_eq!(keys.len(), 2_000);
        assert!(keys.iter().any(|key| *key > u64::MAX / 2));
        let short = KeyChooser::new([1; 32], 4);
        assert!((0..1_000).all(|_| u32::try_from(short.next()).is_ok()));
    }

    #[test]
    fn a_key_that_is_taken_is_replaced_by_another_a_bounded_number_of_times() {
        let keys = KeyChooser::new([1; 32], 1);
        let tried = Cell::new(0);
        let taken = |_| {
            tried.set(tried.get() + 1);
            if tried.get() < 5 { Err("taken") } else { Ok(()) }
        };
        assert_eq!(keys.try_each(taken, |error| *error == "taken"), Ok(()));
        assert_eq!(keys.try_each(|_| Err::<(), _>("taken"), |error| *error == "taken"), Err("taken"));
        assert_eq!(keys.try_each(|_| Err::<(), _>("other"), |error| *error == "taken"), Err("other"));
        assert_eq!(keys.count.get(), 5 + TRIES as u64 + 1);
    }
}
