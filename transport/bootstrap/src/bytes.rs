//! How messages between launchers, agents and processes are encoded: numbers, lengths, texts. Knows no particular message.

use super::options::PES_MAX;
use super::wire::WireError;

/// Encodes a message.
#[derive(Default, Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// The encoded bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Bytes whose number the other end knows.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A number.
    pub fn u8(&mut self, n: u8) -> &mut Self {
        self.raw(&[n])
    }

    /// A number.
    pub fn u16(&mut self, n: u16) -> &mut Self {
        self.raw(&n.to_le_bytes())
    }

    /// A number.
    pub fn u32(&mut self, n: u32) -> &mut Self {
        self.raw(&n.to_le_bytes())
    }

    /// A length.
    ///
    /// # Panics
    /// If it does not fit into 32 bits.
    pub fn len(&mut self, len: usize) -> &mut Self {
        self.u32(u32::try_from(len).expect("a packet is far shorter than 4 GiB"))
    }

    /// Bytes with their length.
    ///
    /// # Panics
    /// If they are 4 GiB.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.len(bytes.len()).raw(bytes)
    }

    /// A text, cut to at most `max` bytes of whole characters.
    pub fn text(&mut self, text: &str, max: usize) -> &mut Self {
        let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.bytes(&text.as_bytes()[..end])
    }

    /// A list of sizes, with its length. Equal neighbours are stored once, since the sizes of a job's processes are nearly all the same.
    ///
    /// # Panics
    /// If the list has 2^32 sizes.
    pub fn runs(&mut self, sizes: impl Iterator<Item = u32>) -> &mut Self {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for size in sizes {
            match runs.last_mut() {
                Some((times, last)) if *last == size => *times += 1,
                _ => runs.push((1, size)),
            }
        }
        self.len(runs.len());
        for (times, size) in runs {
            self.u32(times).u32(size);
        }
        self
    }
}

/// Decodes a message. Nothing is allocated for a length before that many bytes are there.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The message, if no bytes are left.
    ///
    /// # Errors
    /// If bytes are left.
    pub fn close<T>(self, message: T) -> Result<T, WireError> {
        if self.0.is_empty() { Ok(message) } else { Err(WireError::Trailing) }
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Bytes of a fixed number.
    ///
    /// # Errors
    /// If the bytes do not contain it.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    /// A number.
    ///
    /// # Errors
    /// If the bytes do not contain it.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[n]| n)
    }

    /// A number.
    ///
    /// # Errors
    /// If the bytes do not contain it.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A boolean.
    ///
    /// # Errors
    /// If the bytes do not contain it.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Field(what)),
        }
    }

    /// A number of things, at most `max`.
    ///
    /// # Errors
    /// If the bytes do not contain it, or it is larger.
    pub fn count(&mut self, what: &'static str, max: usize) -> Result<usize, WireError> {
        usize::try_from(self.u32()?).ok().filter(|n| *n <= max).ok_or(WireError::Field(what))
    }

    /// Bytes with their length, at most `max`.
    ///
    /// # Errors
    /// If the bytes do not contain them, or there are more.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], WireError> {
        let len = self.count("length", max)?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// A text of at most `max` bytes.
    ///
    /// # Errors
    /// If the bytes do not contain it, or it is longer.
    pub fn text(&mut self, what: &'static str, max: usize) -> Result<String, WireError> {
        let text = std::str::from_utf8(self.bytes(max)?).map_err(|_| WireError::Field(what))?;
        Ok(text.to_owned())
    }

    /// Sizes, each at least 1, at most [`PES_MAX`] in number.
    ///
    /// # Errors
    /// If the bytes do not contain them.
    pub fn runs(&mut self) -> Result<Vec<u32>, WireError> {
        let mut sizes = Vec::new();
        for _ in 0..self.u32()? {
            let (times, size) = (self.u32()?, self.u32()?);
            let total = sizes.len() + usize::try_from(times).map_err(|_| WireError::Field("layout"))?;
            if times == 0 || size == 0 || size > PES_MAX || total > PES_MAX as usize {
                return Err(WireError::Field("layout"));
            }
            sizes.resize(total, size);
        }
        if sizes.is_empty() { Err(WireError::Field("layout")) } else { Ok(sizes) }
    }
}
