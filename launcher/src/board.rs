//! What processes exchange through the launcher before they have a transport: values, fences, and descriptors. Knows
//! nothing of sockets: a request goes in, and the answers that it makes possible come out.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use charm4rs_transport::bootstrap::wire::{FDS_MAX, ToProcess};

/// All values together. Wire-up needs far less; a program that needs more has mistaken this for a transport.
const VALUES_MAX: usize = 256 << 20;

/// A packet for one process.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) to: u32,
    pub(crate) packet: Rc<[u8]>,
    pub(crate) fds: Vec<Rc<OwnedFd>>,
}

/// Why a request cannot be met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BoardError {
    #[error("the process asked for a fence while it waited for one")]
    Twice,
    #[error("descriptors were announced that did not come")]
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

/// Waits until each process has come once.
#[derive(Debug)]
struct Gathering {
    here: Vec<bool>,
    missing: usize,
    since: Option<Instant>,
}

impl Gathering {
    fn new(size: u32) -> Self {
        Self { here: vec![false; size as usize], missing: size as usize, since: None }
    }

    /// Whether all are here now.
    fn come(&mut self, rank: u32) -> Result<bool, BoardError> {
        if std::mem::replace(&mut self.here[rank as usize], true) {
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
    size: u32,
    values: Vec<HashMap<String, Vec<u8>>>,
    bytes: usize,
    fence: Gathering,
    sharing: Gathering,
    fds: Vec<Vec<Rc<OwnedFd>>>,
}

impl Board {
    pub(crate) fn new(size: u32) -> Self {
        Self {
            size,
            values: (0..size).map(|_| HashMap::new()).collect(),
            bytes: 0,
            fence: Gathering::new(size),
            sharing: Gathering::new(size),
            fds: (0..size).map(|_| Vec::new()).collect(),
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
        Answer { to: asker, packet: ToProcess::Value(value).encode().into(), fds: Vec::new() }
    }

    pub(crate) fn fence(&mut self, rank: u32) -> Result<Vec<Answer>, BoardError> {
        if !self.fence.come(rank)? {
            return Ok(Vec::new());
        }
        let packet: Rc<[u8]> = ToProcess::Fenced.encode().into();
        Ok((0..self.size).map(|to| Answer { to, packet: packet.clone(), fds: Vec::new() }).collect())
    }

    pub(crate) fn share(&mut self, rank: u32, fds: Vec<OwnedFd>, more: bool) -> Result<Vec<Answer>, BoardError> {
        self.fds[rank as usize].extend(fds.into_iter().map(Rc::new));
        if more || !self.sharing.come(rank)? {
            return Ok(Vec::new());
        }
        let mut answers = Vec::new();
        for (rank, fds) in (0..self.size).zip(self.fds.iter_mut().map(std::mem::take)) {
            let mut rest = &fds[..];
            loop {
                let (chunk, after) = rest.split_at(rest.len().min(FDS_MAX));
                rest = after;
                let more = !rest.is_empty();
                let count = u16::try_from(chunk.len()).expect("at most FDS_MAX");
                let packet: Rc<[u8]> = ToProcess::Fds { rank, count, more }.encode().into();
                let others = (0..self.size).filter(|to| *to != rank);
                answers.extend(others.map(|to| Answer { to, packet: packet.clone(), fds: chunk.to_vec() }));
                if !more {
                    break;
                }
            }
        }
        Ok(answers)
    }

    /// Since when some wait for others, and for whom.
    pub(crate) fn waiting(&self) -> Option<(Instant, Vec<u32>)> {
        let gathering =
            [&self.fence, &self.sharing].into_iter().filter(|g| g.since.is_some()).min_by_key(|g| g.since)?;
        let missing = (0..self.size).filter(|rank| !gathering.here[*rank as usize]).collect();
        gathering.since.map(|since| (since, missing))
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
        let mut board = Board::new(3);
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
    fn a_value_is_found_by_its_owner_and_name_only() {
        let mut board = Board::new(2);
        board.put(1, "k".into(), b"v".to_vec()).unwrap();
        let get = |rank, key| decoded(&[board.get(0, rank, key)]).remove(0).1;
        assert_eq!(get(1, "k"), ToProcess::Value(Some(b"v".to_vec())));
        for (rank, key) in [(0, "k"), (1, "x"), (9, "k")] {
            assert_eq!(get(rank, key), ToProcess::Value(None));
        }
    }

    #[test]
    fn descriptors_reach_all_others_in_packets_that_the_kernel_takes() {
        let mut board = Board::new(3);
        let fds =
            |n: usize| (0..n).map(|_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap())).collect::<Vec<_>>();
        assert!(board.share(0, fds(2), false).unwrap().is_empty());
        assert!(board.share(1, fds(253), true).unwrap().is_empty());
        assert!(board.share(1, fds(7), false).unwrap().is_empty());
        let answers = board.share(2, Vec::new(), false).unwrap();
        let of = |rank, count, more| ToProcess::Fds { rank, count, more };
        let want = [
            (1, of(0, 2, false)),
            (2, of(0, 2, false)),
            (0, of(1, 253, true)),
            (2, of(1, 253, true)),
            (0, of(1, 7, false)),
            (2, of(1, 7, false)),
            (0, of(2, 0, false)),
            (1, of(2, 0, false)),
        ];
        assert_eq!(decoded(&answers), want);
        assert!(answers.iter().all(|a| match ToProcess::decode(&a.packet) {
            Ok(ToProcess::Fds { count, .. }) => a.fds.len() == usize::from(count),
            _ => false,
        }));
    }
}
