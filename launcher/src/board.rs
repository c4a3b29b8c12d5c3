//! What processes exchange through the launcher before they have a transport: values, fences, and which processes still wait for descriptors. Knows
//! nothing of sockets: a request goes in, and the answers that it makes possible come out.

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use charm4rs_bootstrap::wire::ToProcess;
use charm4rs_transport_core::Layout;

/// The limit for all values together. Wire-up needs far less; a program that needs more uses this as a transport.
const VALUES_MAX: usize = 256 << 20;

/// A packet for one process.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) to: u32,
    pub(crate) packet: Rc<[u8]>,
    pub(crate) fds: Vec<Rc<OwnedFd>>,
}

impl Answer {
    pub(crate) fn new(to: u32, message: &ToProcess) -> Self {
        Self { to, packet: message.encode().into(), fds: Vec::new() }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BoardError {
    #[error("the process requested a fence while it waited for one")]
    Twice,
    #[error("announced descriptors did not arrive")]
    Descriptors,
    #[error("the values put before wire-up exceed {} MiB", VALUES_MAX >> 20)]
    TooMuch,
}

impl BoardError {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Twice | Self::Descriptors => 76,
            Self::TooMuch => 71,
        }
    }
}

/// Waits until each process has arrived once.
#[derive(Debug)]
pub(crate) struct Gathering {
    ranks: Range<u32>,
    here: Vec<bool>,
    missing: usize,
    since: Option<Instant>,
}

impl Gathering {
    pub(crate) fn new(ranks: Range<u32>) -> Self {
        Self { here: vec![false; ranks.len()], missing: ranks.len(), ranks, since: None }
    }

    /// Records an arrival. Returns whether all have arrived.
    pub(crate) fn come(&mut self, rank: u32) -> Result<bool, BoardError> {
        if std::mem::replace(&mut self.here[(rank - self.ranks.start) as usize], true) {
            return Err(BoardError::Twice);
        }
        self.since.get_or_insert_with(Instant::now);
        self.missing -= 1;
        if self.missing == 0 {
            self.here.fill(false);
            self.missing = self.here.len();
            self.since = None;
            return Ok(true);
        }
        Ok(false)
    }
}

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Board {
    layout: Layout,
    values: Vec<HashMap<String, Vec<u8>>>,
    bytes: usize,
    fence: Gathering,
    /// One for each host.
    sharing: Vec<Gathering>,
}

impl Board {
    pub(crate) fn new(layout: &Layout) -> Self {
        let size = layout.processes();
        Self {
            layout: layout.clone(),
            values: (0..size).map(|_| HashMap::new()).collect(),
            bytes: 0,
            fence: Gathering::new(0..size),
            sharing: (0..layout.hosts()).map(|host| Gathering::new(layout.processes_of(host))).collect(),
        }
    }

    pub(crate) fn put(&mut self, rank: u32, key: String, value: Vec<u8>) -> Result<(), BoardError> {
        self.bytes += key.len() + value.len();
        if self.bytes > VALUES_MAX {
            return Err(BoardError::TooMuch);
        }
        self.values[rank as usize].insert(key, value);
        Ok(())
    }

    pub(crate) fn get(&self, asker: u32, rank: u32, key: &str) -> Answer {
        let value = self.values.get(rank as usize).and_then(|values| values.get(key)).cloned();
        Answer::new(asker, &ToProcess::Value(value))
    }

    pub(crate) fn fence(&mut self, rank: u32) -> Result<Vec<Answer>, BoardError> {
        if !self.fence.come(rank)? {
            return Ok(Vec::new());
        }
        let packet: Rc<[u8]> = ToProcess::Fenced.encode().into();
        Ok((0..self.layout.processes()).map(|to| Answer { to, packet: packet.clone(), fds: Vec::new() }).collect())
    }

    /// A process has given its descriptors to the others of its host, and waits for theirs.
    pub(crate) fn shares(&mut self, rank: u32) {
        let host = self.layout.host_of(rank);
        // Its host detects a process that shares twice.
        let _ = self.sharing[host as usize].come(rank);
    }

    /// Since when processes have been waiting, and the ranks that they wait for.
    pub(crate) fn waiting(&self) -> Option<(Instant, Vec<u32>)> {
        let gathering =
            self.sharing.iter().chain([&self.fence]).filter(|g| g.since.is_some()).min_by_key(|g| g.since)?;
        let missing = gathering.ranks.clone().zip(&gathering.here).filter(|(_, here)| !**here).map(|(r, _)| r);
        gathering.since.map(|since| (since, missing.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(answers: &[Answer]) -> Vec<(u32, ToProcess)> {
        answers.iter().map(|a| (a.to, ToProcess::decode(&a.packet).unwrap())).collect()
    }

    #[test]
    fn a_fence_opens_when_the_last_process_comes_and_closes_behind_it() {
        let mut board = Board::new(&Layout::one_host(3, 1));
        for _ in 0..2 {
            assert!(board.fence(2).unwrap().is_empty() && board.fence(0).unwrap().is_empty());
            assert_eq!(board.waiting().map(|(_, missing)| missing), Some(vec![1]));
            assert_eq!(board.fence(0).unwrap_err(), BoardError::Twice);
            let open = decoded(&board.fence(1).unwrap());
            assert_eq!(open, [0, 1, 2].map(|to| (to, ToProcess::Fenced)));
            assert!(board.waiting().is_none());
        }
    }

    #[test]
    fn one_host_does_not_wait_for_the_processes_of_another() {
        let mut board = Board::new(&Layout::new(&[1; 4], &[2, 2]));
        board.shares(3);
        assert_eq!(board.waiting().map(|(_, missing)| missing), Some(vec![2]));
        board.shares(2);
        assert!(board.waiting().is_none());
    }

    #[test]
    fn a_value_is_found_by_its_owner_and_name_only() {
        let mut board = Board::new(&Layout::one_host(2, 1));
        board.put(1, "k".into(), b"v".to_vec()).unwrap();
        let get = |rank, key| decoded(&[board.get(0, rank, key)]).remove(0).1;
        assert_eq!(get(1, "k"), ToProcess::Value(Some(b"v".to_vec())));
        for (rank, key) in [(0, "k"), (1, "x"), (9, "k")] {
            assert_eq!(get(rank, key), ToProcess::Value(None));
        }
    }
}
