//! The shape of a job: its PEs, processes and hosts. Computed once at start, shared, immutable.
//!
//! PEs are numbered by process, and processes by host, so every process holds a contiguous range of
//! PEs and every host a contiguous range of processes. No table grows with the square of the PEs.

use std::ops::Range;

/// A PE's number in its job, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, serde::Serialize, serde::Deserialize)]
#[repr(transparent)]
pub struct Pe(pub u32);

impl Pe {
    /// As an index into a table.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for Pe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How close another PE is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reach {
    /// The same PE.
    Itself,
    /// Another thread of this process: values can be moved, pointers are valid.
    Process,
    /// Another process of this host: shared memory.
    Host,
    /// Another host: the network.
    Network,
}

/// The shape of a job: which process and host each PE belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// First PE of each process, ascending, with the number of PEs appended.
    process_starts: Vec<u32>,
    /// First process of each host, ascending, with the number of processes appended.
    host_starts: Vec<u32>,
}

impl Layout {
    /// A layout of `pes` PEs on one host, `ppn` to a process (the last process may hold fewer).
    ///
    /// # Panics
    /// If `pes` or `ppn` is 0.
    #[must_use]
    pub fn one_host(pes: u32, ppn: u32) -> Self {
        assert!(pes > 0 && ppn > 0, "a job has at least one PE, a process at least one");
        let processes = pes.div_ceil(ppn);
        Self::new(&(0..processes).map(|p| ppn.min(pes - p * ppn)).collect::<Vec<_>>(), &[processes])
    }

    /// A layout from the number of PEs of each process and the number of processes of each host.
    ///
    /// # Panics
    /// If a process has no PE, a host has no process, or the two lists do not add up.
    #[must_use]
    pub fn new(pes_of_process: &[u32], processes_of_host: &[u32]) -> Self {
        assert!(pes_of_process.iter().chain(processes_of_host).all(|&n| n > 0));
        let starts = |sizes: &[u32]| {
            let mut at = 0;
            let mut starts = vec![0];
            for size in sizes {
                at += size;
                starts.push(at);
            }
            starts
        };
        let layout = Self { process_starts: starts(pes_of_process), host_starts: starts(processes_of_host) };
        assert_eq!(layout.host_starts.last().map(|&n| n as usize), Some(pes_of_process.len()));
        layout
    }

    /// Number of PEs of the job.
    #[inline]
    #[must_use]
    pub fn pes(&self) -> u32 {
        self.process_starts[self.process_starts.len() - 1]
    }

    /// Number of processes of the job.
    #[must_use]
    pub fn processes(&self) -> u32 {
        self.host_starts[self.host_starts.len() - 1]
    }

    /// Number of hosts of the job.
    #[must_use]
    pub fn hosts(&self) -> u32 {
        u32::try_from(self.host_starts.len() - 1).expect("hosts are counted in 32 bits")
    }

    /// The process that holds `pe`.
    #[must_use]
    pub fn process_of(&self, pe: Pe) -> u32 {
        Self::find(&self.process_starts, pe.0)
    }

    /// The host that holds `process`.
    #[must_use]
    pub fn host_of(&self, process: u32) -> u32 {
        Self::find(&self.host_starts, process)
    }

    /// The PEs of `process`.
    #[must_use]
    pub fn pes_of(&self, process: u32) -> Range<u32> {
        let p = process as usize;
        self.process_starts[p]..self.process_starts[p + 1]
    }

    /// The processes of `host`.
    #[must_use]
    pub fn processes_of(&self, host: u32) -> Range<u32> {
        let h = host as usize;
        self.host_starts[h]..self.host_starts[h + 1]
    }

    /// The PEs of `host`.
    #[must_use]
    pub fn pes_of_host(&self, host: u32) -> Range<u32> {
        let processes = self.processes_of(host);
        self.process_starts[processes.start as usize]..self.process_starts[processes.end as usize]
    }

    /// How close `to` is to `from`.
    #[must_use]
    pub fn reach(&self, from: Pe, to: Pe) -> Reach {
        if from == to {
            return Reach::Itself;
        }
        let (a, b) = (self.process_of(from), self.process_of(to));
        if a == b {
            Reach::Process
        } else if self.host_of(a) == self.host_of(b) {
            Reach::Host
        } else {
            Reach::Network
        }
    }

    fn find(starts: &[u32], item: u32) -> u32 {
        debug_assert!(item < starts[starts.len() - 1]);
        let at = starts.partition_point(|&start| start <= item) - 1;
        u32::try_from(at).expect("counted in 32 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_knows_the_process_of_each_pe() {
        let layout = Layout::new(&[2, 2, 1, 3], &[2, 2]);
        assert_eq!((layout.pes(), layout.processes(), layout.hosts()), (8, 4, 2));
        assert_eq!((0..8).map(|pe| layout.process_of(Pe(pe))).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 3, 3, 3]);
        assert_eq!(layout.pes_of(3), 5..8);
        assert_eq!(layout.pes_of_host(1), 4..8);
        assert_eq!(layout.reach(Pe(0), Pe(0)), Reach::Itself);
        assert_eq!(layout.reach(Pe(0), Pe(1)), Reach::Process);
        assert_eq!(layout.reach(Pe(0), Pe(2)), Reach::Host);
        assert_eq!(layout.reach(Pe(0), Pe(7)), Reach::Network);
    }

    #[test]
    fn the_last_process_of_a_host_may_hold_fewer() {
        let layout = Layout::one_host(5, 2);
        assert_eq!((0..3).map(|p| layout.pes_of(p)).collect::<Vec<_>>(), [0..2, 2..4, 4..5]);
    }
}
