//! Python values to bytes and back.
//!
//! `None`, `bool`, `int`, `float`, `str`, `bytes`, and tuples, lists and dicts of them have a compact form of ours, written and
//! read without a line of Python. NumPy arrays of plain numbers, `bytes` and `bytearray` of some size travel as buffers
//! beside the bytes; an array that arrives borrows the memory in which it landed. Proxies and futures are their names. Everything
//! else is pickled (protocol 5), its buffers out of band too. A value in which an object that can change may occur twice is pickled as
//! a whole, so that it is the same object twice at its receiver too.
//!
//! # Form
//! A tag byte, then what the tag says: numbers as little-endian base 128 (signed ones zigzag), `f64` as 8 bytes, lengths before
//! their bytes, counts before their items. A buffer is the next of the list beside the bytes. All lengths are checked
//! against what is there before anything is allocated.

use charm4rs::Payload;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};

use crate::arrays;
use crate::future::{FutureName, future_name};
use crate::packed::Packed;
use crate::pickle;
use crate::proxy::{Method, Proxy};

/// Smaller buffers travel among the bytes.
const ASIDE_MIN: usize = 256;
/// Deeper nesting is left to pickle.
const DEPTH_MAX: u32 = 64;
/// More mutable containers than this in one value are left to pickle.
const SEEN_MAX: usize = 64;

mod tag {
    pub(super) const NONE: u8 = 0;
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const INT: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const STR: u8 = 5;
    pub(super) const BYTES: u8 = 6;
    pub(super) const TUPLE: u8 = 7;
    pub(super) const LIST: u8 = 8;
    pub(super) const DICT: u8 = 9;
    pub(super) const ARRAY: u8 = 10;
    pub(super) const BYTEARRAY: u8 = 11;
    pub(super) const PICKLE: u8 = 12;
    pub(super) const PROXY: u8 = 13;
    pub(super) const METHOD: u8 = 14;
    pub(super) const FUTURE: u8 = 15;
    pub(super) const BYTES_ASIDE: u8 = 16;
    pub(super) const BYTEARRAY_ASIDE: u8 = 17;
    pub(super) const ARRAY_ASIDE: u8 = 18;
    /// Of the module `array`.
    pub(super) const ROW_ASIDE: u8 = 19;
}

/// Why a value is not written in our own form.
enum Plain {
    Done,
    /// Something occurs twice, or is nested too deeply: the whole is to be pickled.
    Whole,
}

/// Encodes one value.
pub(crate) fn encode(value: &Bound<'_, PyAny>) -> PyResult<Packed> {
    let mut writer = Writer::new();
    match writer.value(value, 0)? {
        Plain::Done if !writer.pickles || writer.seen.len() == 1 => Ok(writer.packed),
        _ => {
            let mut whole = Writer::new();
            whole.pickled(value)?;
            Ok(whole.packed)
        }
    }
}

/// Decodes one value, which is all that there is.
pub(crate) fn decode<'py>(py: Python<'py>, packed: Packed) -> PyResult<Bound<'py, PyAny>> {
    let mut reader = Reader::of(&packed.bytes, packed.buffers);
    let value = reader.value(py, 0)?;
    if reader.bytes.is_empty() { Ok(value) } else { Err(damaged()) }
}

/// Decodes a tuple of arguments into one that begins with `first`.
pub(crate) fn decode_args<'py>(first: &Bound<'py, PyAny>, packed: Packed) -> PyResult<Bound<'py, PyTuple>> {
    let py = first.py();
    let mut reader = Reader::of(&packed.bytes, packed.buffers);
    let mut items = vec![first.clone()];
    match reader.byte()? {
        tag::TUPLE => {
            for _ in 0..reader.count()? {
                items.push(reader.value(py, 1)?);
            }
        }
        // The arguments were pickled as a whole.
        tag::PICKLE => {
            let args = reader.pickled(py)?;
            items.extend(args.cast_into::<PyTuple>()?.iter());
        }
        _ => return Err(damaged()),
    }
    if reader.bytes.is_empty() { PyTuple::new(py, items) } else { Err(damaged()) }
}

