//! Access to a job from other threads, which give their work to a PE. Knows nothing of how it gets there.

use std::fmt;
use std::future::IntoFuture;
use std::sync::mpsc;

use charm4rs_transport::Pe;

pub use charm4rs_scheduler::{Hold, PeGone};

use crate::{Job, runtime};

/// A PE of the job, for threads that the program has started itself. Created by [`Job::remote`]; clone it, and send it to the threads.
///
/// Proxies, replies and the job itself work only on PEs: a proxy may be moved to another thread, like an argument, but its calls panic there. A
/// thread gives its work in the job to a PE as a closure, which runs there between two entry methods.
///
/// ```
/// # use charm4rs::prelude::*;
/// struct Log(Vec<String>);
///
/// #[chare]
/// impl Log {
///     #[init]
///     fn new() -> Self { Self(Vec::new()) }
///     #[entry]
///     fn add(&mut self, line: String) -> usize { self.0.push(line); self.0.len() }
/// }
/// # charm4rs::testing::threads(2, |job| async move {
///
/// let log = job.single::<Log>(());
/// let (remote, hold) = (job.remote(), job.hold());
/// let thread = std::thread::spawn(move || {
///     let line = "computed elsewhere".to_owned();
///     let lines = remote.wait(move |_| log.add(line)).unwrap();   // a call, and its result
///     remote.run(move |_| drop(log.add(format!("{lines} before")))).unwrap();   // no task waits for this call
///     drop(hold);
/// });
/// job.quiescence().await;   // waits for the thread, which has the hold, and for what it has called
/// assert_eq!(log.add("the end").await, 3);
/// # thread.join().unwrap();
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Remote {
    pe: Pe,
    remote: charm4rs_scheduler::Remote,
}

impl Remote {
    pub(crate) fn of(rt: runtime::Rt) -> Self {
        Self { pe: rt.sched.pe(), remote: rt.sched.remote() }
    }

    /// The PE.
    #[must_use]
    pub fn pe(&self) -> Pe {
        self.pe
    }

    /// Runs `f` on the PE, soon, and does not wait for it. Quiescence waits for it from now on; a thread that prepares this call holds a [`Hold`] in
    /// the meantime. A panic in `f` ends the job.
    ///
    /// # Errors
    /// If the PE has ended. (A PE that ends before it has run `f` drops it.)
    pub fn run(&self, f: impl FnOnce(Job) + Send + 'static) -> Result<(), PeGone> {
        self.remote.run(move |_| {
            let rt = runtime::current();
            if let Err(panic) = runtime::guard(|| f(Job::of(rt))) {
                rt.fail(runtime::Failure::panic("what a thread gave to a PE", &panic));
            }
        })
    }

    /// Runs `f` on the PE, and the call or future that it returns, and waits for the result. The thread sleeps in
    /// the meantime. A panic ends the job.
    ///
    /// # Errors
    /// If the PE has ended, or ends before there is a result.
    ///
    /// # Panics
    /// On a thread that is a PE itself: it must await the future instead.
    #[track_caller]
    pub fn wait<F, R>(&self, f: impl FnOnce(Job) -> F + Send + 'static) -> Result<R, PeGone>
    where
        F: IntoFuture<Output = R, IntoFuture: 'static>,
        R: Send + 'static,
    {
        let on_pe = runtime::try_current().is_some();
        assert!(!on_pe, "`Remote::wait` would keep a PE from its work: await the future there instead");
        let (to, from) = mpsc::channel();
        self.run(move |job| {
            let result = f(job).into_future();
            job.spawn(async move {
                // This fails only if the waiting thread has been killed.
                let _ = to.send(result.await);
            });
        })?;
        from.recv().map_err(|_| PeGone)
    }

    /// Keeps the job from being quiescent until the hold is dropped. Because the job may be quiescent before a thread calls this, take the thread's
    /// first hold on the PE, by [`Job::hold`].
    pub fn hold(&self) -> Hold {
        self.remote.hold()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote(PE {})", self.pe)
    }
}
