//! The identifiers of collections.

use std::fmt;

use charm4rs_transport::Pe;

/// Identifies a collection in the whole job: its creator's PE and a serial number; for single chares, their type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct CollectionId(pub(crate) u64);

const SOLO: u64 = 0xFFFF_FFFF;
/// In the serial number: this is a section.
const SECTION: u64 = 1 << 31;

impl CollectionId {
    pub(crate) fn new(creator: Pe, serial: u32) -> Self {
        Self(u64::from(creator.0) << 32 | u64::from(serial))
    }

    /// The single chares of the type with this number.
    #[inline]
    pub(crate) fn solo(chare: u16) -> Self {
        Self(SOLO << 32 | u64::from(chare))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "only the low bits matter")]
    pub(crate) fn low_bits(self) -> usize {
        self.0 as usize
    }

    /// The same number, for a section.
    pub(crate) fn section(self) -> Self {
        Self(self.0 | SECTION)
    }

    pub(crate) fn is_section(self) -> bool {
        self.0 & SECTION != 0 && self.creator().is_some()
    }

    /// The number that its creator gave it, which is unique among the creator's sections or among its other collections.
    pub(crate) fn serial(self) -> u64 {
        self.0 & (SECTION - 1)
    }

    /// The creator; `None` for single chares.
    pub(crate) fn creator(self) -> Option<Pe> {
        let creator = u32::try_from(self.0 >> 32).expect("32 bits are left");
        (u64::from(creator) != SOLO).then_some(Pe(creator))
    }
}

impl fmt::Debug for CollectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
