//! The Python classes whose instances are chares, numbered alike in every process: by the order of their registration.

use hashbrown::HashMap;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::stats::Stats;

/// How a method is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It is called.
    Plain,
    /// The package runs it: it may wait, or is to wait for a condition.
    Special,
}

/// An entry method.
#[derive(Debug)]
pub(crate) struct EntryMethod {
    pub(crate) name: String,
    pub(crate) function: Py<PyAny>,
    pub(crate) kind: Kind,
    /// How many positional arguments it needs, and takes.
    pub(crate) args: (usize, usize),
    pub(crate) stats: Stats,
}

/// A class of chares.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: String,
    pub(crate) object: Py<PyType>,
    pub(crate) methods: Vec<EntryMethod>,
    /// Names as they are interned: names in source code are these very objects, and these stay.
    names: Vec<Py<PyString>>,
    by_address: HashMap<usize, u16>,
    by_name: HashMap<String, u16>,
}

/// A row of a class's table, as the package gives it: name, function, whether it is called as it stands, and how many
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
