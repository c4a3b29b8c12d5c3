//! Checks of a parsed chare. They reject names that proxies have, types that cannot be sent, and state that is borrowed while a method waits. This
//! module does not depend on how a chare is parsed.

use proc_macro2::Span;
use syn::visit_mut::{self, VisitMut};
use syn::{Error, FnArg, Ident, ImplItem, ImplItemFn, Pat, Result, Type, TypePath};

use crate::parse::{Entry, Kind, error};

/// The methods that every proxy has, of its own or of a trait that it implements. The compiler finds them before the entry methods, which a proxy
/// has only by dereferencing: an entry method with such a name would never be called.
const OF_PROXIES: [&str; 18] = [
    "as_trait",
    "borrow",
    "borrow_mut",
    "clone",
    "clone_from",
    "clone_into",
    "collection",
    "deref",
    "eq",
    "fmt",
    "hash",
    "index",
    "into",
    "ne",
    "serialize",
    "to_owned",
    "try_into",
    "type_id",
];

pub(crate) fn check_name(name: &Ident) -> Result<()> {
    let text = name.to_string();
    if !OF_PROXIES.contains(&&*text) {
        return Ok(());
    }
    error(
        name,
        &format!(
            "an entry method cannot be named `{text}`: every proxy has a method of this name, which would be called instead. The reserved names are {}",
            OF_PROXIES.map(|name| format!("`{name}`")).join(", ")
        ),
    )
}

/// Rejects names of sinks. Each entry method with arguments has a sink, because a reduction's result can be its last argument.
pub(crate) fn check_sinks(entries: &[Entry]) -> Result<()> {
    for Entry { name, .. } in entries {
        let text = name.to_string();
        let of = |other: &&Entry| text.strip_suffix("_sink").is_some_and(|other_name| other.name == other_name);
        if let Some(other) = entries.iter().find(of).filter(|other| !other.args.is_empty()) {
            let other = &other.name;
            return error(
                name,
                &format!(
                    "an entry method cannot be named `{text}` beside `{other}`: proxies have `{other}_sink(…)`, the sink for results of reductions that go to `{other}`"
                ),
            );
        }
    }
    Ok(())
}

/// The methods that are not entry methods.
pub(crate) fn helpers(items: &[ImplItem], entries: &[Entry]) -> Vec<(Ident, usize)> {
    let is_taken = |name: &Ident| {
        let text = name.to_string();
        let is_sink = |entry: &Entry| text.strip_suffix("_sink").is_some_and(|other| entry.name == other);
        OF_PROXIES.contains(&&*text) || entries.iter().any(|entry| entry.name == *name || is_sink(entry))
    };
    let methods = items.iter().filter_map(|item| match item {
        ImplItem::Fn(function) if function.sig.receiver().is_some() && !is_taken(&function.sig.ident) => {
            // A method under a condition may be missing, or may be defined twice.
            let is_plain = !function.attrs.iter().any(|attr| attr.path().is_ident("cfg"));
            is_plain.then(|| (function.sig.ident.clone(), function.sig.inputs.len() - 1))
        }
        _ => None,
    });
    methods.collect()
}

