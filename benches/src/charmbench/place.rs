//! Where the two measured PEs run, and over which transport they communicate: this determines the limits.

use std::sync::OnceLock;

static PLACE: OnceLock<Place> = OnceLock::new();

/// Known in PE 0's process, once its port has connected to its partner's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) transport: &'static str,
    /// The CPUs of the two PEs; they are pinned, unless there are more PEs than cores.
    pub(crate) cpus: [usize; 2],
}

impl Place {
    pub(crate) fn set(self) {
        // A process has one job.
        let _ = PLACE.set(self);
    }

    pub(crate) fn get() -> Option<Self> {
        PLACE.get().copied()
    }
}

/// Runs the two sides on the two CPUs of the PEs, at the same time; returns the result of `here`.
pub(crate) fn on_two<T: Send>(here: impl FnOnce() -> T + Send, there: impl FnOnce() + Send) -> T {
    let cpus = Place::get().map_or([0, 1], |place| place.cpus);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpus[1]);
            there();
        });
        let here = scope.spawn(|| {
            pin(cpus[0]);
            here()
        });
        here.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Pins this thread, if the machine has the core and allows it.
fn pin(cpu: usize) {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    // Unpinned, the figure is only noisier.
    let _ = rustix::thread::sched_setaffinity(None, &cpus);
}

/// Lets this thread run on all cores that the system gives this process.
pub(crate) fn unpin() {
    let mut cpus = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| cpus.set(cpu));
    let _ = rustix::thread::sched_setaffinity(None, &cpus);
}
