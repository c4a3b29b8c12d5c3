//! The conformance suite: all laws of the seam, through both interfaces of the backend. No law is skipped.

use std::sync::Arc;

use charm4rs_example_backend::{Listening, UnixFabric};
use charm4rs_transport_core::{Fabric, Layout, Pe};
use charm4rs_transport_testkit::conformance::{Death, Group, Harness, fast};

/// The fabrics of a job whose processes have one PE each, connected as by wire-up.
fn fabrics(pes: u32) -> Vec<UnixFabric> {
    let layout = Arc::new(Layout::one_host(pes, 1));
    let opened: Vec<_> = (0..pes).map(|process| Listening::open(&layout, process, None).expect("sockets")).collect();
    let published: Vec<_> = opened.iter().map(Listening::publish).collect();
    opened.into_iter().map(|listening| listening.join(&published).expect("addresses")).collect()
}

struct FirstSeam;

impl Harness for FirstSeam {
    fn group(&self, pes: u32) -> Group {
        let fabrics = fabrics(pes);
        let builders = (0..).zip(&fabrics).map(|(pe, fabric)| fabric.builder(Pe(pe))).collect();
        Group::Threads { builders, death: Death::Drop, keep: Box::new(fabrics) }
    }
}

charm4rs_transport_testkit::conformance!(first_seam, FirstSeam);

struct SecondSeam;

impl Harness for SecondSeam {
    fn group(&self, pes: u32) -> Group {
        let fabrics = fabrics(pes);
        let open = |(pe, fabric): (u32, &UnixFabric)| {
            let description = fabric.description(Pe(pe));
            fast::builder(move |bell| description.open(bell))
        };
        let builders = (0..).zip(&fabrics).map(open).collect();
        Group::Threads { builders, death: Death::Drop, keep: Box::new(fabrics) }
    }
}

charm4rs_transport_testkit::conformance!(second_seam, SecondSeam);