/// Rejects an `async` block inside of `this.with(…)`, which would borrow the state while it waits. The compiler would report this as an error of
/// lifetimes.
pub(crate) fn check_with(function: &mut ImplItemFn, kind: Kind) -> Result<()> {
    let this = match function.sig.inputs.first() {
        Some(FnArg::Typed(arg)) if kind == Kind::Async => match &*arg.pat {
            Pat::Ident(pat) => pat.ident.clone(),
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    let mut waits = WaitsInside { this, at: None };
    waits.visit_block_mut(&mut function.block);
    match waits.at {
        Some(at) => Err(Error::new(
            at,
            format!(
                "`{0}.with(…)` borrows the chare's state until its closure returns, so nothing can be awaited in the closure: return the values that you need from `{0}.with(|state| …)`, await, and call `with` again",
                waits.this
            ),
        )),
        None => Ok(()),
    }
}

struct WaitsInside {
    this: Ident,
    at: Option<Span>,
}

impl VisitMut for WaitsInside {
    fn visit_expr_method_call_mut(&mut self, call: &mut syn::ExprMethodCall) {
        let of_this = matches!(&*call.receiver, syn::Expr::Path(path) if path.path.is_ident(&self.this));
        if of_this
            && call.method == "with"
            && let Some(syn::Expr::Closure(closure)) = call.args.first()
        {
            let is_async = match &*closure.body {
                syn::Expr::Async(block) => Some(block.async_token.span),
                syn::Expr::Block(block) => match block.block.stmts.last() {
                    Some(syn::Stmt::Expr(syn::Expr::Async(block), None)) => Some(block.async_token.span),
                    _ => None,
                },
                _ => None,
            };
            self.at = self.at.or(is_async).or(closure.asyncness.map(|token| token.span));
        }
        visit_mut::visit_expr_method_call_mut(self, call);
    }
}

pub(crate) fn reject_borrow(ty: &Type, why: &str) -> Result<()> {
    let mut borrow = FirstBorrow(None);
    borrow.visit_type_mut(&mut ty.clone());
    if let Some(at) = borrow.0 {
        let text = format!("{why}, so they must be owned: `String` for `&str`, `Vec<T>` or `Payload<T>` for `&[T]`");
        return Err(Error::new(at, text));
    }
    let mut shared = FirstShared(None);
    shared.visit_type_mut(&mut ty.clone());
    match shared.0 {
        Some((at, name)) => Err(Error::new(
            at,
            format!(
                "{why}, and {name} cannot leave its thread: send the value in it, or a proxy of the chare that owns it"
            ),
        )),
        None => Ok(()),
    }
}

/// The first place in a type, at any depth, with a pointer to data of one thread. The compiler's own error would be a page long.
struct FirstShared(Option<(Span, String)>);

impl VisitMut for FirstShared {
    fn visit_type_path_mut(&mut self, path: &mut TypePath) {
        if let Some(last) = path.path.segments.last()
            && last.ident == "Rc"
        {
            self.0.get_or_insert_with(|| (last.ident.span(), "an `Rc`".to_owned()));
        }
        visit_mut::visit_type_path_mut(self, path);
    }
    fn visit_type_ptr_mut(&mut self, pointer: &mut syn::TypePtr) {
        self.0.get_or_insert_with(|| (pointer.star_token.span, "a raw pointer".to_owned()));
    }
}

/// The first place in a type, at any depth, with a borrow.
struct FirstBorrow(Option<Span>);

impl VisitMut for FirstBorrow {
    fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
        self.0.get_or_insert(reference.and_token.span);
    }
    fn visit_lifetime_mut(&mut self, lifetime: &mut syn::Lifetime) {
        if lifetime.ident != "static" {
            self.0.get_or_insert(lifetime.span());
        }
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;
    use crate::parse::last_name;
    use crate::parse::tests::complaint;

    #[test]
    fn an_entry_method_cannot_be_named_as_a_method_that_all_proxies_have() {
        for name in OF_PROXIES {
            let method = Ident::new(name, Span::call_site());
            let said = complaint(quote!(impl A { #[init] fn new() -> Self {} #[entry] fn #method(&self) {} }));
            assert!(said.starts_with(&format!("an entry method cannot be named `{name}`")), "{said}");
        }
        let said = complaint(quote!(impl A {
            #[init] fn new() -> Self {}
            #[entry] fn total(&self, x: u8) {}
            #[entry] fn total_sink(&self) {}
        }));
        assert!(said.starts_with("an entry method cannot be named `total_sink` beside `total`"), "{said}");
    }

    #[test]
    fn the_names_that_proxies_take_are_known() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/proxy.rs");
        let source = std::fs::read_to_string(path).expect("the crate `charm4rs` is beside this one");
        let file = syn::parse_file(&source).expect("`proxy.rs` can be parsed");
        let mut found = 0;
        for item in file.items {
            let syn::Item::Impl(block) = item else { continue };
            if !last_name(&block.self_ty).is_some_and(|name| name == "Proxy" || name == "All") {
                continue;
            }
            for method in block.items {
                let ImplItem::Fn(method) = method else { continue };
                // A user's program does not see the other methods, so they hide no entry method there.
                if !matches!(method.vis, syn::Visibility::Public(_)) {
                    continue;
                }
                let name = method.sig.ident.to_string();
                assert!(OF_PROXIES.contains(&&*name), "proxies have a method {name}, which is not in `OF_PROXIES`");
                found += 1;
            }
        }
        assert!(found >= 2, "`proxy.rs` has the methods of proxies");
    }
}
