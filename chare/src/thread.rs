//! Threads besides the PEs.

use std::thread::JoinHandle;

use charm4rs_scheduler::placement;

/// Starts a thread that may run on every CPU of the process.
///
/// PEs are pinned, each to a CPU, if there are enough, and a thread inherits the pinning of the thread that starts it: threads of
/// `std::thread::spawn` share the CPU of the PE that started them, and `std::thread::available_parallelism` is 1 in both. A thread of this function
/// is unpinned from its first instruction. It does not belong to a PE; it communicates with PEs like any other thread.
///
/// # Panics
/// If the system cannot start a thread, as `std::thread::spawn` does.
pub fn spawn_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(move || {
        unpin_thread();
        run()
    })
}

/// Lets the calling thread run on every CPU of the process. For threads that a library starts: `rayon`'s `ThreadPoolBuilder::start_handler`, for
/// example, calls it in each thread of a pool. Called by a PE, it unpins the PE.
pub fn unpin_thread() {
    placement::unpin();
}
