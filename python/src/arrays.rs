//! NumPy arrays of plain numbers: how their bytes are sent, and arrays over memory that arrived.

use std::sync::Mutex;

use charm4rs::Payload;
use charm4rs_python_form::Form;
use numpy::npyffi::{
    NPY_ARRAY_CARRAY, NPY_ARRAY_FARRAY, NPY_TYPES, NpyTypes, PY_ARRAY_API, PyArrayObject, get_type_object, npy_intp,
};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::numpy_memory;

/// The numbers of NumPy's types of plain numbers, by their sizes: the last of those without a pointer inside is a complex
/// one. Half precision has a separate number.
const LAST_NUMBER: i32 = NPY_TYPES::NPY_CLONGDOUBLE as i32;
const HALF: i32 = NPY_TYPES::NPY_HALF as i32;

/// An array whose bytes can be sent as they lie in memory.
pub(crate) struct Plain<'py> {
    array: Bound<'py, PyUntypedArray>,
    form: Form,
}

/// `value` as an array of plain numbers, copied to be contiguous if it is strided; `None` if it is no such array.
pub(crate) fn plain<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Plain<'py>>> {
    if !is_array(value) {
        return Ok(None);
    }
    let array = value.cast::<PyUntypedArray>()?;
    let dtype = array.dtype();
    let number = dtype.num();
    let native = matches!(dtype.byteorder(), b'=' | b'|');
    if !native || !(0..=LAST_NUMBER).contains(&number) && number != HALF {
        return Ok(None);
    }
    let array = if array.is_contiguous() {
        array.clone()
    } else {
        value.call_method1("copy", ("C",))?.cast_into::<PyUntypedArray>()?
    };
    let form = Form {
        number: u8::try_from(number).expect("checked above"),
        item: u8::try_from(dtype.itemsize()).expect("a number has few bytes"),
        fortran: !array.is_c_contiguous(),
        shape: array.shape().iter().map(|&side| side as u64).collect(),
    };
    Ok(Some(Plain { array, form }))
}

/// Whether the class is exactly `numpy.ndarray`, not a derived one.
fn is_array(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the type object lives as long as NumPy's module, and is only compared.
    let array = unsafe { get_type_object(value.py(), NpyTypes::PyArray_Type) };
    value.get_type_ptr() == array
}

impl Plain<'_> {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let len = self.array.len() * usize::from(self.form.item);
        if len == 0 {
            return &[];
        }
        // SAFETY: the array is in one piece of `len` bytes, which stay while `self` holds it. This thread holds the
        // interpreter's lock: Python code of other threads cannot change them meanwhile.
        unsafe { std::slice::from_raw_parts((*self.array.as_array_ptr()).fields.data.cast(), len) }
    }

    /// Appends what the receiver needs beside the bytes.
    pub(crate) fn write_form(&self, bytes: &mut Vec<u8>) {
        self.form.write(bytes);
    }
}

fn damaged() -> PyErr {
    PyValueError::new_err("an array that cannot be read: its form is damaged")
}

/// The array of this form that these bytes are, in their place.
pub(crate) fn array<'py>(py: Python<'py>, form: &Form, memory: Payload<u8>) -> PyResult<Bound<'py, PyAny>> {
    let number = i32::from(form.number);
    if form.bytes() != Ok(memory.len()) || number > LAST_NUMBER && number != HALF {
        return Err(damaged());
    }
    let dtype = dtype(py, number)?;
    if dtype.itemsize() != usize::from(form.item) {
        return Err(damaged());
    }
    over(py, &dtype, &form.shape, form.fortran, memory)
}

/// The description of a type of numbers.
fn dtype(py: Python<'_>, number: i32) -> PyResult<Bound<'_, PyArrayDescr>> {
    // SAFETY: the number was checked to be a type's; a new reference, or null with an error set, comes back.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, number);
        Ok(Bound::from_owned_ptr_or_err(py, descr.cast())?.cast_into_unchecked())
    }
}

