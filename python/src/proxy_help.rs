//! What the package needs to write help texts for proxies (`charm4py/proxy_help.py`).

use pyo3::prelude::*;

use crate::proxy::{Method, Proxy};

/// The number of the class of the chares that a proxy names.
#[pyfunction]
pub(crate) fn class_of(proxy: &Bound<'_, Proxy>) -> u32 {
    proxy.get().name().class
}

/// The proxy of a method.
#[pyfunction]
pub(crate) fn proxy_of(method: &Bound<'_, Method>) -> Proxy {
    let name = &method.get().name().proxy;
    Proxy::of(name.class, name.target)
}
