//! Tests that need several processes, hosts or crates. They are in `tests/`; this crate contains only the programs of the pages, each of which `cargo
//! test --doc` compiles and runs.

#![forbid(unsafe_code)]

/// One module for each chapter: its text is the module's documentation, so its programs are doctests.
#[cfg(doctest)]
mod book {
    macro_rules! chapters {
        ($($name:ident)*) => { $(#[doc = include_str!(concat!("../../docs/src/", stringify!($name), ".md"))] mod $name {})* };
    }
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/src/own-crate.md")]
    mod own_crate {}
    chapters! {
        first chares waiting reductions payloads placement dynamic testing python running options faults transports measuring figures
        glossary limitations backend
    }
}