/// Memory of the engine under arrays that cannot own it ([`numpy_memory`]). It is freed with the last of these arrays.
#[pyclass(frozen, module = "charm4py._engine")]
pub(crate) struct Memory {
    _payload: Mutex<Payload<u8>>,
}

/// An array of bytes over memory of the engine.
pub(crate) fn bytes_over(py: Python<'_>, memory: Payload<u8>) -> PyResult<Bound<'_, PyAny>> {
    static BYTE: PyOnceLock<Py<PyArrayDescr>> = PyOnceLock::new();
    let byte = BYTE.get_or_try_init(py, || dtype(py, NPY_TYPES::NPY_UBYTE as i32).map(Bound::unbind))?;
    let shape = [memory.len() as u64];
    over(py, byte.bind(py), &shape, false, memory)
}

/// Shorter arrays are copied into NumPy's memory, which costs no more than keeping the engine's.
const COPIED: usize = 4096;

/// An array of these bytes, in memory that it owns: the engine's or NumPy's. Shared memory is copied first.
fn over<'py>(
    py: Python<'py>,
    dtype: &Bound<'py, PyArrayDescr>,
    shape: &[u64],
    fortran: bool,
    mut memory: Payload<u8>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut shape =
        shape.iter().map(|&side| npy_intp::try_from(side).map_err(|_| damaged())).collect::<PyResult<Vec<_>>>()?;
    let order = if fortran { NPY_ARRAY_FARRAY } else { NPY_ARRAY_CARRAY };
    if memory.len() <= COPIED {
        // SAFETY: there is no memory yet.
        let array = unsafe { new(py, dtype, &mut shape, std::ptr::null_mut(), order)? };
        // SAFETY: the new array is in one piece of so many bytes, as the caller has compared, and no other code knows it yet.
        unsafe {
            let data = (*array.as_ptr().cast::<PyArrayObject>()).fields.data;
            std::ptr::copy_nonoverlapping(memory.as_ptr(), data.cast(), memory.len());
        }
        return Ok(array);
    }
    let data = memory.as_mut_ptr(); // makes it unique
    // SAFETY: as above.
    let make = || unsafe { new(py, dtype, &mut shape, std::ptr::null_mut(), order) };
    let memory = match numpy_memory::array(py, memory, make) {
        Ok(array) => return array,
        Err(memory) => memory,
    };
    // SAFETY: `data` is valid for all bytes that the dimensions name (the caller compared the lengths), aligned to 64, and belongs to `owner` below,
    // which the array keeps alive; no other code reads or writes it.
    let array = unsafe { new(py, dtype, &mut shape, data, order)? };
    let owner = Bound::new(py, Memory { _payload: Mutex::new(memory) })?;
    // SAFETY: an array without a base, and an object, whose reference it takes over.
    if unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), owner.into_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(array)
}

/// A new array, over `data` or, if that is null, over memory that NumPy asks its handler for.
///
/// # Safety
/// `data` is null, or used by no other code, aligned, as long as the shape requires, and outlives the array.
unsafe fn new<'py>(
    py: Python<'py>,
    dtype: &Bound<'py, PyArrayDescr>,
    shape: &mut [npy_intp],
    data: *mut u8,
    order: i32,
) -> PyResult<Bound<'py, PyAny>> {
    let count = i32::try_from(shape.len()).map_err(|_| damaged())?;
    // Without memory the flags only say the order: zero is C order.
    let flags = if data.is_null() { i32::from(order == NPY_ARRAY_FARRAY) } else { order };
    // SAFETY: the caller's promise. The call takes over a reference to the type's description, and gives a new array or null with an error.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            dtype.clone().into_ptr().cast(),
            count,
            shape.as_mut_ptr(),
            std::ptr::null_mut(),
            data.cast(),
            flags,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, array)
    }
}
