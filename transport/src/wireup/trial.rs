//! libfabric on trial, over its real providers, with TCP's heartbeats, as wire-up puts them together: two or more "processes" in one, each
//! with fabrics of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use crate::auth::{JobId, Secret};
use crate::bootstrap::Threads;
use crate::conformance::{Death, Group, Harness};
use crate::ofi::{Found, OfiFabric, find};
use crate::tcp::{TcpConfig, TcpFabric};
use crate::wireup::{Notices, TransportOptions};
use crate::{Fabric as _, Layout, Pe, TransportError};

struct Ofi {
    provider: &'static str,
    skips: Vec<(&'static str, &'static str)>,
}

/// Laws in which a PE dies.
const DEATHS: [&str; 3] = [
    "the_death_of_a_peer_is_reported_and_posts_to_it_are_refused",
    "what_is_pending_to_a_dead_peer_ends_exactly_once",
    "the_living_go_on_when_one_dies",
];

impl Ofi {
    fn new(provider: &'static str) -> Self {
        let deaths = (provider == "shm").then_some(DEATHS).into_iter().flatten();
        let why = "an endpoint that is closed takes its memory away from its peers, in one process; a process that dies does not";
        Self { provider, skips: deaths.map(|law| (law, why)).collect() }
    }

    fn find(&self, pes: u32) -> Result<Found, TransportError> {
        Ok(find(pes, true, IpAddr::V4(Ipv4Addr::LOCALHOST))?.only(self.provider))
    }
}

impl Harness for Ofi {
    fn group(&self, pes: u32) -> Group {
        let layout = Arc::new(Layout::one_host(pes, 1));
        let secret = Secret::new([9; 32]);
        let heartbeats: Vec<Arc<TcpFabric>> = (0..pes)
            .map(|process| TcpConfig::new(layout.clone(), process, JobId(*b"testjob1"), secret.clone(), [3; 32]))
            .map(|config| Arc::new(TcpFabric::open(config).unwrap()))
            .collect();
        let addresses: Vec<_> = heartbeats.iter().map(|fabric| fabric.publish()).collect();
        heartbeats.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
        let found = self.find(pes).unwrap();
        let open = |process: u32| {
            let watch = heartbeats[process as usize].clone();
            OfiFabric::open(&found, &layout, process, &secret, Some(watch)).unwrap()
        };
        let fabrics: Vec<OfiFabric> = (0..pes).map(open).collect();
        let addresses: Vec<_> = fabrics.iter().map(OfiFabric::publish).collect();
        fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()).unwrap());
        let builders = (0..pes).map(|pe| fabrics[pe as usize].builder(Pe(pe))).collect();
        let dying = Mutex::new(heartbeats.clone());
        let death = Death::By(Arc::new(move |pe: Pe| dying.lock().unwrap()[pe.0 as usize].vanish()));
        Group::Threads { builders, death, keep: Box::new((fabrics, heartbeats)) }
    }

    fn absent(&self) -> Option<String> {
        match self.find(2) {
            Ok(found) if found.is_empty() => Some(format!("libfabric has no provider {} here", self.provider)),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    fn skips(&self) -> &[(&'static str, &'static str)] {
        &self.skips
    }
}

crate::conformance!(tcp, Ofi::new("tcp"));
crate::conformance!(tcp_rxm, Ofi::new("tcp;ofi_rxm"));
crate::conformance!(shm, Ofi::new("shm"));
crate::conformance!(verbs_rxm, Ofi::new("verbs;ofi_rxm"));

#[test]
fn hosts_meet_over_a_device_that_all_have_or_else_over_tcp_as_one_process_says() {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let hears = told.clone();
    let notices = Notices::new(move |text| hears.lock().unwrap().push(text));
    let options = TransportOptions { notices, ..TransportOptions::default() };
    let layout = Layout::new(&[1, 1], &[1, 1]);
    let builders = Threads::open_all(&layout, |process| crate::wireup::open(process, &options));
    let other = |pe: Pe| Pe(1 - pe.0);
    let mut names = Vec::new();
    for mut port in builders.into_iter().flatten().map(|builder| builder.open().unwrap()) {
        let peer = other(port.pe());
        names.push(port.endpoint(peer).caps().name);
    }
    let told = told.lock().unwrap();
    if find(2, false, IpAddr::V4(Ipv4Addr::LOCALHOST)).is_ok() {
        assert_eq!((names, told.len()), (vec!["ofi", "ofi"], 0));
    } else {
        assert_eq!(names, ["tcp", "tcp"]);
        assert!(
            matches!(&told[..], [text] if text.starts_with("no fabric: ") && text.ends_with("; using tcp")),
            "{told:?}"
        );
    }
}
