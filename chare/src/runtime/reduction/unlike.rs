//! Error texts for contributions that do not match. Knows nothing of how they are detected.

use super::Reductions;
use crate::message::wire::WireError;
use crate::runtime::exit::Failure;

/// Contributions that cannot be merged.
const UNLIKE: &str = "different types, vectors of different lengths, or for different receivers, to one reduction";

/// A contribution of another PE does not match those here.
pub(super) fn unlike(reductions: &Reductions, number: u64, what: &str) -> Failure {
    let (chare, number) = (reductions.chare, number + 1);
    let what = format!("in reduction {number} of {chare} {what}: elements contribute {UNLIKE}");
    Failure { code: 1, what }
}

/// A contribution does not match an earlier one of an element of this PE: panics in the entry method that makes it.
#[cold]
#[track_caller]
pub(super) fn refuse<V, R>(reductions: &Reductions, number: u64, earlier: &str) -> ! {
    let (chare, this, number) = (reductions.chare, contribution::<V, R>(), number + 1);
    panic!(
        "{this} does not fit reduction {number} of {chare}, to which an element has contributed {earlier}: elements contribute {UNLIKE}"
    )
}

/// The value and reducer of a contribution, as a user knows them.
pub(super) fn contribution<V, R>() -> String {
    format!("a {} with {}", bare_name(std::any::type_name::<V>()), bare_name(std::any::type_name::<R>()))
}

/// A type's name without the paths in it.
fn bare_name(name: &str) -> String {
    let mut bare = String::new();
    for word in name.split_inclusive(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':')) {
        bare.push_str(word.rsplit("::").next().unwrap_or(word));
    }
    bare
}

pub(super) fn cannot_be_sent(error: &WireError) -> Failure {
    Failure { code: 1, what: format!("a contribution cannot be sent: {error}") }
}
