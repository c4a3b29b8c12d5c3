//! The payloads that come with a message out of band. Usually there are none, and then this takes a single word.

use std::ops::Deref;

use super::RegBuf;

/// The payloads of a message, in order. As small as a pointer, since every message carries one.
#[derive(Default, Debug)]
pub struct Payloads(
    #[expect(clippy::box_collection, reason = "the box makes it one word, and is there only if payloads are")]
    Option<Box<Vec<RegBuf>>>,
);

impl Payloads {
    /// The payloads as a vector.
    #[must_use]
    pub fn into_vec(self) -> Vec<RegBuf> {
        self.0.map_or_else(Vec::new, |payloads| *payloads)
    }
}

impl From<Vec<RegBuf>> for Payloads {
    #[inline]
    fn from(payloads: Vec<RegBuf>) -> Self {
        Self((!payloads.is_empty()).then(|| Box::new(payloads)))
    }
}

impl FromIterator<RegBuf> for Payloads {
    fn from_iter<I: IntoIterator<Item = RegBuf>>(payloads: I) -> Self {
        payloads.into_iter().collect::<Vec<_>>().into()
    }
}

impl IntoIterator for Payloads {
    type Item = RegBuf;
    type IntoIter = std::vec::IntoIter<RegBuf>;
    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl Deref for Payloads {
    type Target = [RegBuf];
    #[inline]
    fn deref(&self) -> &[RegBuf] {
        self.0.as_ref().map_or(&[], |payloads| payloads)
    }
}
