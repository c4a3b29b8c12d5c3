//! Which files may name a backend that has no crate of its own: the backend itself, and the few places that select or test one. The arrows between crates
//! hold the same rule for the other backends. Knows Rust's paths, as tokens.

use std::collections::BTreeSet;
use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use crate::sources::Source;

/// The modules of the transport that are backends.
pub(crate) const BACKENDS: &[&str] = &["local", "shm"];

/// The places that may name them: the port selects the nearest, wire-up opens them.
pub(crate) const CHOOSERS: &[&str] = &["transport/src/port/", "transport/src/wireup"];

/// Files that name a backend and are neither a part of it nor one of `choosers`.
pub(crate) fn named(tree: &[Source], backends: &[&str], choosers: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in tree.iter().filter(|s| s.is_rust() && !choosers.iter().any(|c| s.path.starts_with(c))) {
        let inside = source.path.strip_prefix("transport/src/");
        let tokens =
            || TokenStream::from_str(&source.text).unwrap_or_else(|e| panic!("{} is not Rust: {e}", source.path));
        let names = match inside {
            Some(_) => paths(tokens(), "crate"),
            None if source.text.contains("charm4rs_transport") => paths(tokens(), "charm4rs_transport"),
            None => continue,
        };
        for backend in backends.iter().filter(|backend| names.contains(**backend)) {
            let own =
                inside.is_some_and(|at| at.strip_prefix(backend).is_some_and(|rest| rest.starts_with(['/', '.'])));
            if !own {
                found.push(format!("{} names the backend {backend}: it must be reached through the seam", source.path));
            }
        }
    }
    found
}

/// The names that follow `root::`, or begin an item of a group after `root::`.
fn paths(tokens: TokenStream, root: &str) -> BTreeSet<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, c: char| matches!(&tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == c);
    let mut found = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == root && is(at + 1, ':') && is(at + 2, ':') => match tokens.get(at + 3) {
                Some(TokenTree::Ident(name)) => _ = found.insert(name.to_string()),
                Some(TokenTree::Group(group)) => found.extend(items(group.stream())),
                _ => {}
            },
            TokenTree::Group(group) => found.extend(paths(group.stream(), root)),
            _ => {}
        }
    }
    found
}

/// The first word of each item of a `use` group.
fn items(tokens: TokenStream) -> Vec<String> {
    let mut first = true;
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(word) if first => {
                found.push(word.to_string());
                first = false;
            }
            TokenTree::Punct(p) if p.as_char() == ',' => first = true,
            _ => {}
        }
    }
    found
}

mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> usize {
        named(&[Source { path: path.to_owned(), text: text.to_owned() }], &["tcp", "shm"], &["transport/src/port/"])
            .len()
    }

    #[test]
    fn a_backend_may_be_named_by_itself_and_by_the_choosers() {
        for path in ["transport/src/tcp/mod.rs", "transport/src/tcp.rs", "transport/src/port/mod.rs"] {
            assert_eq!(check(path, "use crate::tcp::Link;"), 0, "{path}");
        }
        assert_eq!(check("transport/src/shm/mod.rs", "use crate::tcp::Link;"), 1);
        assert_eq!(check("transport/src/tcpdump.rs", "use crate::tcp::Link;"), 1);
    }

    #[test]
    fn a_name_is_found_in_groups_and_in_bodies_and_not_where_it_means_something_else() {
        for text in ["use crate::{Pe, tcp::{Link, Pool}};", "fn f() { g(|| crate::shm::open()) }", "use crate::{tcp};"]
        {
            assert_eq!(check("transport/src/seam.rs", text), 1, "{text}");
        }
        for text in ["use crate::{Pe, pool::tcp};", "mod tcp; fn f(tcp: u8) {}", "/// [`crate::tcp`]\nfn f() {}"] {
            assert_eq!(check("transport/src/seam.rs", text), 0, "{text}");
        }
        assert_eq!(check("scheduler/src/lib.rs", "use charm4rs_transport::{Pe, tcp::Link};"), 1);
        assert_eq!(check("chare/src/lib.rs", "mod tcp; use crate::tcp::X;"), 0, "a module of another crate");
    }
}
