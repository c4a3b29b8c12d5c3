//! The contents of the laws' messages: bytes by which the receiver can check that they are the right ones.

use std::mem::MaybeUninit;

use charm4rs_transport_core::{Imm, Pe};

/// A key that names the contents of one message.
#[must_use]
pub fn key(seed: u64, from: Pe, to: Pe, imm: Imm) -> u64 {
    let pair = u64::from(from.0) << 48 ^ u64::from(to.0) << 32 ^ u64::from(imm.0);
    mix(seed ^ mix(pair))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn word(key: u64, index: u64) -> [u8; 8] {
    mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes()
}

/// Writes the contents named by `key`.
pub fn pour(key: u64, bytes: &mut [u8]) {
    for (chunk, index) in bytes.chunks_mut(8).zip(0..) {
        chunk.copy_from_slice(&word(key, index)[..chunk.len()]);
    }
}

/// Writes the contents named by `key` into uninitialized memory.
pub fn pour_uninit(key: u64, bytes: &mut [MaybeUninit<u8>]) {
    for (chunk, index) in bytes.chunks_mut(8).zip(0..) {
        for (byte, value) in chunk.iter_mut().zip(word(key, index)) {
            byte.write(value);
        }
    }
}

/// The offset of the first 8 bytes that differ from the contents named by `key`.
#[must_use]
pub fn first_wrong(key: u64, bytes: &[u8]) -> Option<usize> {
    bytes.chunks(8).zip(0..).position(|(chunk, index)| *chunk != word(key, index)[..chunk.len()]).map(|at| at * 8)
}

/// Checks contents.
///
/// # Panics
/// If they are not those named by `key`.
pub fn expect(key: u64, bytes: &[u8], what: impl std::fmt::Display) {
    if let Some(at) = first_wrong(key, bytes) {
        let shown = &bytes[at..bytes.len().min(at + 8)];
        panic!(
            "{what}: wrong from byte {at} of {} on: {shown:?} instead of {:?}",
            bytes.len(),
            word(key, at as u64 / 8)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_anywhere_is_detected() {
        let key = key(1, Pe(2), Pe(3), Imm(4));
        let mut bytes = vec![0; 61];
        pour(key, &mut bytes);
        assert_eq!(first_wrong(key, &bytes), None);
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert_eq!(first_wrong(key, &bytes), Some(at / 8 * 8));
            bytes[at] ^= 0x10;
        }
        let msg = charm4rs_transport_core::Msg::fill(&charm4rs_transport_core::memory::Slab::new(), 61, |uninit| {
            pour_uninit(key, uninit)
        });
        assert_eq!(*msg, *bytes);
    }
}
