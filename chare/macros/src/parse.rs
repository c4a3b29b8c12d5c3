//! Parses and checks the user's code. Every error says what to write instead.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemFn, ItemImpl, Meta, Pat, Receiver, ReceiverKind, Result,
    ReturnType, Safety, Signature, TraitItemFn, Type, TypePath,
};

use crate::checks::{check_name, check_sinks, check_with, helpers, reject_borrow};
use crate::instances::{Instance, compact, instances, last_part};

/// An `impl` block under `#[chare]`.
pub(crate) struct Chare {
    /// The block without the attributes of charm4rs, without receives, and without parameters.
    pub(crate) block: ItemImpl,
    pub(crate) name: Ident,
    /// The name with the type's arguments.
    pub(crate) text: String,
    /// The instances of a generic chare.
    pub(crate) instances: Vec<Instance>,
    pub(crate) index: Option<Type>,
    pub(crate) map: Option<Type>,
    pub(crate) init: Init,
    pub(crate) entries: Vec<Entry>,
    /// The other methods of the block, which proxies do not have, and the numbers of their arguments.
    pub(crate) helpers: Vec<(Ident, usize)>,
}

pub(crate) struct Init {
    pub(crate) name: Ident,
    pub(crate) takes_cx: bool,
    pub(crate) args: Vec<Type>,
}

pub(crate) struct Entry {
    pub(crate) name: Ident,
    pub(crate) docs: Vec<Attribute>,
    pub(crate) kind: Kind,
    /// Names and types of the arguments, without `self`, `cx` and `this`.
    pub(crate) args: Vec<(Ident, Type)>,
    pub(crate) output: Type,
    /// The method that returns the destinations of payloads.
    pub(crate) post: Option<Ident>,
    /// The position of the key among the arguments. A receive takes calls by the key.
    pub(crate) key: Option<usize>,
    /// The parentheses with the parameters: the place where errors of the parameters are reported.
    pub(crate) parens: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Plain { takes_cx: bool },
    Async,
    Receive,
}

/// A `main` under `#[charm4rs::main]`.
pub(crate) struct Main {
    pub(crate) function: ItemFn,
}

pub(crate) fn error<T>(at: impl Spanned, text: &str) -> Result<T> {
    Err(Error::new(at.span(), text))
}

pub(crate) fn chare(attribute: TokenStream, item: TokenStream) -> Result<Chare> {
    let mut block: ItemImpl = syn::parse2(item.clone()).map_err(|_| {
        Error::new(item.span(), "`#[chare]` belongs on the `impl` block of the chare's type, not on the type itself")
    })?;
    let name = chare_name(&block)?;
    let Options { index, map, instances: listed } = options(attribute)?;
    let self_type = (*block.self_ty).clone();
    let generics = std::mem::take(&mut block.generics);
    let is_generic = !generics.params.is_empty() || listed.is_some();
    let instances = if is_generic { instances(&generics, &self_type, listed.as_ref())? } else { Vec::new() };
    let text = last_part(&compact(&self_type.to_token_stream()));
    let mut init = None;
    let mut entries = Vec::new();
    let mut kept = Vec::new();
    for item in std::mem::take(&mut block.items) {
        match marked(item)? {
            Marked::No(item) => kept.push(item),
            Marked::Init(function) => {
                let parsed = parse_init(&function, &self_type)?;
                if init.replace(parsed).is_some() {
                    return error(&function.sig, "a chare has one `#[init]`: this is the second");
                }
                kept.push(ImplItem::Fn(function));
            }
            Marked::Entry(mut function, options) => {
                let entry = parse_entry(&function.sig, &function.attrs, true, &self_type)?;
                check_with(&mut function, entry.kind)?;
                entries.push(options.of(entry)?);
                kept.push(ImplItem::Fn(function));
            }
            Marked::Receive(function, options) => {
                let entry = parse_entry(&function.sig, &function.attrs, false, &self_type)?;
                entries.push(options.of(entry)?);
            }
        }
    }
    let Some(init) = init else {
        return error(&name, "a chare needs a constructor: mark one `fn(…) -> Self` of this block with `#[init]`");
    };
    check_sinks(&entries)?;
    for method in entries.iter().filter_map(|entry| entry.post.as_ref()) {
        check_post(method, &kept)?;
    }
    let helpers = helpers(&kept, &entries);
    block.items = kept;
    Ok(Chare { block, name, text, instances, index, map, init, entries, helpers })
}