/// The class of the standard library's arrays.
fn row_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "array", "array")
}

/// The type code of an array of the standard library that travels beside the bytes: of some size, and of numbers.
fn row_kind(value: &Bound<'_, PyAny>) -> PyResult<Option<u8>> {
    let py = value.py();
    if !value.get_type().is(row_class(py)?) {
        return Ok(None);
    }
    let item: usize = value.getattr(intern!(py, "itemsize"))?.extract()?;
    if value.len()? * item < ASIDE_MIN {
        return Ok(None);
    }
    let code: String = value.getattr(intern!(py, "typecode"))?.extract()?;
    Ok(code.bytes().next().filter(|code| !b"uw".contains(code)))
}

fn damaged() -> PyErr {
    PyValueError::new_err("a message that cannot be read: its sender runs another version, or its bytes are damaged")
}

struct Writer {
    packed: Packed,
    seen: Vec<*mut pyo3::ffi::PyObject>,
    /// An object was pickled, in which any of the others may occur too.
    pickles: bool,
}

/// Most values need no more, and their buffer need not grow.
const USUAL: usize = 64;

impl Writer {
    fn new() -> Self {
        let packed = Packed { bytes: Vec::with_capacity(USUAL), buffers: Vec::new() };
        Self { packed, seen: Vec::new(), pickles: false }
    }

    fn value(&mut self, value: &Bound<'_, PyAny>, depth: u32) -> PyResult<Plain> {
        if value.is_none() {
            self.byte(tag::NONE);
        } else if let Ok(number) = value.cast_exact::<PyInt>() {
            match number.extract::<i64>() {
                Ok(number) => {
                    self.byte(tag::INT);
                    self.number(zigzag(number));
                }
                Err(_) => self.pickled(value)?,
            }
        } else if let Ok(number) = value.cast_exact::<PyFloat>() {
            self.byte(tag::FLOAT);
            self.packed.bytes.extend_from_slice(&number.value().to_le_bytes());
        } else if let Ok(text) = value.cast_exact::<PyString>() {
            match text.to_cow() {
                Ok(text) => self.run(tag::STR, text.as_bytes()),
                Err(_) => self.pickled(value)?, // lone surrogates
            }
        } else if let Ok(items) = value.cast_exact::<PyTuple>() {
            return self.items(tag::TUPLE, items.len(), items.iter_borrowed(), depth);
        } else if let Ok(truth) = value.cast_exact::<PyBool>() {
            self.byte(if truth.is_true() { tag::TRUE } else { tag::FALSE });
        } else {
            return self.larger(value, depth);
        }
        Ok(Plain::Done)
    }

