//! What the compiler says to a program that takes something of a PE to another thread. A PE's runtime is not `Sync`: its cells say so, each in an
//! error of its own. An implementation whose bound never holds says it once, and what to do instead. Knows nothing of what the runtime holds.

use super::Runtime;

/// Implemented by nothing.
#[diagnostic::on_unimplemented(
    message = "the job, replies, and what an entry method sees of its surroundings stay on the thread of their PE",
    label = "cannot be moved to another thread",
    note = "a thread reaches the job through a `Remote`: `let remote = job.remote();` on the PE, then `remote.run(move |job| …)` or `remote.wait(move |job| …)` on the thread; proxies can be moved there"
)]
pub trait LeavesItsPe {}

// SAFETY: nothing implements the trait, so the bound never holds, and the runtime is not `Sync`. (The lifetime keeps the compiler from asking for
// the bound here.)
unsafe impl Sync for Runtime where for<'pe> &'pe (): LeavesItsPe {}
