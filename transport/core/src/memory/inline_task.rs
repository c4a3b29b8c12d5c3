//! A closure stored in a block of a PE's slab until it runs, once. Calls from a PE to itself are such tasks: they cost no more memory than a message.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::Slab;
use super::buf::ALIGN;

/// Larger closures are boxed, and the box is stored.
const INLINE_MAX: usize = 512;

/// See the module's text. Dropping it drops what the closure holds.
///
/// ```
/// use charm4rs_transport_core::memory::{InlineTask, Slab};
/// let done = std::rc::Rc::new(std::cell::Cell::new(0));
/// let (slab, counter) = (Slab::new(), done.clone());
/// let task = InlineTask::new(&slab, move || counter.set(counter.get() + 1));
/// assert_eq!(done.get(), 0);
/// task.run();
/// assert_eq!(done.get(), 1);
/// ```
#[must_use]
pub struct InlineTask {
    block: NonNull<u8>,
    kind: &'static TaskVtable,
    slab: ManuallyDrop<Slab>,
}

/// The operations on a block, for the closure in it.
struct TaskVtable {
    run: unsafe fn(NonNull<u8>, Slab),
    discard: unsafe fn(NonNull<u8>, Slab),
}

trait Closure: FnOnce() + Sized {
    const KIND: TaskVtable = TaskVtable { run: run::<Self>, discard: discard::<Self> };
    const INLINE: bool = size_of::<Self>() <= INLINE_MAX && align_of::<Self>() <= ALIGN;
}

impl<F: FnOnce()> Closure for F {}

impl InlineTask {
    /// Puts `f` into a block of `slab`.
    #[inline]
    pub fn new<F: FnOnce() + 'static>(slab: &Slab, f: F) -> Self {
        if F::INLINE {
            Self::place(slab, f)
        } else {
            let boxed: Box<dyn FnOnce()> = Box::new(f);
            Self::place(slab, boxed)
        }
    }

    #[inline]
    fn place<F: FnOnce() + 'static>(slab: &Slab, f: F) -> Self {
        let block = slab.take(size_of::<F>());
        // SAFETY: the block belongs to this task, has at least that size, and is aligned for whatever `new` places.
        unsafe { block.cast::<F>().write(f) };
        Self { block, kind: &F::KIND, slab: ManuallyDrop::new(slab.clone()) }
    }

    /// Runs the closure.
    #[inline]
    pub fn run(self) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `place` wrote the closure that `kind` belongs to; as `this` is never dropped, this is the only use of the two.
        unsafe { (this.kind.run)(this.block, ManuallyDrop::take(&mut this.slab)) };
    }
}

/// A block that goes back to its slab when the closure has run, or has panicked. (It must not go back earlier: the closure would then be
/// copied out of it first, and from there to where it is used.)
struct Back<F> {
    block: NonNull<F>,
    slab: Slab,
}

impl<F> Drop for Back<F> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `run` and `discard` make one of a block that was taken for an F, and is not used again.
        unsafe { self.slab.give(self.block.cast(), size_of::<F>()) };
    }
}

/// # Safety
/// `block` was taken from `slab` for an `F`, holds one, and has no other user.
unsafe fn run<F: FnOnce()>(block: NonNull<u8>, slab: Slab) {
    let back = Back { block: block.cast::<F>(), slab };
    // SAFETY: the caller's promise.
    unsafe { back.block.read()() };
}

/// # Safety
/// As for [`run`].
unsafe fn discard<F: FnOnce()>(block: NonNull<u8>, slab: Slab) {
    let back = Back { block: block.cast::<F>(), slab };
    // SAFETY: the caller's promise.
    drop(unsafe { back.block.read() });
}

impl Drop for InlineTask {
    fn drop(&mut self) {
        // SAFETY: it was not run, so the closure of `place`, of this kind, is still there, and the slab has not been taken.
        unsafe { (self.kind.discard)(self.block, ManuallyDrop::take(&mut self.slab)) }
    }
}

impl fmt::Debug for InlineTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InlineTask").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[repr(align(128))]
    struct Wide(u8);

    /// Runs or drops a closure that holds `held` and a token.
    fn check<T: 'static>(held: T, run: bool) {
        let (slab, token, ran) = (Slab::new(), Rc::new(()), Rc::new(Cell::new(false)));
        let (inside, flag) = (token.clone(), ran.clone());
        let task = InlineTask::new(&slab, move || {
            let _held = (held, inside);
            flag.set(true);
        });
        assert_eq!((Rc::strong_count(&token), ran.get()), (2, false));
        if run {
            task.run()
        } else {
            drop(task)
        }
        assert_eq!((Rc::strong_count(&token), ran.get()), (1, run));
    }

    #[test]
    fn what_a_closure_holds_is_dropped_once_whether_it_runs_or_not() {
        for run in [true, false] {
            check((), run);
            check([1u8; 40], run);
            check([1u8; 512], run);
            check([1u64; 5000], run);
            check(Wide(3), run);
            check(String::from("a text"), run);
        }
    }

    #[test]
    fn the_block_of_a_task_is_reused_however_the_task_ends() {
        let slab = Slab::new();
        let first = InlineTask::new(&slab, || {});
        let block = first.block;
        first.run();
        let panics = InlineTask::new(&slab, || panic!("on purpose"));
        assert_eq!(panics.block, block);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panics.run())).is_err());
        let dropped = InlineTask::new(&slab, || {});
        assert_eq!(dropped.block, block);
        drop(dropped);
        assert_eq!(InlineTask::new(&slab, || {}).block, block);
    }

    #[test]
    fn a_value_with_a_large_alignment_is_aligned() {
        let wide = Wide(7);
        let task = InlineTask::new(&Slab::new(), move || {
            assert!(std::ptr::from_ref(&wide).addr().is_multiple_of(128));
            assert_eq!(wide.0, 7);
        });
        task.run();
    }
}