    fn larger(&mut self, value: &Bound<'_, PyAny>, depth: u32) -> PyResult<Plain> {
        if let Ok(items) = value.cast_exact::<PyList>() {
            if !self.first_time(value) {
                return Ok(Plain::Whole);
            }
            let items = items.to_tuple(); // the list must not change meanwhile
            return self.items(tag::LIST, items.len(), items.iter_borrowed(), depth);
        }
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            return self.dict(dict, depth);
        }
        if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            self.buffer([tag::BYTES, tag::BYTES_ASIDE], bytes.as_bytes());
        } else if let Ok(proxy) = value.cast_exact::<Proxy>() {
            self.byte(tag::PROXY);
            proxy.get().name().write(&mut self.packed.bytes);
        } else if let Ok(method) = value.cast_exact::<Method>() {
            self.byte(tag::METHOD);
            method.get().name().write(&mut self.packed.bytes);
        } else if let Some(name) = future_name(value)? {
            self.byte(tag::FUTURE);
            name.write(&mut self.packed.bytes);
        } else if let Some(array) = arrays::plain(value)? {
            if !self.first_time(value) {
                return Ok(Plain::Whole);
            }
            let aside = array.bytes().len() >= ASIDE_MIN;
            self.byte(if aside { tag::ARRAY_ASIDE } else { tag::ARRAY });
            array.write_form(&mut self.packed.bytes);
            if aside {
                self.packed.buffers.push(Payload::copy_of(array.bytes()));
            } else {
                self.packed.bytes.extend_from_slice(array.bytes());
            }
        } else if let Ok(bytes) = value.cast_exact::<PyByteArray>() {
            if !self.first_time(value) {
                return Ok(Plain::Whole);
            }
            self.buffer([tag::BYTEARRAY, tag::BYTEARRAY_ASIDE], &bytes.to_vec());
        } else if let Some(kind) = row_kind(value)? {
            if !self.first_time(value) {
                return Ok(Plain::Whole);
            }
            self.byte(tag::ROW_ASIDE);
            self.byte(kind);
            self.packed.buffers.push(pickle::copy_of(value)?);
        } else {
            if !self.first_time(value) {
                return Ok(Plain::Whole);
            }
            self.pickles = true;
            self.pickled(value)?;
        }
        Ok(Plain::Done)
    }

    fn items<'a, 'py: 'a>(
        &mut self,
        kind: u8,
        count: usize,
        items: impl Iterator<Item = Borrowed<'a, 'py, PyAny>>,
        depth: u32,
    ) -> PyResult<Plain> {
        if depth == DEPTH_MAX {
            return Ok(Plain::Whole);
        }
        self.byte(kind);
        self.number(count as u64);
        for item in items {
            if let Plain::Whole = self.value(&item, depth + 1)? {
                return Ok(Plain::Whole);
            }
        }
        Ok(Plain::Done)
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: u32) -> PyResult<Plain> {
        if depth == DEPTH_MAX || !self.first_time(dict.as_any()) {
            return Ok(Plain::Whole);
        }
        self.byte(tag::DICT);
        self.number(dict.len() as u64);
        for (key, value) in dict.copy()?.iter() {
            for part in [key, value] {
                if let Plain::Whole = self.value(&part, depth + 1)? {
                    return Ok(Plain::Whole);
                }
            }
        }
        Ok(Plain::Done)
    }

    /// Whether a container that can be changed has not been met before.
    fn first_time(&mut self, value: &Bound<'_, PyAny>) -> bool {
        let first = self.seen.len() < SEEN_MAX && !self.seen.contains(&value.as_ptr());
        self.seen.push(value.as_ptr());
        first
    }

    fn pickled(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let (bytes, buffers) = pickle::dumps(value)?;
        self.byte(tag::PICKLE);
        self.number(buffers.len() as u64);
        self.packed.buffers.extend(buffers);
        self.number(bytes.as_bytes().len() as u64);
        self.packed.bytes.extend_from_slice(bytes.as_bytes());
        Ok(())
    }

    /// Bytes among ours, or beside them.
    fn buffer(&mut self, [inside, aside]: [u8; 2], bytes: &[u8]) {
        if bytes.len() < ASIDE_MIN {
            return self.run(inside, bytes);
        }
        self.byte(aside);
        self.packed.buffers.push(Payload::copy_of(bytes));
    }

    fn run(&mut self, kind: u8, bytes: &[u8]) {
        self.byte(kind);
        self.number(bytes.len() as u64);
        self.packed.bytes.extend_from_slice(bytes);
    }

    fn byte(&mut self, byte: u8) {
        self.packed.bytes.push(byte);
    }

    fn number(&mut self, number: u64) {
        write_number(&mut self.packed.bytes, number);
    }
}

