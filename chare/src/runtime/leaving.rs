//! The compiler error for a program that moves something of a PE to another thread. A PE's runtime is not `Sync`, because of its cells, each of which
//! would cause an error of its own. An implementation whose bound never holds causes one error instead, with a remedy. Knows nothing of what the
//! runtime contains.

use super::Runtime;

/// No type implements it.
#[diagnostic::on_unimplemented(
    message = "the job, replies, and what an entry method sees of its surroundings stay on the thread of their PE",
    label = "cannot be moved to another thread",
    note = "a thread reaches the job through a `Remote`: `let remote = job.remote();` on the PE, then `remote.run(move |job| …)` or `remote.wait(move |job| …)` on the thread; proxies can be moved there"
)]
pub trait LeavesItsPe {}

// SAFETY: nothing implements the trait, so the bound never holds, and the runtime is not `Sync`. (The lifetime keeps the compiler from asking for
// the bound here.)
unsafe impl Sync for Runtime where for<'pe> &'pe (): LeavesItsPe {}
