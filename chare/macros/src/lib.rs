//! The macros of charm4rs: a thin layer over [`parse`], which parses the user's code or reports an error with its correction, and [`expand`], which
//! generates code.

#![forbid(unsafe_code)]

mod before;
mod checks;
mod data;
mod expand;
mod instances;
mod parse;
mod traits;

use proc_macro::TokenStream;

/// Makes the type of an `impl` block a chare: its `#[init]` method constructs it, its `#[entry]` methods can be called from any PE.
///
/// ```text
/// #[chare(index = usize)]              // `index`: the type of an element's index; without it: single chares only
/// impl Block {                         // `map = Type`: places the elements
///     #[init]
///     fn new(cx: &mut Cx<Self>, cells: usize) -> Self { … }
///     #[entry]
///     fn scale(&mut self, by: f64) -> f64 { … }                    // runs to its end; `cx: &mut Cx<Self>` is optional
///     #[entry]
///     async fn run(this: This<Self>, steps: u32) { … }             // may await; other methods run in the meantime
///     #[entry]
///     fn ghost(&mut self, step: u32, row: Payload<f64>);           // no body: received by `this.recv_ghost(…).await`
///     #[entry(key = step)]
///     fn edge(&mut self, step: u32, row: Payload<f64>);            // received by its `step`: `this.recv_edge(step).await`
///     #[entry(post = destination)]                                 // `destination(&mut self, which, bytes) -> Option<RecvBuffer>`
///     fn take(&mut self, rows: Payload<f64>) { … }                 // returns the destination of a payload from another process
///     fn helper(&self) { … }                                       // an ordinary method
/// }
/// ```
///
/// A generic type lists its instances. Each listed instance is a chare, as if the block were written for it:
/// `#[chare(index = usize, instances(f32, f64))] impl<T: Real> Block<T> { … }` makes `Block<f32>` and `Block<f64>` chares. Several parameters are
/// listed in parentheses: `instances((f32, 2), (f64, 3))`.
///
/// On a trait, the methods with `#[entry]` are entry methods of each chare that implements it by `#[chare] impl Trait for Chare { … }`. A proxy of
/// such a chare converts to an `AnyProxy<dyn Trait>`.
#[proc_macro_attribute]
pub fn chare(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let attribute = attribute.into();
    let made = match (syn::parse(item.clone()), syn::parse::<syn::ItemImpl>(item.clone())) {
        (Ok(item), _) => traits::chare_trait(&attribute, item),
        (_, Ok(block)) if block.trait_.is_some() => traits::implementation(&attribute, block),
        _ => parse::chare(attribute, item.clone().into()).map(|chare| expand::chare(&chare)),
    };
    made.unwrap_or_else(|error| {
        // If the macro was put on a type by mistake, the type stays, so that the compiler does not report it as missing, too.
        let kept = syn::parse::<syn::DeriveInput>(item).ok();
        let error = error.to_compile_error();
        quote::quote!(#error #kept)
    })
    .into()
}

/// Makes `async fn main(job: Job, args: Args)` the start of the program. It runs on PE 0.
///
/// Both parameters are optional; instead of `Args` it may take a type that derives `clap::Parser` (feature `clap`). The job ends when `main` returns.
#[proc_macro_attribute]
pub fn main(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let made = parse::main(attribute.into(), item.into()).map(|main| expand::main(&main));
    made.unwrap_or_else(|error| {
        let error = error.to_compile_error();
        // The compiler does not report a missing `main`, too.
        quote::quote!(#error fn main() {})
    })
    .into()
}

/// Makes a `static` of type `Readonly` a value that every process has. `main` sets it before it creates chares; all code reads it as `PARAMS.steps`.
///
/// ```text
/// #[charm4rs::readonly]
/// static PARAMS: Readonly<Params> = Readonly::new();
/// ```
#[proc_macro_attribute]
pub fn readonly(attribute: TokenStream, item: TokenStream) -> TokenStream {
    before::readonly(&attribute.into(), item.into()).into()
}

/// Makes a function run once in each process, before its PEs start, and so before any chare is created there: `fn prepare()`.
///
/// There is no job yet. The function can prepare data of the process, such as a library or a `static`. Several functions run in the order of their
/// paths. A panic ends the job.
#[proc_macro_attribute]
pub fn init_process(attribute: TokenStream, item: TokenStream) -> TokenStream {
    before::init("init_process", &attribute.into(), item.into()).into()
}

/// Makes a function run once on each PE, before any chare is created there, and before `main`: `fn prepare()` or `fn prepare(pe: Pe)`.
///
/// It runs on the PE's thread. There is no job yet. The function can prepare data of the thread, such as a thread-local value. Several functions run
/// in the order of their paths, after those of the process. A panic ends the job.
#[proc_macro_attribute]
pub fn init_pe(attribute: TokenStream, item: TokenStream) -> TokenStream {
    before::init("init_pe", &attribute.into(), item.into()).into()
}

/// Marks an entry method of a [`#[chare]`](macro@chare). `#[chare]` removes the mark; anywhere else the mark is an error.
#[proc_macro_attribute]
pub fn entry(_: TokenStream, item: TokenStream) -> TokenStream {
    misplaced(
        "`#[entry]` marks a method of a chare: put `#[chare]` (or `#[chare(index = …)]`) on its `impl` block",
        item,
    )
}

/// Marks the constructor of a [`#[chare]`](macro@chare). `#[chare]` removes the mark; anywhere else the mark is an error.
#[proc_macro_attribute]
pub fn init(_: TokenStream, item: TokenStream) -> TokenStream {
    misplaced(
        "`#[init]` marks a chare's constructor: put `#[chare]` (or `#[chare(index = …)]`) on its `impl` block",
        item,
    )
}

/// Makes a type whose values can be sent, as arguments, results and constructors' arguments. It derives `Serialize` and `Deserialize` from the serde
/// of charm4rs, so that a crate does not need its own dependency on serde.
///
/// ```text
/// #[data]
/// #[derive(Clone)]
/// struct Particle { position: [f64; 3], name: String }
/// ```
///
/// The attributes of serde, such as `#[serde(skip)]`, work in the type.
#[proc_macro_attribute]
pub fn data(attribute: TokenStream, item: TokenStream) -> TokenStream {
    data::data(&attribute.into(), item.into()).into()
}

fn misplaced(text: &str, item: TokenStream) -> TokenStream {
    let error = syn::Error::new(proc_macro2::Span::call_site(), text).to_compile_error();
    let item = proc_macro2::TokenStream::from(item);
    quote::quote!(#error #item).into()
}
