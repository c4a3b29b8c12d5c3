//! The macros of charm4rs: a thin shell over [`parse`] (what the user wrote, or an error that teaches) and
//! [`expand`] (what becomes of it).

#![forbid(unsafe_code)]

mod before;
mod checks;
mod data;
mod expand;
mod instances;
mod parse;
mod traits;

use proc_macro::TokenStream;

/// Makes the type of an `impl` block a chare: its `#[init]` constructs it, its `#[entry]` methods can be called from
/// everywhere.
///
/// ```text
/// #[chare(index = usize)]              // `index`: what names an element; without it: single chares only
/// impl Block {                         // `map = Type`: where elements are placed
///     #[init]
///     fn new(cx: &mut Cx<Self>, cells: usize) -> Self { … }
///     #[entry]
///     fn scale(&mut self, by: f64) -> f64 { … }                    // runs to its end; `cx: &mut Cx<Self>` is optional
///     #[entry]
///     async fn run(this: This<Self>, steps: u32) { … }             // may await; other methods run meanwhile
///     #[entry]
///     fn ghost(&mut self, step: u32, row: Payload<f64>);           // no body: received by `this.recv_ghost(…).await`
///     #[entry(key = step)]
///     fn edge(&mut self, step: u32, row: Payload<f64>);            // received by its `step`: `this.recv_edge(step).await`
///     #[entry(post = destination)]                                     // `destination(&mut self, which, bytes) -> Option<RecvBuffer>`
///     fn take(&mut self, rows: Payload<f64>) { … }                 // says where a payload from afar shall land
///     fn helper(&self) { … }                                       // an ordinary method
/// }
/// ```
///
/// A generic type is a chare for the instances that are listed, as if the block were written for each of them:
/// `#[chare(index = usize, instances(f32, f64))] impl<T: Real> Block<T> { … }` makes chares of `Block<f32>` and `Block<f64>`. Several parameters are
/// listed in parentheses: `instances((f32, 2), (f64, 3))`.
///
/// On a trait, the methods with `#[entry]` are entry methods of each chare that implements it by `#[chare] impl Trait for Chare { … }`: a proxy of such a
/// chare becomes an `AnyProxy<dyn Trait>`.
#[proc_macro_attribute]
pub fn chare(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let attribute = attribute.into();
    let made = match (syn::parse(item.clone()), syn::parse::<syn::ItemImpl>(item.clone())) {
        (Ok(item), _) => traits::chare_trait(&attribute, item),
        (_, Ok(block)) if block.trait_.is_some() => traits::implementation(&attribute, block),
        _ => parse::chare(attribute, item.clone().into()).map(|chare| expand::chare(&chare)),
    };
    made.unwrap_or_else(|error| {
        // A type that the macro was put on by mistake stays, so that nothing else is reported missing.
        let kept = syn::parse::<syn::DeriveInput>(item).ok();
        let error = error.to_compile_error();
        quote::quote!(#error #kept)
    })
    .into()
}

/// Makes `async fn main(job: Job, args: Args)` the program's start, run on PE 0.
///
/// Both parameters are optional; instead of `Args` it may take a type that derives `clap::Parser` (feature `clap`). The job ends when `main` returns.
#[proc_macro_attribute]
pub fn main(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let made = parse::main(attribute.into(), item.into()).map(|main| expand::main(&main));
    made.unwrap_or_else(|error| {
        let error = error.to_compile_error();
        // So that no `main` is reported missing, too.
        quote::quote!(#error fn main() {})
    })
    .into()
}

/// Makes a `static` of type `Readonly` one that every process has: `main` sets it before it makes chares, and reads are `PARAMS.steps` everywhere.
///
/// ```text
/// #[charm4rs::readonly]
/// static PARAMS: Readonly<Params> = Readonly::new();
/// ```
#[proc_macro_attribute]
pub fn readonly(attribute: TokenStream, item: TokenStream) -> TokenStream {
    before::readonly(&attribute.into(), item.into()).into()
}

/// Has a function run once in each process, before its PEs begin, and so before any chare is made there: `fn prepare()`.
///
/// There is no job yet: it prepares what the process has, such as a library or a `static`. Several functions run in the order of their paths; a panic
/// ends the job.
#[proc_macro_attribute]
pub fn init_process(attribute: TokenStream, item: TokenStream) -> TokenStream {
    before::init("init_process", &attribute.into(), item.into()).into()
}

/// Has a function run once on each PE, before any chare is made there, and before `main`: `fn prepare()` or `fn prepare(pe: Pe)`.
///
/// It runs on the PE's thread. There is no job yet: it prepares what the thread has, such as a thread-local value. Several functions run in the order of
/// their paths, behind those of the process; a panic ends the job.
#[proc_macro_attribute]
pub fn init_pe(attribute: TokenStream, item: TokenStream) -> TokenStream {
    before::init("init_pe", &attribute.into(), item.into()).into()
}

/// Marks an entry method of a [`#[chare]`](macro@chare), which takes the mark away: found anywhere else, it says so.
#[proc_macro_attribute]
pub fn entry(_: TokenStream, item: TokenStream) -> TokenStream {
    misplaced(
        "`#[entry]` marks a method of a chare: put `#[chare]` (or `#[chare(index = …)]`) on its `impl` block",
        item,
    )
}

/// Marks the constructor of a [`#[chare]`](macro@chare), which takes the mark away: found anywhere else, it says so.
#[proc_macro_attribute]
pub fn init(_: TokenStream, item: TokenStream) -> TokenStream {
    misplaced(
        "`#[init]` marks a chare's constructor: put `#[chare]` (or `#[chare(index = …)]`) on its `impl` block",
        item,
    )
}

/// Makes a type one whose values travel, as arguments, results and constructors' arguments: it derives serde's `Serialize` and
/// `Deserialize`, from the serde of charm4rs, so that a crate needs no serde of its own.
///
/// ```text
/// #[data]
/// #[derive(Clone)]
/// struct Particle { position: [f64; 3], name: String }
/// ```
///
/// Attributes of serde's (`#[serde(skip)]`) work in it.
#[proc_macro_attribute]
pub fn data(attribute: TokenStream, item: TokenStream) -> TokenStream {
    data::data(&attribute.into(), item.into()).into()
}

fn misplaced(text: &str, item: TokenStream) -> TokenStream {
    let error = syn::Error::new(proc_macro2::Span::call_site(), text).to_compile_error();
    let item = proc_macro2::TokenStream::from(item);
    quote::quote!(#error #item).into()
}
