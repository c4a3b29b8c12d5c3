//! NumPy arrays that own memory of the engine. Such an array can be resized, like an array that NumPy has allocated.
//!
//! NumPy 1.22 and later allocate and free an array's memory by a *handler* ([NEP 49]). The handler of this module is active while one array is created: it
//! returns the memory that has arrived, and frees it when the array is freed, on any thread. For every other request it uses the C library, like NumPy's own
//! handler.
//!
//! [NEP 49]: https://numpy.org/neps/nep-0049-data-allocation-strategies.html

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use charm4rs::Payload;
use pyo3::ffi::{PyCapsule_GetPointer, PyCapsule_New, PyObject};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

type SetHandler = unsafe extern "C" fn(*mut PyObject) -> *mut PyObject;

/// The positions of these functions in NumPy's table.
const FEATURES: usize = 211;
const SET_HANDLER: usize = 304;
/// The first version of the table that has [`SET_HANDLER`]: NumPy 1.22.
const HAS_HANDLERS: u32 = 0x0f;

#[repr(C)]
struct Allocator {
    context: *mut c_void,
    malloc: extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: extern "C" fn(*mut c_void, *mut c_void, usize),
}

/// NumPy's `PyDataMem_Handler`.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    allocator: Allocator,
}

// SAFETY: it is never changed, and its pointer is null.
unsafe impl Sync for Handler {}

static HANDLER: Handler = Handler {
    name: name(b"charm4rs"),
    version: 1,
    allocator: Allocator { context: std::ptr::null_mut(), malloc, calloc, realloc, free },
};

const fn name(text: &[u8]) -> [c_char; 127] {
    let mut name = [0; 127];
    let mut at = 0;
    while at < text.len() {
        name[at] = text[at].cast_signed();
        at += 1;
    }
    name
}

thread_local! {
    /// The memory for the next array.
    static NEXT: RefCell<Option<Payload<u8>>> = const { RefCell::new(None) };
}

/// The memory that arrays own, by its address.
static OWNED: LazyLock<Mutex<HashMap<usize, Payload<u8>>>> = LazyLock::new(Mutex::default);

fn owned() -> MutexGuard<'static, HashMap<usize, Payload<u8>>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes back the memory of an array; `None` if it is the C library's.
fn taken(memory: *mut c_void) -> Option<Payload<u8>> {
    owned().remove(&memory.addr())
}

extern "C" fn malloc(_: *mut c_void, size: usize) -> *mut c_void {
    let next = NEXT.take().filter(|next| next.len() == size);
    let Some(mut next) = next else {
        // SAFETY: any size is allowed.
        return unsafe { libc::malloc(size) };
    };
    let memory = next.as_mut_ptr().cast::<c_void>();
    owned().insert(memory.addr(), next);
    memory
}

extern "C" fn calloc(_: *mut c_void, count: usize, size: usize) -> *mut c_void {
    // SAFETY: any sizes are allowed.
    unsafe { libc::calloc(count, size) }
}

extern "C" fn realloc(_: *mut c_void, memory: *mut c_void, size: usize) -> *mut c_void {
    let Some(before) = taken(memory) else {
        // SAFETY: it is the C library's: `malloc` or `calloc` above had it from there.
        return unsafe { libc::realloc(memory, size) };
    };
    // SAFETY: any size is allowed.
    let after = unsafe { libc::malloc(size) };
    if after.is_null() {
        owned().insert(memory.addr(), before);
    } else {
        // SAFETY: both have so many bytes, and no other code has the new memory.
        unsafe { std::ptr::copy_nonoverlapping(before.as_ptr(), after.cast(), before.len().min(size)) };
    }
    after
}

extern "C" fn free(_: *mut c_void, memory: *mut c_void, _: usize) {
    if taken(memory).is_none() {
        // SAFETY: it is the C library's, as above, and the array was its last user.
        unsafe { libc::free(memory) };
    }
}

/// NumPy's function that activates a handler and returns the previous one; `None` for an older NumPy.
fn set_handler(py: Python<'_>) -> Option<SetHandler> {
    static FOUND: PyOnceLock<Option<SetHandler>> = PyOnceLock::new();
    *FOUND.get_or_init(py, || {
        let module = ["numpy._core._multiarray_umath", "numpy.core._multiarray_umath"];
        let table = module.into_iter().find_map(|name| py.import(name).ok()?.getattr("_ARRAY_API").ok())?;
        // SAFETY: an object; null comes back, with an error, if it is no capsule without a name, as NumPy's is.
        let table = unsafe { PyCapsule_GetPointer(table.as_ptr(), std::ptr::null()) };
        drop(PyErr::take(py));
        let table = NonNull::new(table)?.as_ptr().cast::<*const c_void>();
        // SAFETY: the table of every NumPy has this function, which returns the table's version.
        let features = unsafe { std::mem::transmute::<*const c_void, extern "C" fn() -> u32>(*table.add(FEATURES)) };
        // SAFETY: this version of the table has the function, and NumPy never moves one.
        (features() >= HAS_HANDLERS)
            .then(|| unsafe { std::mem::transmute::<*const c_void, SetHandler>(*table.add(SET_HANDLER)) })
    })
}

/// Creates an array that owns `memory`; `make` creates an array of that size. Gives the memory back if NumPy cannot do that.
///
/// The caller must be the only owner of the memory.
pub(crate) fn array<'py>(
    py: Python<'py>,
    memory: Payload<u8>,
    make: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> Result<PyResult<Bound<'py, PyAny>>, Payload<u8>> {
    static CAPSULE: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
    let Some(set) = set_handler(py) else { return Err(memory) };
    let capsule = CAPSULE.get_or_init(py, || {
        let handler = std::ptr::from_ref(&HANDLER).cast_mut().cast();
        // SAFETY: both live for ever, and NumPy only reads the handler. A new reference comes back, or null with an error.
        let capsule =
            unsafe { Bound::from_owned_ptr_or_err(py, PyCapsule_New(handler, c"mem_handler".as_ptr(), None)) };
        capsule.ok().map(Bound::unbind)
    });
    let Some(capsule) = capsule else { return Err(memory) };
    // SAFETY: a handler's capsule; a new reference to the one before comes back, or null with an error.
    let before = unsafe { Bound::from_owned_ptr_or_err(py, set(capsule.as_ptr())) };
    let Ok(before) = before else { return Err(memory) };
    NEXT.set(Some(memory));
    let made = make();
    NEXT.set(None);
    // SAFETY: as above.
    let ours = unsafe { Bound::from_owned_ptr_or_err(py, set(before.as_ptr())) };
    Ok(ours.and(made))
}
