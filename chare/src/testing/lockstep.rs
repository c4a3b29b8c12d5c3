//! A whole job on one thread over the transports of real jobs. Does not use the time, and never sleeps.

use std::fmt;
use std::rc::Rc;

use charm4rs_bootstrap::{HANGS, Threads};
use charm4rs_scheduler::{Config, Step};
use charm4rs_transport::port::PortBuilder;
use charm4rs_transport::wireup;
use charm4rs_transport::{Layout, Pe};
use charm4rs_transport::{TransportKind, TransportOptions};

use super::{First, Recorder};
use crate::runtime::{self, Failure, Rt};
use crate::{Job, pe, readonly};

/// A job that has not ended after so many rounds is considered endless.
const ROUNDS_MAX: u64 = 1 << 32;

/// The PEs of a job, all on this thread: they run when [`LockstepJob::settle`] is called, in turn. For benchmarks, and for tests of the cost of a
/// call: no other thread disturbs, and no PE sleeps.
pub struct LockstepJob {
    pes: Vec<Rt>,
    first: Rc<First>,
}

impl LockstepJob {
    /// The PEs belong to one process: arguments move between them.
    ///
    /// # Errors
    /// If the system is out of a resource.
    pub fn threads(pes: u32) -> Result<Self, Failure> {
        Self::open(wireup::local(Layout::one_host(pes, pes), &options(None)).map_err(|error| Failure::from(&error))?)
    }

    /// The PEs belong to different processes that communicate through shared memory: arguments are serialized.
    ///
    /// # Errors
    /// If the system is out of a resource.
    pub fn processes(pes: u32) -> Result<Self, Failure> {
        let options = options(Some(TransportKind::Shm));
        let builders = Threads::open_all(&Layout::one_host(pes, 1), |boot| wireup::open(boot, &options));
        Self::open(builders.into_iter().flatten().collect())
    }

    fn open(builders: Vec<PortBuilder>) -> Result<Self, Failure> {
        runtime::install_panic_hook();
        readonly::init_process()?;
        let mut job = Self { pes: Vec::new(), first: Rc::default() };
        for builder in builders {
            let port = builder.open().map_err(|error| Failure::from(&error))?;
            job.pes.push(pe::open(port, Config::default(), Rc::new(Recorder(job.first.clone()))));
        }
        Ok(job)
    }

    /// Runs `f` as code of a PE; [`LockstepJob::settle`] delivers its messages.
    ///
    /// # Panics
    /// If the job has no such PE, or `f` panics.
    pub fn on<R>(&self, pe: Pe, f: impl FnOnce(Job) -> R) -> R {
        let rt = self.pes[pe.index()];
        rt.enter(|| f(Job::of(rt)))
    }

    /// Steps all PEs in turn, until none has work.
    ///
    /// # Errors
    /// If there is a failure, or the job does not end.
    pub fn settle(&self) -> Result<(), Failure> {
        for _ in 0..ROUNDS_MAX {
            let mut busy = false;
            for rt in &self.pes {
                match rt.enter(|| pe::guarded(rt, || rt.sched.step(&pe::Dispatcher(rt)))) {
                    Some(Step::Busy) => busy = true,
                    Some(Step::Failed(error)) => return Err(Failure::from(&error)),
                    Some(Step::Idle { .. } | Step::Stopped(_)) | None => {}
                }
            }
            if let Some((_, failure)) = self.first.take() {
                return Err(failure);
            }
            if !busy {
                return Ok(());
            }
        }
        Err(Failure { code: HANGS, what: "the job does not settle".to_owned() })
    }
}

fn options(force: Option<TransportKind>) -> TransportOptions {
    TransportOptions { force, may_block: false, ..TransportOptions::default() }
}

impl Drop for LockstepJob {
    fn drop(&mut self) {
        for rt in &self.pes {
            rt.enter(|| pe::drain(rt));
        }
        for rt in &self.pes {
            // A failure to deliver does not matter any more.
            let _ = rt.enter(|| pe::close(rt));
        }
    }
}

impl fmt::Debug for LockstepJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockstepJob").field("pes", &self.pes.len()).finish_non_exhaustive()
    }
}