/// Appends a number, seven bits a byte, the lowest first.
pub(crate) fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// Reads what a [`Writer`] wrote.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    buffers: std::vec::IntoIter<Payload<u8>>,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8], buffers: Vec<Payload<u8>>) -> Self {
        Self { bytes, buffers: buffers.into_iter() }
    }

    fn value<'py>(&mut self, py: Python<'py>, depth: u32) -> PyResult<Bound<'py, PyAny>> {
        if depth > DEPTH_MAX + 1 {
            return Err(damaged());
        }
        Ok(match self.byte()? {
            tag::NONE => py.None().into_bound(py),
            tag::TRUE => PyBool::new(py, true).to_owned().into_any(),
            tag::FALSE => PyBool::new(py, false).to_owned().into_any(),
            tag::INT => unzigzag(self.number()?).into_pyobject(py)?.into_any(),
            tag::FLOAT => {
                let bytes = self.take(8)?.try_into().map_err(|_| damaged())?;
                PyFloat::new(py, f64::from_le_bytes(bytes)).into_any()
            }
            tag::STR => {
                let bytes = self.run()?;
                PyString::new(py, std::str::from_utf8(bytes).map_err(|_| damaged())?).into_any()
            }
            tag::TUPLE => PyTuple::new(py, self.items(py, depth)?)?.into_any(),
            tag::LIST => PyList::new(py, self.items(py, depth)?)?.into_any(),
            tag::DICT => {
                let dict = PyDict::new(py);
                for _ in 0..self.count()? {
                    let key = self.value(py, depth + 1)?;
                    dict.set_item(key, self.value(py, depth + 1)?)?;
                }
                dict.into_any()
            }
            tag::PICKLE => self.pickled(py)?,
            other => self.larger(py, other)?,
        })
    }

    fn larger<'py>(&mut self, py: Python<'py>, kind: u8) -> PyResult<Bound<'py, PyAny>> {
        Ok(match kind {
            tag::BYTES => PyBytes::new(py, self.run()?).into_any(),
            tag::BYTES_ASIDE => PyBytes::new(py, &self.aside()?).into_any(),
            tag::BYTEARRAY => PyByteArray::new(py, self.run()?).into_any(),
            tag::BYTEARRAY_ASIDE => PyByteArray::new(py, &self.aside()?).into_any(),
            tag::ARRAY => {
                let form = arrays::Form::read(self)?;
                let bytes = self.take(form.len()?)?;
                form.array(py, Payload::copy_of(bytes))?
            }
            tag::ARRAY_ASIDE => {
                let form = arrays::Form::read(self)?;
                form.array(py, self.aside()?)?
            }
            tag::ROW_ASIDE => {
                let row = row_class(py)?.call1((char::from(self.byte()?).to_string(),))?;
                row.call_method1(intern!(py, "frombytes"), (arrays::bytes_over(py, self.aside()?)?,))?;
                row
            }
            tag::PROXY => Proxy::read(self)?.into_pyobject(py)?.into_any(),
            tag::METHOD => Method::read(self)?.into_pyobject(py)?.into_any(),
            tag::FUTURE => FutureName::read(self)?.to_python(py)?,
            _ => return Err(damaged()),
        })
    }

    fn items<'py>(&mut self, py: Python<'py>, depth: u32) -> PyResult<Vec<Bound<'py, PyAny>>> {
        (0..self.count()?).map(|_| self.value(py, depth + 1)).collect()
    }

    fn pickled<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let buffers = (0..self.number()?).map(|_| self.aside()).collect::<PyResult<Vec<_>>>()?;
        pickle::loads(py, self.run()?, buffers)
    }

    fn aside(&mut self) -> PyResult<Payload<u8>> {
        self.buffers.next().ok_or_else(damaged)
    }

    /// A count of items, each of which takes a byte at least.
    fn count(&mut self) -> PyResult<usize> {
        usize::try_from(self.number()?).ok().filter(|&count| count <= self.bytes.len()).ok_or_else(damaged)
    }

    fn run(&mut self) -> PyResult<&'a [u8]> {
        let len = usize::try_from(self.number()?).map_err(|_| damaged())?;
        self.take(len)
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> PyResult<&'a [u8]> {
        let (front, rest) = self.bytes.split_at_checked(len).ok_or_else(damaged)?;
        self.bytes = rest;
        Ok(front)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> PyResult<u8> {
        Ok(self.take(1)?[0])
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> PyResult<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(damaged())
    }
}
