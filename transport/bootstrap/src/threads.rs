//! A job whose "processes" are threads of one process, for tests. The wire-up and everything above it see no
//! difference.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::alone::{check_put, nothing_there};
use super::{Bootstrap, Control};
use charm4rs_transport_core::auth::{JobId, Secret};
use charm4rs_transport_core::{Layout, TransportError};

/// One process of such a job.
#[derive(Debug)]
pub struct Threads {
    rank: u32,
    layout: Layout,
    secret: Secret,
    shared: Arc<JobState>,
    control: Control,
    fences: usize,
    shares: usize,
}

#[derive(Debug, Default)]
struct JobState {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    values: HashMap<(u32, String), Vec<u8>>,
    fenced: usize,
    /// By the number of the exchange and the rank.
    fds: HashMap<(usize, u32), Vec<OwnedFd>>,
}

impl Threads {
    /// All processes of a job of this layout. Each must be used on a thread of its own.
    #[must_use]
    pub fn job(layout: &Layout) -> Vec<Self> {
        let shared = Arc::<JobState>::default();
        let process = |rank| Self {
            rank,
            layout: layout.clone(),
            secret: Secret::new([7; 32]),
            shared: shared.clone(),
            control: Control::new(None, true),
            fences: 0,
            shares: 0,
        };
        (0..layout.processes()).map(process).collect()
    }

    /// Opens something in every process of a job, each on a thread of its own, and returns the results by rank.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn open_all<T: Send>(layout: &Layout, open: impl Fn(&mut Self) -> Result<T, TransportError> + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let open = &open;
            let threads: Vec<_> =
                Self::job(layout).into_iter().map(|mut process| scope.spawn(move || open(&mut process))).collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
            joined.map(|opened| opened.unwrap_or_else(|e| panic!("a process does not wire up: {e}"))).collect()
        })
    }

    fn wait(&self, ready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.changed.wait_while(state, |state| !ready(state)).unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify_all();
    }
}

impl Bootstrap for Threads {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn job_id(&self) -> JobId {
        JobId(*b"threads!")
    }

    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn options(&self) -> &[(String, String)] {
        &[]
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError> {
        check_put(key, value)?;
        let rank = self.rank;
        self.change(|state| _ = state.values.insert((rank, key.to_owned()), value.to_owned()));
        Ok(())
    }

    fn fence(&mut self) -> Result<(), TransportError> {
        self.fences += 1;
        let all = self.fences * self.size() as usize;
        self.change(|state| state.fenced += 1);
        drop(self.wait(|state| state.fenced >= all));
        Ok(())
    }

    fn get(&mut self, rank: u32, key: &str) -> Result<Vec<u8>, TransportError> {
        let state = self.wait(|_| true);
        state.values.get(&(rank, key.to_owned())).cloned().ok_or_else(|| nothing_there(rank, key))
    }

    fn share_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError> {
        let copies = |fds: &mut dyn Iterator<Item = BorrowedFd<'_>>| {
            fds.map(|fd| fd.try_clone_to_owned()).collect::<Result<Vec<_>, _>>()
        };
        let own = copies(&mut fds.iter().copied()).map_err(|e| TransportError::system("dup", e))?;
        let (rank, number) = (self.rank, self.shares);
        self.shares += 1;
        self.change(|state| _ = state.fds.insert((number, rank), own));
        let processes = self.layout.processes_of(self.layout.host_of(rank));
        let state = self.wait(|state| processes.clone().all(|process| state.fds.contains_key(&(number, process))));
        let theirs = processes.map(|process| {
            use std::os::fd::AsFd as _;
            copies(&mut state.fds[&(number, process)].iter().map(|fd| fd.as_fd()))
        });
        theirs.collect::<Result<Vec<_>, _>>().map_err(|e| TransportError::system("dup", e))
    }

    fn control(&self) -> Control {
        self.control.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_visible_to_all_after_the_fence_and_descriptors_arrive_by_rank() {
        let layout = Layout::new(&[1, 2, 1], &[2, 1]);
        let seen = Threads::open_all(&layout, |process| {
            process.put("name", &[u8::try_from(process.rank()).unwrap() + 10])?;
            process.fence()?;
            let bell = charm4rs_transport_core::Doorbell::new()?;
            let fds = process.share_fds(&[bell.fd()])?;
            Ok((process.get_all("name")?.concat(), fds.len()))
        });
        assert_eq!(seen, [(vec![10, 11, 12], 2), (vec![10, 11, 12], 2), (vec![10, 11, 12], 1)]);
    }
}