fn chare_name(block: &ItemImpl) -> Result<Ident> {
    match &*block.self_ty {
        Type::Path(TypePath { qself: None, path, .. }) => {
            Ok(path.segments.last().expect("a path has a last part").ident.clone())
        }
        other => error(other, "a chare is a struct or an enum"),
    }
}

#[derive(Default)]
struct Options {
    index: Option<Type>,
    map: Option<Type>,
    instances: Option<(Span, TokenStream)>,
}

fn options(attribute: TokenStream) -> Result<Options> {
    let Options { mut index, mut map, mut instances } = Options::default();
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("instances") {
            let content;
            syn::parenthesized!(content in meta.input);
            instances = Some((meta.path.span(), content.parse()?));
            return Ok(());
        }
        let slot = if meta.path.is_ident("index") {
            &mut index
        } else if meta.path.is_ident("map") {
            &mut map
        } else {
            return Err(meta.error("`#[chare]` takes `index = Type`, `map = Type` and `instances(Type, …)`"));
        };
        *slot = Some(meta.value()?.parse()?);
        Ok(())
    });
    parser.parse2(attribute)?;
    Ok(Options { index, map, instances })
}

enum Marked {
    No(ImplItem),
    Init(ImplItemFn),
    Entry(ImplItemFn, EntryOptions),
    Receive(TraitItemFn, EntryOptions),
}

/// Removes the attribute of this name and returns it.
pub(crate) fn take(attrs: &mut Vec<Attribute>, name: &str) -> Option<Meta> {
    attrs.iter().position(|attr| attr.path().is_ident(name)).map(|at| attrs.remove(at).meta)
}

/// Finds `#[init]` and `#[entry]`, and removes them.
fn marked(item: ImplItem) -> Result<Marked> {
    match item {
        ImplItem::Fn(mut function) => {
            match take(&mut function.attrs, "init") {
                Some(Meta::Path(_)) => return Ok(Marked::Init(function)),
                Some(other) => return error(other, "`#[init]` takes no options"),
                None => {}
            }
            if let Some(meta) = take(&mut function.attrs, "entry") {
                return Ok(Marked::Entry(function, entry_options(&meta)?));
            }
            Ok(Marked::No(ImplItem::Fn(function)))
        }
        // A method without a body is not a valid item of an `impl` block: syn returns its tokens unparsed.
        ImplItem::Verbatim(tokens) => match syn::parse2::<TraitItemFn>(without_visibility(&tokens)) {
            Ok(mut function) => {
                if let Some(meta) = take(&mut function.attrs, "entry") {
                    return Ok(Marked::Receive(function, entry_options(&meta)?));
                }
                error(
                    function.sig,
                    "a method without a body needs `#[entry]`: an `async` method then receives its calls",
                )
            }
            Err(_) => Ok(Marked::No(ImplItem::Verbatim(tokens))),
        },
        other => Ok(Marked::No(other)),
    }
}

/// `#[entry]`, `#[entry(post = method)]`, or `#[entry(key = argument)]`.
#[derive(Default)]
struct EntryOptions {
    post: Option<Ident>,
    key: Option<Ident>,
}

fn entry_options(meta: &Meta) -> Result<EntryOptions> {
    let mut options = EntryOptions::default();
    if let Meta::Path(_) = meta {
        return Ok(options);
    }
    let Meta::List(list) = meta else {
        return error(meta, "write `#[entry]`, `#[entry(post = method)]`, or `#[entry(key = argument)]`");
    };
    list.parse_nested_meta(|option| {
        let slot = match () {
            () if option.path.is_ident("post") => &mut options.post,
            () if option.path.is_ident("key") => &mut options.key,
            () => {
                return Err(option.error(
                    "`#[entry]` takes `post = method` and `key = argument`; priorities belong to calls: `proxy.method().priority(-1)`",
                ));
            }
        };
        *slot = Some(option.value()?.parse()?);
        Ok(())
    })?;
    Ok(options)
}

impl EntryOptions {
    fn of(self, entry: Entry) -> Result<Entry> {
        let Some(key) = self.key else { return Ok(Entry { post: self.post, ..entry }) };
        let name = &entry.name;
        if entry.kind != Kind::Receive {
            return error(
                &key,
                &format!(
                    "only an entry method without a body has a key, by which its calls are received: `fn {name}(…);`, and `this.recv_{name}(key).await`"
                ),
            );
        }
        let Some(at) = entry.args.iter().position(|(arg, _)| *arg == key) else {
            let args: Vec<_> = entry.args.iter().map(|(arg, _)| format!("`{arg}`")).collect();
            let known = if args.is_empty() { "it has none".to_owned() } else { format!("it has {}", args.join(", ")) };
            return error(&key, &format!("the key of `{name}` is one of its arguments: {known}"));
        };
        Ok(Entry { post: self.post, key: Some(at), ..entry })
    }
}

