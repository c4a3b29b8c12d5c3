//! What help on proxies is made of: the package writes it (`charm4py/documented.py`).

use pyo3::prelude::*;

use crate::proxy::{Method, Proxy};

/// The number of the class of those whom a proxy names.
#[pyfunction]
pub(crate) fn class_of(proxy: &Bound<'_, Proxy>) -> u32 {
    proxy.get().name().class
}

/// The proxy whose method it is.
#[pyfunction]
pub(crate) fn proxy_of(method: &Bound<'_, Method>) -> Proxy {
    let name = &method.get().name().proxy;
    Proxy::of(name.class, name.target)
}
