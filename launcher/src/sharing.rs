//! Descriptors that the processes of one host give to each other: those of each process go to all others, when all have arrived. They never leave the
//! host. Knows nothing of sockets, nor of what the descriptors are.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use charm4rs_bootstrap::wire::{FDS_MAX, ToProcess};

use crate::board::{Answer, BoardError, Gathering};

/// See the [module's text](self).
#[derive(Debug)]
pub(crate) struct Sharing {
    ranks: Range<u32>,
    come: Gathering,
    fds: Vec<Vec<Rc<OwnedFd>>>,
}

impl Sharing {
    /// For these processes.
    pub(crate) fn new(ranks: Range<u32>) -> Self {
        Self { come: Gathering::new(ranks.clone()), fds: ranks.clone().map(|_| Vec::new()).collect(), ranks }
    }

    pub(crate) fn share(&mut self, rank: u32, fds: Vec<OwnedFd>, more: bool) -> Result<Vec<Answer>, BoardError> {
        self.fds[(rank - self.ranks.start) as usize].extend(fds.into_iter().map(Rc::new));
        if more || !self.come.come(rank)? {
            return Ok(Vec::new());
        }
        let mut answers = Vec::new();
        for (rank, fds) in self.ranks.clone().zip(self.fds.iter_mut().map(std::mem::take)) {
            let mut rest = &fds[..];
            loop {
                let (chunk, after) = rest.split_at(rest.len().min(FDS_MAX));
                rest = after;
                let more = !rest.is_empty();
                let count = u16::try_from(chunk.len()).expect("at most FDS_MAX");
                let packet: Rc<[u8]> = ToProcess::Fds { rank, count, more }.encode().into();
                let others = self.ranks.clone().filter(|to| *to != rank);
                answers.extend(others.map(|to| Answer { to, packet: packet.clone(), fds: chunk.to_vec() }));
                if !more {
                    break;
                }
            }
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(answers: &[Answer]) -> Vec<(u32, ToProcess)> {
        answers.iter().map(|a| (a.to, ToProcess::decode(&a.packet).unwrap())).collect()
    }

    #[test]
    fn descriptors_reach_all_others_in_packets_that_the_kernel_takes() {
        let mut sharing = Sharing::new(0..3);
        let fds =
            |n: usize| (0..n).map(|_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap())).collect::<Vec<_>>();
        assert!(sharing.share(0, fds(2), false).unwrap().is_empty());
        assert!(sharing.share(1, fds(253), true).unwrap().is_empty());
        assert!(sharing.share(1, fds(7), false).unwrap().is_empty());
        let answers = sharing.share(2, Vec::new(), false).unwrap();
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