/// Checks the parameters of the method that returns the destinations of payloads, if this block has the method. The compiler checks their types.
fn check_post(method: &Ident, items: &[ImplItem]) -> Result<()> {
    let found = items.iter().find_map(|item| match item {
        ImplItem::Fn(function) if function.sig.ident == *method => Some(&function.sig),
        _ => None,
    });
    let Some(sig) = found else { return Ok(()) };
    let by_reference =
        sig.receiver().is_some_and(|receiver| matches!(receiver.kind, ReceiverKind::Reference(_, _, Some(_))));
    if by_reference && sig.inputs.len() == 3 && sig.asyncness.is_none() && sig.generics.params.is_empty() {
        return Ok(());
    }
    error(
        sig,
        &format!(
            "the method that returns the destinations of payloads is `fn {method}(&mut self, which: usize, bytes: usize) -> Option<RecvBuffer>`: `which` is the payload's number in the call, `bytes` is its size"
        ),
    )
}

/// Drops `pub` or `pub(…)` in front of `fn` or `async`, because a method of a trait has no visibility.
fn without_visibility(tokens: &TokenStream) -> TokenStream {
    let mut kept: Vec<proc_macro2::TokenTree> = Vec::new();
    let mut tokens = tokens.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        if matches!(&token, proc_macro2::TokenTree::Ident(ident) if ident == "pub") {
            if matches!(tokens.peek(), Some(proc_macro2::TokenTree::Group(_))) {
                tokens.next();
            }
            kept.extend(tokens);
            break;
        }
        kept.push(token);
    }
    kept.into_iter().collect()
}

fn parse_init(function: &ImplItemFn, self_type: &Type) -> Result<Init> {
    let sig = &function.sig;
    plain_signature(sig)?;
    if let Some(receiver) = sig.receiver() {
        return error(receiver, "a constructor has no `self`: it creates the chare");
    }
    if let Some(asyncness) = sig.asyncness {
        return error(
            asyncness,
            "a constructor cannot be `async`: call an `async` entry method of the new chare instead",
        );
    }
    let mut inputs: Vec<&FnArg> = sig.inputs.iter().collect();
    let takes_cx = inputs.first().is_some_and(|arg| is_cx(arg));
    if takes_cx {
        inputs.remove(0);
    }
    let args = arguments(&inputs, self_type)?.into_iter().map(|(_, ty)| ty).collect();
    Ok(Init { name: sig.ident.clone(), takes_cx, args })
}

pub(crate) fn parse_entry(sig: &Signature, attrs: &[Attribute], body: bool, self_type: &Type) -> Result<Entry> {
    check_name(&sig.ident)?;
    plain_signature(sig)?;
    let mut inputs: Vec<&FnArg> = sig.inputs.iter().collect();
    let kind = if sig.asyncness.is_some() {
        if let Some(receiver) = sig.receiver() {
            return error(
                receiver,
                "an `async` entry method takes `this: This<Self>` instead of `self`: while it waits, other entry methods of the chare run, so it borrows the chare's state only inside `this.with(|state| …)`",
            );
        }
        if !inputs.first().is_some_and(|arg| is_named_type(arg, "This")) {
            return error(&sig.ident, "the first parameter of an `async` entry method is `this: This<Self>`");
        }
        if !body {
            return error(
                &sig.ident,
                "an entry method without a body cannot be `async`: an `async` method receives its calls",
            );
        }
        inputs.remove(0);
        Kind::Async
    } else {
        match inputs.first() {
            Some(FnArg::Receiver(Receiver { kind: ReceiverKind::Reference(..), .. })) => {}
            Some(FnArg::Receiver(receiver)) => {
                return error(receiver, "an entry method borrows the chare: write `&mut self` or `&self`");
            }
            _ => {
                return error(
                    &sig.ident,
                    "the first parameter of an entry method is `&mut self` or `&self` (or `this: This<Self>` if it is `async`)",
                );
            }
        }
        inputs.remove(0);
        let takes_cx = inputs.first().is_some_and(|arg| is_cx(arg));
        if takes_cx {
            inputs.remove(0);
        }
        if body { Kind::Plain { takes_cx } } else { Kind::Receive }
    };
    let mut output = match &sig.output {
        ReturnType::Default => syn::parse_quote!(()),
        ReturnType::Type(_, ty) => (**ty).clone(),
    };
    if kind == Kind::Receive && sig.output != ReturnType::Default {
        return error(
            &sig.output,
            "an entry method without a body has no result: the receiver can answer by a call or a `Promise`",
        );
    }
    reject_borrow(&output, "a result is sent to another PE")?;
    NameSelf(self_type).visit_type_mut(&mut output);
    let parens = sig.paren_token.span.join();
    let docs = attrs.iter().filter(|attr| attr.path().is_ident("doc")).cloned().collect();
    Ok(Entry {
        name: sig.ident.clone(),
        docs,
        kind,
        args: arguments(&inputs, self_type)?,
        output,
        post: None,
        key: None,
        parens,
    })
}

