//! Tests of the TCP backend over real sockets on loopback: two or more "processes" in one, each with a fabric of its own.

use std::sync::Arc;

use super::{TcpConfig, TcpFabric};
use charm4rs_transport_core::auth::{JobId, Secret};
use charm4rs_transport_core::{
    Doorbell, Endpoint, Event, Fabric as _, Imm, Layout, OpId, Pe, PostError, RegBuf, TransportError,
};
use charm4rs_transport_testkit::conformance::{Death, Group, Harness};

mod liveness;
mod proxy;
mod resets;
mod strangers;
mod violations;

const JOB: JobId = JobId(*b"testjob1");

fn config(layout: &Arc<Layout>, process: u32) -> TcpConfig {
    TcpConfig::new(layout.clone(), process, JOB, Secret::new([9; 32]), [3; 32])
}

/// Fabrics of all processes of `layout`, not yet wired up.
fn open(layout: Layout, change: impl Fn(u32, &mut TcpConfig)) -> Vec<TcpFabric> {
    let layout = Arc::new(layout);
    let open = |process| {
        let mut config = config(&layout, process);
        change(process, &mut config);
        TcpFabric::open(config).unwrap()
    };
    (0..layout.processes()).map(open).collect()
}

fn wire_up(fabrics: &[TcpFabric]) {
    let addresses: Vec<Vec<u8>> = fabrics.iter().map(TcpFabric::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
}

/// Two processes of one PE each.
fn two(change: impl Fn(u32, &mut TcpConfig)) -> Vec<TcpFabric> {
    open(Layout::one_host(2, 1), change)
}

/// An endpoint, and the events that it has returned.
#[derive(Debug)]
struct End {
    end: Box<dyn Endpoint>,
    events: Vec<Event>,
    _bell: Doorbell,
}

impl End {
    fn of(fabrics: &[TcpFabric], pe: u32) -> Self {
        let bell = Doorbell::new().unwrap();
        let end = fabrics[pe as usize].builder(Pe(pe)).build(&bell).unwrap();
        Self { end, events: Vec::new(), _bell: bell }
    }

    /// One poll; its events are appended to `events`.
    fn poll(&mut self) -> Result<usize, TransportError> {
        let n = self.end.progress(&mut self.events, 64)?;
        if n == 0 {
            std::thread::yield_now();
        }
        Ok(n)
    }

    /// The next event.
    fn event(&mut self) -> Result<Event, TransportError> {
        while self.events.is_empty() {
            self.poll()?;
        }
        Ok(self.events.remove(0))
    }

    /// Sends `bytes`, small or large, as soon as there is space.
    fn send(&mut self, to: Pe, imm: u32, bytes: &[u8]) -> Result<(), PostError<()>> {
        loop {
            match self.try_send(to, imm, bytes) {
                Err(PostError::Busy(())) => _ = self.poll().unwrap(),
                outcome => return outcome,
            }
        }
    }

    /// The same, or `Busy`: for one thread that plays both ends.
    fn try_send(&mut self, to: Pe, imm: u32, bytes: &[u8]) -> Result<(), PostError<()>> {
        match self.end.send(to, Imm(imm), RegBuf::copy_of(bytes), OpId(u64::from(imm))) {
            Ok(_) => Ok(()),
            Err(PostError::Busy(_)) => Err(PostError::Busy(())),
            Err(PostError::PeerDown(pe, _)) => Err(PostError::PeerDown(pe, ())),
            Err(e) => panic!("{e:?}"),
        }
    }

    /// Polls two ends until `done`.
    fn both(a: &mut Self, b: &mut Self, mut done: impl FnMut(&mut Self, &mut Self) -> bool) {
        while !done(a, b) {
            a.poll().unwrap();
            b.poll().unwrap();
        }
    }
}

/// Sends one message there and one back: then the two are connected.
fn greet(a: &mut End, b: &mut End) {
    a.send(b.end.pe(), 0, b"hello").unwrap();
    End::both(a, b, |_, b| !b.events.is_empty());
    b.send(a.end.pe(), 0, b"hello").unwrap();
    End::both(a, b, |a, _| !a.events.is_empty());
    a.events.clear();
    b.events.clear();
}

struct Tcp {
    ppn: u32,
    checksum: bool,
}

impl Harness for Tcp {
    fn group(&self, pes: u32) -> Group {
        let layout = Layout::one_host(pes, self.ppn);
        let fabrics = open(layout.clone(), |_, config| config.checksum = self.checksum);
        wire_up(&fabrics);
        let builders = (0..pes).map(|pe| fabrics[layout.process_of(Pe(pe)) as usize].builder(Pe(pe))).collect();
        Group::Threads { builders, death: Death::Drop, keep: Box::new(fabrics) }
    }
}

charm4rs_transport_testkit::conformance!(conformance, Tcp { ppn: 1, checksum: false });
charm4rs_transport_testkit::conformance!(conformance_of_two_pes_to_a_process, Tcp { ppn: 2, checksum: false });
charm4rs_transport_testkit::conformance!(conformance_with_checksums, Tcp { ppn: 1, checksum: true });
