//! The key space of a launcher that speaks PMIx: Open MPI's `mpirun`, PRRTE's `prun`, `srun --mpi=pmix`. The library is the system's, or the
//! launcher's own. It is opened here; no other part of the process needs it.
//!
//! The library's calls have no time limit, so a separate thread makes them, and the caller waits for that thread no longer than the job's
//! patience. When the launcher is gone the library reports it, and the process ends.

mod library;

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use self::library::{ALL, PLACE, Pmix, Proc, Status};
use super::alone::check_put;
use super::site::{Ending, KeySpace, LEAVE, check_place, not_all, silent};
use super::{VALUE_MAX, sys};
use charm4rs_transport_core::TransportError;

/// The variable that names the launcher's job.
pub(super) const VARIABLE: &str = "PMIX_NAMESPACE";
/// How many seconds the library holds events back to combine them: 1 by default.
const WINDOW: &str = "PMIX_MCA_pmix_event_caching_window";

/// A process's connection to such a launcher.
#[derive(Debug)]
pub(super) struct PmixSpace {
    line: Arc<Line>,
    own: Proc,
    size: u32,
    patience: Duration,
    /// A value was put since the last fence.
    fresh: bool,
}

type Call = Box<dyn FnOnce(&Pmix) + Send>;

/// The library, and the thread that calls it.
#[derive(Debug)]
struct Line {
    pmix: &'static Pmix,
    calls: Sender<Call>,
}

impl Line {
    fn open() -> Result<Self, TransportError> {
        let pmix = Pmix::open().map_err(|why| {
            TransportError::Startup(format!(
                "a launcher that speaks PMIx started this process, and its library cannot be opened: {why} ({PLACE} names another one, ++bootstrap alone runs without the launcher)"
            ))
        })?;
        let (calls, asked) = channel::<Call>();
        super::listener("charm4rs-pmix", move || asked.into_iter().for_each(|call| call(pmix)))?;
        Ok(Self { pmix, calls })
    }

    /// Makes a call of the library. `None`: it took longer than `patience`.
    fn call<R: Send + 'static>(&self, patience: Duration, call: impl FnOnce(&Pmix) -> R + Send + 'static) -> Option<R> {
        let (tell, answer) = channel();
        let call: Call = Box::new(move |pmix| {
            // The caller may have given up.
            let _ = tell.send(call(pmix));
        });
        self.calls.send(call).ok()?;
        answer.recv_timeout(patience).ok()
    }

    fn failed(&self, what: &str, status: Status) -> TransportError {
        TransportError::Startup(format!("the launcher's PMIx: {what}: {}", self.pmix.describe(status)))
    }
}

impl PmixSpace {
    /// Takes the place that the launcher made for this process. No answer may take longer than `patience`.
    ///
    /// # Errors
    /// If there is no library, or the launcher cannot be reached.
    pub(super) fn find(patience: Duration) -> Result<Self, TransportError> {
        sys::set_variable(WINDOW, "0");
        let line = Arc::new(Line::open()?);
        let own = line.call(patience, Pmix::init).ok_or_else(|| silent(patience))?;
        let own = own.map_err(|status| line.failed("joining the job", status))?;
        line.pmix.watch(|code| sys::end_process(code.into()));
        let mut space = Self { line, own, size: 0, patience, fresh: false };
        let seconds = space.seconds();
        let all = own.with_rank(ALL);
        let size =
            space.ask("how many processes there are", move |pmix| pmix.number(&all, "pmix.job.size", seconds))?;
        space.size = size.unwrap_or_default();
        check_place(own.rank, space.size)?;
        Ok(space)
    }

    fn seconds(&self) -> u32 {
        u32::try_from(self.patience.as_secs()).unwrap_or(u32::MAX).clamp(1, i32::MAX.cast_unsigned())
    }

    fn ask<R: Send + 'static>(
        &self,
        what: &str,
        call: impl FnOnce(&Pmix) -> Result<R, Status> + Send + 'static,
    ) -> Result<R, TransportError> {
        let answer = self.line.call(self.patience, call).ok_or_else(|| silent(self.patience))?;
        answer.map_err(|status| self.line.failed(what, status))
    }
}

/// The key of a value in the job's key space.
fn name_of(key: &str) -> String {
    format!("charm4rs.{key}")
}

impl KeySpace for PmixSpace {
    fn rank(&self) -> u32 {
        self.own.rank
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError> {
        check_put(key, value)?;
        self.fresh = true;
        let (name, value) = (name_of(key), value.to_vec());
        self.ask("publishing", move |pmix| pmix.put(&name, &value))
    }

    fn fence(&mut self) -> Result<(), TransportError> {
        if std::mem::take(&mut self.fresh) {
            self.ask("publishing", Pmix::commit)?;
        }
        let met = self.line.call(self.patience, Pmix::fence).ok_or_else(|| not_all(self.size, self.patience))?;
        met.map_err(|status| self.line.failed("waiting for the others", status))
    }

    fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, TransportError> {
        check_put(key, &[])?;
        let (of, name, seconds) = (self.own.with_rank(rank), name_of(key), self.seconds());
        self.ask("asking for a published value", move |pmix| pmix.bytes(&of, &name, seconds, VALUE_MAX))
    }

    fn ending(&self) -> Arc<dyn Ending> {
        self.line.clone()
    }
}

impl Ending for Line {
    /// On a thread of its own: the other one may wait for processes that do not come.
    fn abort(&self, code: u8) {
        let pmix = self.pmix;
        let (tell, told) = channel();
        let ask = move || {
            pmix.abort(code);
            let _ = tell.send(());
        };
        if super::listener("charm4rs-abort", ask).is_ok() {
            let _ = told.recv_timeout(LEAVE);
        }
    }

    fn finish(&self) {
        let _ = self.call(LEAVE, Pmix::finalize);
    }
}
