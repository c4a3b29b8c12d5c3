//! Python values to bytes and back.
//!
//! `None`, `bool`, `int`, `float`, `str`, `bytes`, and tuples, lists and dicts of them have a compact form, written and read without Python
//! code. NumPy arrays of plain numbers, `bytes` and `bytearray` above a size travel as buffers beside the bytes; a received array uses the
//! memory in which it arrived. Proxies and futures travel as their names. Every other value is pickled (protocol 5), with its buffers out of
//! band too. A value in which a mutable object may occur twice is pickled as a whole, so that the receiver also gets one object twice.
//!
//! `charm4rs-python-form` has the format of the bytes and the parser; this module makes objects of what is parsed.

use charm4rs::Payload;
use charm4rs_python_form::{self as form, Arguments, Build, DEPTH_MAX, Damaged, Leaf, tag, write_number, zigzag};
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

/// Smaller buffers travel inside the bytes.
const ASIDE_MIN: usize = 256;
/// A value with more mutable containers than this is pickled.
const SEEN_MAX: usize = 64;

/// Whether a value could be written in the compact form.
enum Plain {
    Done,
    /// An object occurs twice, or is nested too deeply: the whole value must be pickled.
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

/// Decodes a message that holds one value.
pub(crate) fn decode<'py>(py: Python<'py>, packed: Packed) -> PyResult<Bound<'py, PyAny>> {
    Ok(form::value(&mut Objects(py), &packed.bytes, packed.buffers)?)
}

/// Decodes a tuple of arguments into one that begins with `first`.
pub(crate) fn decode_args<'py>(first: &Bound<'py, PyAny>, packed: Packed) -> PyResult<Bound<'py, PyTuple>> {
    let py = first.py();
    let items = match form::arguments(&mut Objects(py), &packed.bytes, packed.buffers, vec![first.clone()])? {
        Arguments::Items(items) => items,
        Arguments::Whole(args) => {
            let mut items = vec![first.clone()];
            items.extend(args.cast_into::<PyTuple>().map_err(PyErr::from)?.iter());
            items
        }
    };
    PyTuple::new(py, items)
}

/// The class `array.array`.
fn row_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "array", "array")
}

/// The type code of an `array.array` that travels beside the bytes: of numbers, and above a size.
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

/// Why there is no object.
struct Failed(PyErr);

impl From<Damaged> for Failed {
    fn from(_: Damaged) -> Self {
        Self(PyValueError::new_err(
            "a message that cannot be read: its sender runs another version, or its bytes are damaged",
        ))
    }
}

impl From<PyErr> for Failed {
    fn from(error: PyErr) -> Self {
        Self(error)
    }
}

impl From<Failed> for PyErr {
    fn from(failed: Failed) -> Self {
        failed.0
    }
}

struct Writer {
    packed: Packed,
    seen: Vec<*mut pyo3::ffi::PyObject>,
    /// An object was pickled; it may refer to any of the others.
    pickles: bool,
}

/// Enough for most values, so that their buffer does not grow.
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

    /// Whether a mutable container occurs for the first time.
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

    /// Writes a buffer inside the bytes, or beside them if it is large.
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

/// Makes Python objects of what was parsed.
struct Objects<'py>(Python<'py>);

impl<'py> Build for Objects<'py> {
    type Value = Bound<'py, PyAny>;
    type Buffer = Payload<u8>;
    type Error = Failed;

    fn leaf(&mut self, leaf: Leaf<'_, Payload<u8>>) -> Result<Self::Value, Failed> {
        let py = self.0;
        Ok(match leaf {
            Leaf::None => py.None().into_bound(py),
            Leaf::Truth(truth) => PyBool::new(py, truth).to_owned().into_any(),
            Leaf::Int(number) => match number.into_pyobject(py) {
                Ok(number) => number.into_any(),
                Err(never) => match never {},
            },
            Leaf::Float(number) => PyFloat::new(py, number).into_any(),
            Leaf::Text(text) => PyString::new(py, text).into_any(),
            leaf => larger(py, leaf)?,
        })
    }

    fn tuple(&mut self, items: Vec<Self::Value>) -> Result<Self::Value, Failed> {
        Ok(PyTuple::new(self.0, items)?.into_any())
    }

    fn list(&mut self, items: Vec<Self::Value>) -> Result<Self::Value, Failed> {
        Ok(PyList::new(self.0, items)?.into_any())
    }

    fn dict(&mut self, items: Vec<(Self::Value, Self::Value)>) -> Result<Self::Value, Failed> {
        let dict = PyDict::new(self.0);
        items.into_iter().try_for_each(|(key, value)| dict.set_item(key, value))?;
        Ok(dict.into_any())
    }
}

fn larger<'py>(py: Python<'py>, leaf: Leaf<'_, Payload<u8>>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match leaf {
        Leaf::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
        Leaf::BytesAside(memory) => PyBytes::new(py, &memory).into_any(),
        Leaf::ByteArray(bytes) => PyByteArray::new(py, bytes).into_any(),
        Leaf::ByteArrayAside(memory) => PyByteArray::new(py, &memory).into_any(),
        Leaf::Array(form, bytes) => arrays::array(py, &form, Payload::copy_of(bytes))?,
        Leaf::ArrayAside(form, memory) => arrays::array(py, &form, memory)?,
        Leaf::RowAside(kind, memory) => {
            let row = row_class(py)?.call1((char::from(kind).to_string(),))?;
            row.call_method1(intern!(py, "frombytes"), (arrays::bytes_over(py, memory)?,))?;
            row
        }
        Leaf::Pickle(bytes, buffers) => pickle::loads(py, bytes, buffers)?,
        Leaf::Proxy(name) => Proxy::read(name)?.into_pyobject(py)?.into_any(),
        Leaf::Method(name) => Method::read(name)?.into_pyobject(py)?.into_any(),
        Leaf::Future { pe, number } => FutureName { pe, number }.to_python(py)?,
        Leaf::None | Leaf::Truth(_) | Leaf::Int(_) | Leaf::Float(_) | Leaf::Text(_) => {
            unreachable!("the caller makes them")
        }
    })
}