fn plain_signature(sig: &Signature) -> Result<()> {
    if !sig.generics.params.is_empty() {
        return error(&sig.generics, "an entry method cannot be generic: both sides of a call must know its types");
    }
    if let Safety::Unsafe(unsafety) = sig.safety {
        return error(unsafety, "an entry method cannot be `unsafe`: the runtime calls it");
    }
    Ok(())
}

/// The names and types of the arguments, with the chare's type in place of `Self`.
fn arguments(inputs: &[&FnArg], self_type: &Type) -> Result<Vec<(Ident, Type)>> {
    let mut args = Vec::new();
    for (at, input) in inputs.iter().enumerate() {
        let FnArg::Typed(arg) = input else { return error(input, "`self` comes first") };
        if is_cx(input) {
            return error(arg, "`cx: &mut Cx<Self>` comes before the arguments");
        }
        if matches!(*arg.ty, Type::ImplTrait(_)) {
            return error(&arg.ty, "an argument has one type: both sides of a call must know it");
        }
        reject_borrow(&arg.ty, "arguments are sent to another PE")?;
        let name = match &*arg.pat {
            Pat::Ident(pat) if pat.subpat.is_none() => pat.ident.clone(),
            other => Ident::new(&format!("argument_{at}"), other.span()),
        };
        let mut ty = (*arg.ty).clone();
        NameSelf(self_type).visit_type_mut(&mut ty);
        args.push((name, ty));
    }
    Ok(args)
}

/// Whether the argument is `&mut Cx<…>`, with any path.
fn is_cx(arg: &FnArg) -> bool {
    match arg {
        FnArg::Typed(arg) => {
            matches!(&*arg.ty, Type::Reference(reference) if last_name(&reference.elem).is_some_and(|name| name == "Cx"))
        }
        FnArg::Receiver(_) => false,
    }
}

fn is_named_type(arg: &FnArg, name: &str) -> bool {
    matches!(arg, FnArg::Typed(arg) if last_name(&arg.ty).is_some_and(|last| last == name))
}

pub(crate) fn last_name(ty: &Type) -> Option<&Ident> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|part| &part.ident),
        _ => None,
    }
}

/// Replaces `Self` by the chare's type, for code outside of its `impl` block.
struct NameSelf<'a>(&'a Type);

impl VisitMut for NameSelf<'_> {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if matches!(ty, Type::Path(path) if path.qself.is_none() && path.path.is_ident("Self")) {
            *ty = self.0.clone();
        } else {
            visit_mut::visit_type_mut(self, ty);
        }
    }
}

