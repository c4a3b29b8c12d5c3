//! Reducers that every process of the job knows by a number, so that the results of a call can be merged where they are.
//!
//! A reducer is a type, and a call of a collection names it by a number, which each PE looks up. So each pair of a result's type and a reducer's type
//! with which the program reduces a call is registered when the program is loaded, before `main`, in every process: the code of
//! [`Call::reduce`](crate::Call::reduce) contains an entry of `.init_array`, as chares do (through `inventory`, which cannot be used for generic
//! code). A reducer with state cannot be created from its type, and has no number.

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::{Merged, Merging, Reducer};
use crate::runtime::chare::Arguments;

type New = fn() -> Box<dyn Merging>;

static REGISTERED: Mutex<Vec<(u64, New)>> = Mutex::new(Vec::new());

/// The number of a reducer for results of type `V`; `None` if only this process knows it.
pub(crate) fn number<V: Arguments, R: Reducer<V> + Copy + Send>(reducer: R) -> Option<u64> {
    let _ = reducer; // there is one: see `stateless`
    if size_of::<R>() != 0 {
        return None;
    }
    register::<V, R>();
    let number = number_of::<V, R>();
    known().contains_key(&number).then_some(number)
}

/// The code that merges results by the reducer of this number.
pub(crate) fn merging(number: u64) -> Option<Box<dyn Merging>> {
    known().get(&number).map(|new| new())
}

fn known() -> &'static HashMap<u64, New> {
    static KNOWN: OnceLock<HashMap<u64, New>> = OnceLock::new();
    KNOWN.get_or_init(|| REGISTERED.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect())
}

/// A hash of the types, which is the same in all processes of a program.
fn number_of<V: 'static, R: 'static>() -> u64 {
    foldhash::fast::FixedState::default().hash_one(TypeId::of::<(V, R)>())
}

/// Lets [`on_load`] run when the program is loaded. Not inlined, so that there are few entries for a pair.
#[inline(never)]
fn register<V: Arguments, R: Reducer<V> + Copy + Send>() {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    // SAFETY: no instruction. The entry is the address of a function of the kind that the loader calls, which exists as long as the entry.
    unsafe {
        std::arch::asm!(
            ".pushsection .init_array,\"aw\",@init_array",
            ".balign 8",
            ".quad {on_load}",
            ".popsection",
            on_load = sym on_load::<V, R>,
            options(nomem, nostack, preserves_flags)
        );
    }
}

extern "C" fn on_load<V: Arguments, R: Reducer<V> + Copy + Send>() {
    let new: New = || Box::new(Merged::<V, R>::new(stateless()));
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner).push((number_of::<V, R>(), new));
}

/// The reducer of a type that has no state.
fn stateless<R: Copy + Send>() -> R {
    assert_eq!(size_of::<R>(), 0);
    // SAFETY: a value without bytes can be read from any aligned address. Such a value exists: only a caller that has one reduces a call (`number`),
    // and this is a copy of it, which may be on any thread.
    unsafe { NonNull::<R>::dangling().read() }
}
