//! Common parts of the fuzzers' entry points. Each entry point is in a module `fuzz` beside the code that reads the bytes.

/// An input, which is read from the front.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `N` bytes. `None` if there are fewer.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// The next two bytes, little-endian.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes, little-endian.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes, little-endian.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(self.0.len().min(len));
        self.0 = rest;
        front
    }

    /// Bytes that are preceded by their length.
    pub fn run(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        Some(self.bytes(len.into()))
    }
}

/// Replays the corpus of a target: inputs that a fuzzer found, and inputs that a person wrote.
///
/// # Panics
/// If `run` does, after the name of the input was printed, or if there is no corpus.
#[cfg(any(test, feature = "conformance"))]
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let inputs = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut replayed = 0;
    for path in inputs.filter_map(|entry| Some(entry.ok()?.path())) {
        eprintln!("{}", path.display());
        run(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", folder.display());
}
