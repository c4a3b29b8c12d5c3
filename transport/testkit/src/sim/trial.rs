//! The simulation in the conformance suite.

use std::rc::Rc;

use super::{Config, Mode, Network};
use crate::conformance::{Group, Harness, World};
use charm4rs_transport_core::{Endpoint, Layout, Pe};

/// A simulated network, described for a number of PEs and a seed.
struct Sim(fn(Layout, u64) -> Config);

impl Harness for Sim {
    fn group(&self, pes: u32) -> Group {
        let seed = charm4rs_transport_core::seed::from_environment().unwrap_or(1);
        Group::Stepped(Rc::new(Network::new((self.0)(Layout::one_host(pes, 1), seed))))
    }

    fn skips(&self) -> &[(&'static str, &'static str)] {
        const NO_SLEEP: &str = "its endpoints share one thread, which never sleeps";
        &[
            ("a_sleeping_receiver_is_woken_by_every_message", NO_SLEEP),
            ("a_sleeping_receiver_is_woken_by_an_announced_put", NO_SLEEP),
            ("a_sleeping_sender_is_woken_when_its_posts_complete", NO_SLEEP),
        ]
    }
}

impl World for Network {
    fn pes(&self) -> u32 {
        self.layout().pes()
    }

    fn endpoint(&self, pe: Pe) -> Box<dyn Endpoint> {
        Network::endpoint(self, pe)
    }

    fn advance(&self) -> bool {
        Network::advance(self)
    }

    fn kill(&self, pe: Pe) {
        Network::kill(self, pe);
    }
}

crate::conformance!(reliable, Sim(Config::reliable));
crate::conformance!(
    unordered,
    Sim(|layout, seed| Config {
        mode: Mode::Reliable { reorder: 0.3 },
        busy: 0.05,
        inject_max: 256,
        send_max: 100 << 20,
        put_max: 1 << 20,
        pool: 7,
        capacity: 5,
        ..Config::reliable(layout, seed)
    })
);
crate::conformance!(handover, Sim(|layout, seed| Config { handover: true, ..Config::reliable(layout, seed) }));
crate::conformance!(datagram, Sim(|layout, seed| Config { datagram_max: 9_000, ..Config::datagram(layout, seed) }));
