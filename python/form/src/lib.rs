//! The format of Python values as bytes, and its parser for untrusted bytes. It knows no Python: the reader of a value implements [`Build`], so that
//! the parser can be tested without an interpreter.
//!
//! # Format
//! A tag byte, then its content: numbers as little-endian base 128 (signed ones zigzag), `f64` as 8 bytes, lengths before
//! their bytes, counts before their items. A buffer is the next one in the list beside the bytes. All lengths are checked
//! against the available bytes before any allocation.
#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
pub mod fuzz;

/// Values with deeper nesting are pickled.
pub const DEPTH_MAX: u32 = 64;
/// NumPy's own limit is 64.
const DIMS_MAX: usize = 64;

/// The kinds of values.
#[expect(missing_docs, reason = "named after Python's types")]
pub mod tag {
    pub const NONE: u8 = 0;
    pub const TRUE: u8 = 1;
    pub const FALSE: u8 = 2;
    pub const INT: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const STR: u8 = 5;
    pub const BYTES: u8 = 6;
    pub const TUPLE: u8 = 7;
    pub const LIST: u8 = 8;
    pub const DICT: u8 = 9;
    pub const ARRAY: u8 = 10;
    pub const BYTEARRAY: u8 = 11;
    pub const PICKLE: u8 = 12;
    pub const PROXY: u8 = 13;
    pub const METHOD: u8 = 14;
    pub const FUTURE: u8 = 15;
    pub const BYTES_ASIDE: u8 = 16;
    pub const BYTEARRAY_ASIDE: u8 = 17;
    pub const ARRAY_ASIDE: u8 = 18;
    /// An `array.array`.
    pub const ROW_ASIDE: u8 = 19;
}

/// The error for bytes that are no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

/// The type and the shape of an array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Form {
    /// NumPy's number of the type.
    pub number: u8,
    /// Bytes of an item.
    pub item: u8,
    /// The first dimension varies fastest.
    pub fortran: bool,
    /// How many items there are in each dimension.
    pub shape: Vec<u64>,
}

impl Form {
    /// Appends it to bytes.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        let Self { number, item, fortran, shape } = self;
        bytes.extend([*number, *item, u8::from(*fortran)]);
        write_number(bytes, shape.len() as u64);
        shape.iter().for_each(|&side| write_number(bytes, side));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (number, item, fortran) = (reader.byte()?, reader.byte()?, reader.byte()? != 0);
        let dims = usize::try_from(reader.number()?).ok().filter(|&dims| dims <= DIMS_MAX).ok_or(Damaged)?;
        let shape = (0..dims).map(|_| reader.number()).collect::<Result<_, _>>()?;
        Ok(Self { number, item, fortran, shape })
    }

    /// How many bytes the array has.
    ///
    /// # Errors
    /// If the number exceeds the address space.
    pub fn bytes(&self) -> Result<usize, Damaged> {
        let len = self.shape.iter().try_fold(u64::from(self.item), |len, &side| len.checked_mul(side));
        len.and_then(|len| usize::try_from(len).ok()).filter(|&len| isize::try_from(len).is_ok()).ok_or(Damaged)
    }
}

