//! The TCP backend on trial, over real sockets on loopback: two or more "processes" in one, each with a fabric of its own.

use std::sync::Arc;

use super::{TcpConfig, TcpFabric};
use crate::auth::{JobId, Secret};
use crate::conformance::{Death, Group, Harness};
use crate::{Fabric as _, Layout, Pe};

pub(super) const JOB: JobId = JobId(*b"testjob1");

pub(super) fn config(layout: &Arc<Layout>, process: u32) -> TcpConfig {
    TcpConfig::new(layout.clone(), process, JOB, Secret::new([9; 32]), [3; 32])
}

/// Fabrics of all processes of `layout`, wired up.
pub(super) fn fabrics(layout: Layout, change: impl Fn(&mut TcpConfig)) -> Vec<TcpFabric> {
    let layout = Arc::new(layout);
    let open = |process| {
        let mut config = config(&layout, process);
        change(&mut config);
        TcpFabric::open(config).unwrap()
    };
    let fabrics: Vec<TcpFabric> = (0..layout.processes()).map(open).collect();
    let addresses: Vec<Vec<u8>> = fabrics.iter().map(TcpFabric::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
    fabrics
}

struct Tcp {
    ppn: u32,
    checksum: bool,
}

impl Harness for Tcp {
    fn group(&self, pes: u32) -> Group {
        let layout = Layout::one_host(pes, self.ppn);
        let fabrics = fabrics(layout.clone(), |config| config.checksum = self.checksum);
        let builders = (0..pes).map(|pe| fabrics[layout.process_of(Pe(pe)) as usize].builder(Pe(pe))).collect();
        Group::Threads { builders, death: Death::Drop, keep: Box::new(fabrics) }
    }
}

crate::conformance!(conformance, Tcp { ppn: 1, checksum: false });
crate::conformance!(conformance_of_two_pes_to_a_process, Tcp { ppn: 2, checksum: false });
crate::conformance!(conformance_with_checksums, Tcp { ppn: 1, checksum: true });
