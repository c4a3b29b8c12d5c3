//! The Python classes whose instances are chares, and their numbers. All processes register the same classes in the same order, so
//! that a number means the same class in each.

use std::cell::RefCell;

use hashbrown::HashMap;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::stats::Stats;

/// How a method is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The element calls it.
    Plain,
    /// The package runs it: it may wait, or waits for a condition before it starts.
    Special,
}

/// An entry method.
#[derive(Debug)]
pub(crate) struct EntryMethod {
    pub(crate) name: String,
    pub(crate) function: Py<PyAny>,
    pub(crate) kind: Kind,
    /// The least and the greatest number of positional arguments.
    pub(crate) args: (usize, usize),
    pub(crate) stats: Stats,
}

/// A class of chares.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: String,
    pub(crate) object: Py<PyType>,
    pub(crate) methods: Vec<EntryMethod>,
    /// The interned names: a name in source code is the same object, so its address identifies the method.
    names: Vec<Py<PyString>>,
    by_address: HashMap<usize, u16>,
    by_name: HashMap<String, u16>,
}

/// A row of a class's table, as the package gives it: name, function, whether the element may call it directly, and how many
/// arguments it takes.
pub(crate) type Row<'py> = (Bound<'py, PyString>, Bound<'py, PyAny>, bool, usize, usize);

impl Class {
    pub(crate) fn new(name: String, object: &Bound<'_, PyType>, rows: Vec<Row<'_>>) -> PyResult<Self> {
        let mut class = Self {
            name,
            object: object.clone().unbind(),
            methods: Vec::new(),
            names: Vec::new(),
            by_address: HashMap::default(),
            by_name: HashMap::default(),
        };
        for (name, function, plain, args_min, args_max) in rows {
            let number = u16::try_from(class.methods.len())
                .map_err(|_| PyTypeError::new_err(format!("{} has more than 65,535 methods", class.name)))?;
            let text = name.to_cow()?.into_owned();
            let name = PyString::intern(object.py(), &text);
            class.by_address.insert(name.as_ptr().addr(), number);
            class.names.push(name.unbind());
            class.by_name.insert(text.clone(), number);
            let kind = if plain { Kind::Plain } else { Kind::Special };
            let args = (args_min, args_max);
            class.methods.push(EntryMethod {
                name: text,
                function: function.unbind(),
                kind,
                args,
                stats: Stats::default(),
            });
        }
        Ok(class)
    }

    /// The number of the method of this name.
    pub(crate) fn find(&self, name: &Bound<'_, PyString>) -> Option<u16> {
        self.by_address.get(&name.as_ptr().addr()).copied().or_else(|| self.find_text(name))
    }

    #[cold]
    fn find_text(&self, name: &Bound<'_, PyString>) -> Option<u16> {
        self.by_name.get(&*name.to_cow().ok()?).copied()
    }
}

thread_local! {
    /// Classes are registered before the PE runs, and never forgotten.
    static CLASSES: RefCell<Vec<&'static Class>> = const { RefCell::new(Vec::new()) };
    /// Classes that were defined while the PE runs, by their numbers.
    static LATE: RefCell<HashMap<u32, &'static Class>> = RefCell::default();
}

/// Marks the numbers of classes that were defined while the PE runs.
const LATE_BIT: u32 = 1 << 31;

/// The class of this number.
#[inline]
pub(crate) fn class(id: u32) -> Option<&'static Class> {
    if id & LATE_BIT != 0 {
        return LATE.with_borrow(|late| late.get(&id).copied());
    }
    CLASSES.with_borrow(|classes| classes.get(usize::try_from(id).ok()?).copied())
}

/// Registers a class of chares and returns its number. All processes register the same classes in the same order. A class that is
/// defined later, in any order, brings its own number (`late`).
#[pyfunction]
#[pyo3(signature = (class, name, rows, late = None))]
pub(crate) fn register(
    class: &Bound<'_, PyType>,
    name: String,
    rows: Vec<Row<'_>>,
    late: Option<u32>,
) -> PyResult<u32> {
    let class: &'static Class = Box::leak(Box::new(Class::new(name, class, rows)?));
    if let Some(number) = late {
        LATE.with_borrow_mut(|late| late.insert(number | LATE_BIT, class));
        return Ok(number | LATE_BIT);
    }
    CLASSES.with_borrow_mut(|classes| {
        classes.push(class);
        u32::try_from(classes.len() - 1).map_err(|_| PyRuntimeError::new_err("too many classes of chares"))
    })
}

/// Calls `f` with each class that is registered.
pub(crate) fn each_class(f: impl FnMut(&'static Class)) {
    let all = CLASSES.with_borrow(|classes| classes.clone());
    all.into_iter().chain(LATE.with_borrow(|late| late.values().copied().collect::<Vec<_>>())).for_each(f);
}
