//! What UCX delivers, as it is noted down: its callbacks run in the middle of progress, so they only look at the head, copy what they
//! must, and leave the rest to the endpoint. Knows no UCX but its name for bytes that wait at their sender.

use std::collections::VecDeque;

use super::head::{Head, Kind};
use super::worker::Waiting;
use crate::memory::exposed::Windows;
use crate::memory::{Slab, write_bytes};
use crate::{Msg, Pe};

/// Something that was delivered.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A message whose bytes are here.
    Whole(Head, Msg),
    /// A put whose bytes are in its window, or which was refused.
    Placed(Head, bool),
    /// A message whose bytes wait at their sender, and how many they are.
    Offered(Head, Waiting, usize),
}

/// A PE's arrivals.
#[derive(Debug)]
pub(super) struct Inbox {
    pass: u64,
    pes: u32,
    pub(super) slab: Slab,
    pub(super) windows: Windows,
    pub(super) arrivals: VecDeque<Arrival>,
    /// Messages of nobody that belongs to the job. They are thrown away.
    pub(super) strangers: u64,
}

impl Inbox {
    /// Takes messages that have this `pass`, from PEs below `pes`.
    pub(super) fn new(pass: u64, pes: u32, generation: u32) -> Self {
        let (slab, windows) = (Slab::new(), Windows::new(generation));
        Self { pass, pes, slab, windows, arrivals: VecDeque::new(), strangers: 0 }
    }

    fn head(&mut self, bytes: &[u8]) -> Option<Head> {
        let head = Head::decode(bytes).filter(|head| head.pass == self.pass && head.from < Pe(self.pes));
        self.strangers += u64::from(head.is_none());
        head
    }

    /// A message whose bytes are here, for as long as this call lasts.
    #[inline]
    pub(super) fn whole(&mut self, head: &[u8], bytes: &[u8]) {
        let Some(head) = self.head(head) else { return };
        let arrival = match head.kind {
            Kind::Put | Kind::QuietPut => {
                let memory = self.windows.memory(head.words[0], head.words[1], bytes.len() as u64);
                let placed = memory.is_some();
                memory.into_iter().for_each(|memory| memory.copy_from_slice(bytes));
                Arrival::Placed(head, placed)
            }
            _ => Arrival::Whole(head, Msg::fill(&self.slab, bytes.len(), |to| write_bytes(to, bytes))),
        };
        self.arrivals.push_back(arrival);
    }

    /// A message of `len` bytes that wait at their sender. `false`: they are not wanted.
    pub(super) fn offered(&mut self, head: &[u8], waiting: Waiting, len: usize) -> bool {
        let Some(head) = self.head(head) else { return false };
        self.arrivals.push_back(Arrival::Offered(head, waiting, len));
        true
    }
}