pub(crate) fn main(attribute: TokenStream, item: TokenStream) -> Result<Main> {
    if !attribute.is_empty() {
        return error(attribute, "`#[charm4rs::main]` takes no options");
    }
    let function: ItemFn = syn::parse2(item)?;
    if function.sig.asyncness.is_none() {
        return error(function.sig.fn_token, "the main of a job is `async`: `async fn main(job: Job, args: Args)`");
    }
    if function.sig.inputs.len() > 2 {
        return error(&function.sig.inputs, "the main of a job takes at most `(job: Job, args: Args)`");
    }
    Ok(Main { function })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use quote::quote;

    pub(crate) fn complaint(item: TokenStream) -> String {
        chare(TokenStream::new(), item).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_parts_of_an_impl_block_are_found() {
        let parsed = chare(
            quote!(index = (usize, i8)),
            quote!(impl a::B {
                #[init]
                fn new(cx: &mut Cx<Self>, n: usize, other: Proxy<Self>) -> Self { todo!() }
                /// Doc.
                #[entry]
                fn plain(&mut self, cx: &mut charm4rs::Cx<Self>, mut x: Vec<Self>) -> f64 { 0.0 }
                #[entry]
                async fn wait(this: This<Self>) {}
                #[entry]
                pub fn when(&mut self, (a, b): (u8, u8));
                fn helper(&self) {}
            }),
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed.name, "B");
        assert_eq!((parsed.init.takes_cx, parsed.init.args.len()), (true, 2));
        let kinds: Vec<_> = parsed.entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Plain { takes_cx: true }, Kind::Async, Kind::Receive]);
        let ty = &parsed.entries[0].args[0].1;
        assert_eq!(quote!(#ty).to_string(), "Vec < a :: B >");
        assert_eq!(parsed.entries[0].docs.len(), 1);
        assert_eq!(parsed.block.items.len(), 4, "receives are removed from the block, the other items stay");
    }

    #[test]
    fn each_instance_of_a_generic_chare_is_named() {
        let names = |attribute, item| match chare(attribute, item) {
            Ok(parsed) => parsed.instances.iter().map(|instance| instance.name.clone()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        let of_one = quote!(
            impl<T: Real> a::B<T> {
                #[init]
                fn new() -> Self {}
            }
        );
        let of_two = quote!(
            impl<T, const N: usize> B<N, Vec<T>> {
                #[init]
                fn new() -> Self {}
            }
        );
        assert_eq!(names(quote!(index = u8, instances(f32, a::C)), of_one.clone()), "B<f32> B<a::C>");
        assert_eq!(names(quote!(instances((f32, 2), (u8, 3),)), of_two.clone()), "B<2, Vec<f32>> B<3, Vec<u8>>");
        assert!(names(quote!(instances(f32)), of_two).contains("a list of 2 arguments"));
        assert!(names(quote!(instances()), of_one).contains("at least one instance"));
        let of_none = quote!(impl B { #[init] fn new() -> Self {} });
        assert!(names(quote!(instances(f32)), of_none).contains("belongs to a generic chare"));
    }

    #[test]
    fn each_mistake_is_explained() {
        for (item, words) in [
            (
                quote!(
                    struct A;
                ),
                "`impl` block",
            ),
            (quote!(impl A {}), "#[init]"),
            (
                quote!(
                    impl<T> A<T> {}
                ),
                "lists the arguments for `T`",
            ),
            (
                quote!(
                    impl<'a> A<'a> {}
                ),
                "lists the arguments for `a`",
            ),
            (quote!(impl A { #[init] fn new(&self) -> Self {} }), "no `self`"),
            (quote!(impl A { #[init] async fn new() -> Self {} }), "cannot be `async`"),
            (quote!(impl A { #[entry] fn f(self) {} }), "&mut self"),
            (quote!(impl A { #[entry] fn f(x: u8) {} }), "first parameter"),
            (quote!(impl A { #[entry] async fn f(&mut self) {} }), "This<Self>"),
            (quote!(impl A { #[entry] fn f<T>(&self, t: T) {} }), "generic"),
            (quote!(impl A { #[entry] fn f(&self, t: &str) {} }), "String"),
            (quote!(impl A { #[entry] fn f(&self, t: Vec<std::rc::Rc<u8>>) {} }), "an `Rc` cannot leave its thread"),
            (quote!(impl A { #[entry] fn f(&self, t: *const u8) {} }), "a raw pointer cannot leave"),
            (
                quote!(impl A { #[entry] async fn f(me: This<Self>) { me.with(|a| async { a.x }).await } }),
                "`me.with(…)` borrows",
            ),
            (
                quote!(impl A { #[entry] async fn f(this: This<Self>) { this.with(async |a| a.x).await } }),
                "nothing can be awaited",
            ),
            (quote!(impl A { #[entry] fn f(&self) -> &str { "" } }), "String"),
            (quote!(impl A { #[entry] fn f(&self, x: u8, cx: &mut Cx<Self>) {} }), "before the arguments"),
            (quote!(impl A { #[entry] fn f(&self) -> u8; }), "no result"),
            (quote!(impl A { fn f(&self); }), "needs `#[entry]`"),
            (quote!(impl A { #[entry(now)] fn f(&self) {} }), "post = method"),
            (quote!(impl A { #[entry(key = x)] fn f(&self, x: u8) {} }), "without a body"),
            (quote!(impl A { #[entry(key = y)] fn f(&self, x: u8, z: u8); }), "it has `x`, `z`"),
            (quote!(impl A { #[entry(key = y)] fn f(&self); }), "it has none"),
            (quote!(impl A { #[init(now)] fn f() {} }), "no options"),
        ] {
            let said = complaint(item.clone());
            assert!(said.contains(words), "{item}: {said}");
        }
    }
}