/// A value without other values in it. `B` is a buffer beside the bytes.
#[derive(Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "named after Python's types")]
pub enum Leaf<'a, B> {
    None,
    Truth(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    BytesAside(B),
    ByteArray(&'a [u8]),
    ByteArrayAside(B),
    /// The length of the bytes fits the form.
    Array(Form, &'a [u8]),
    /// The buffer may be of any length.
    ArrayAside(Form, B),
    /// With this type code.
    RowAside(u8, B),
    Pickle(&'a [u8], Vec<B>),
    /// Its name.
    Proxy(&'a [u8]),
    /// Its name.
    Method(&'a [u8]),
    Future {
        pe: u32,
        number: u64,
    },
}

/// Builds values of what is parsed.
pub trait Build {
    /// A value.
    type Value;
    /// A buffer beside the bytes.
    type Buffer;
    /// Why a value cannot be built.
    type Error: From<Damaged>;

    /// A value without other values in it.
    ///
    /// # Errors
    /// If it cannot be built.
    fn leaf(&mut self, leaf: Leaf<'_, Self::Buffer>) -> Result<Self::Value, Self::Error>;
    /// A tuple.
    ///
    /// # Errors
    /// If it cannot be built.
    fn tuple(&mut self, items: Vec<Self::Value>) -> Result<Self::Value, Self::Error>;
    /// A list.
    ///
    /// # Errors
    /// If it cannot be built.
    fn list(&mut self, items: Vec<Self::Value>) -> Result<Self::Value, Self::Error>;
    /// A dict.
    ///
    /// # Errors
    /// If it cannot be built.
    fn dict(&mut self, items: Vec<(Self::Value, Self::Value)>) -> Result<Self::Value, Self::Error>;
}

/// Reads a message that holds one value.
///
/// # Errors
/// If the bytes are no value, or `build` cannot build it.
pub fn value<B: Build>(build: &mut B, bytes: &[u8], buffers: Vec<B::Buffer>) -> Result<B::Value, B::Error> {
    let mut from = Source { reader: Reader(bytes), buffers: buffers.into_iter() };
    let value = from.value(build, 0)?;
    from.end(value)
}

/// The arguments of a call.
#[derive(Clone, PartialEq, Debug)]
pub enum Arguments<V> {
    /// Each argument by itself.
    Items(Vec<V>),
    /// All in one value, which should be a tuple.
    Whole(V),
}

/// Reads a message that holds the arguments of a call. They are appended to `items`.
///
/// # Errors
/// If the bytes are no arguments, or `build` cannot build them.
pub fn arguments<B: Build>(
    build: &mut B,
    bytes: &[u8],
    buffers: Vec<B::Buffer>,
    mut items: Vec<B::Value>,
) -> Result<Arguments<B::Value>, B::Error> {
    let mut from = Source { reader: Reader(bytes), buffers: buffers.into_iter() };
    let arguments = match from.reader.byte()? {
        tag::TUPLE => {
            for _ in 0..from.reader.count()? {
                items.push(from.value(build, 1)?);
            }
            Arguments::Items(items)
        }
        // The arguments were pickled as a whole.
        tag::PICKLE => {
            let pickle = from.pickle()?;
            Arguments::Whole(build.leaf(pickle)?)
        }
        _ => return Err(Damaged.into()),
    };
    from.end(arguments)
}

struct Source<'a, B> {
    reader: Reader<'a>,
    buffers: std::vec::IntoIter<B>,
}

impl<'a, B> Source<'a, B> {
    fn value<M: Build<Buffer = B>>(&mut self, build: &mut M, depth: u32) -> Result<M::Value, M::Error> {
        if depth > DEPTH_MAX + 1 {
            return Err(Damaged.into());
        }
        match self.reader.byte()? {
            tag::TUPLE => {
                let items = self.items(build, depth)?;
                build.tuple(items)
            }
            tag::LIST => {
                let items = self.items(build, depth)?;
                build.list(items)
            }
            tag::DICT => {
                let mut items = Vec::new();
                for _ in 0..self.reader.count()? {
                    let key = self.value(build, depth + 1)?;
                    items.push((key, self.value(build, depth + 1)?));
                }
                build.dict(items)
            }
            kind => {
                let leaf = self.leaf(kind)?;
                build.leaf(leaf)
            }
        }
    }

    fn items<M: Build<Buffer = B>>(&mut self, build: &mut M, depth: u32) -> Result<Vec<M::Value>, M::Error> {
        (0..self.reader.count()?).map(|_| self.value(build, depth + 1)).collect()
    }

    #[inline]
    fn leaf(&mut self, kind: u8) -> Result<Leaf<'a, B>, Damaged> {
        Ok(match kind {
            tag::NONE => Leaf::None,
            tag::TRUE => Leaf::Truth(true),
            tag::FALSE => Leaf::Truth(false),
            tag::INT => Leaf::Int(unzigzag(self.reader.number()?)),
            tag::FLOAT => Leaf::Float(f64::from_le_bytes(*self.reader.take(8)?.first_chunk().ok_or(Damaged)?)),
            tag::STR => Leaf::Text(std::str::from_utf8(self.reader.run()?).map_err(|_| Damaged)?),
            tag::BYTES => Leaf::Bytes(self.reader.run()?),
            tag::BYTES_ASIDE => Leaf::BytesAside(self.aside()?),
            tag::BYTEARRAY => Leaf::ByteArray(self.reader.run()?),
            tag::BYTEARRAY_ASIDE => Leaf::ByteArrayAside(self.aside()?),
            tag::ARRAY => {
                let form = Form::read(&mut self.reader)?;
                let bytes = self.reader.take(form.bytes()?)?;
                Leaf::Array(form, bytes)
            }
            tag::ARRAY_ASIDE => Leaf::ArrayAside(Form::read(&mut self.reader)?, self.aside()?),
            tag::ROW_ASIDE => Leaf::RowAside(self.reader.byte()?, self.aside()?),
            tag::PICKLE => self.pickle()?,
            tag::PROXY => Leaf::Proxy(self.reader.run()?),
            tag::METHOD => Leaf::Method(self.reader.run()?),
            tag::FUTURE => {
                let pe = u32::try_from(self.reader.number()?).map_err(|_| Damaged)?;
                Leaf::Future { pe, number: self.reader.number()? }
            }
            _ => return Err(Damaged),
        })
    }

    fn pickle(&mut self) -> Result<Leaf<'a, B>, Damaged> {
        let buffers = (0..self.reader.number()?).map(|_| self.aside()).collect::<Result<_, _>>()?;
        Ok(Leaf::Pickle(self.reader.run()?, buffers))
    }

    fn aside(&mut self) -> Result<B, Damaged> {
        self.buffers.next().ok_or(Damaged)
    }

    fn end<T, E: From<Damaged>>(&self, value: T) -> Result<T, E> {
        if self.reader.0.is_empty() { Ok(value) } else { Err(Damaged.into()) }
    }
}

/// Reads bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A count of items. Each item has at least one byte.
    fn count(&mut self) -> Result<usize, Damaged> {
        usize::try_from(self.number()?).ok().filter(|&count| count <= self.0.len()).ok_or(Damaged)
    }

    fn run(&mut self) -> Result<&'a [u8], Damaged> {
        let len = usize::try_from(self.number()?).map_err(|_| Damaged)?;
        self.take(len)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(Damaged)?;
        self.0 = rest;
        Ok(front)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        let (byte, rest) = self.0.split_first().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damaged)
    }
}

/// Appends a number, seven bits in a byte, the lowest first.
pub fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// A number with its sign in the lowest bit.
#[must_use]
pub fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}
