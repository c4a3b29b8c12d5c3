//! The conformance suite over UCX's transports between processes of one host, and tests of this backend only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{UcxConfig, UcxFabric};
use charm4rs_transport_core::failure_detector::{FailureDetector, FailureEvents, Loss};
use charm4rs_transport_core::{Doorbell, Fabric as _, Layout, Pe, TransportError, Waker};
use charm4rs_transport_testkit::conformance::{Death, Group, Harness, check, life};

/// A failure detector that the test tells which PEs it killed.
#[derive(Default, Debug)]
struct Deaths {
    dead: Mutex<Vec<Pe>>,
    count: AtomicUsize,
    bells: Mutex<Vec<Waker>>,
}

impl Deaths {
    fn kill(&self, pe: Pe) {
        self.dead.lock().unwrap().push(pe);
        self.count.fetch_add(1, Ordering::Release);
        self.bells.lock().unwrap().iter().for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct Watcher(Arc<Deaths>);

#[derive(Debug)]
struct Listener {
    deaths: Arc<Deaths>,
    heard: AtomicUsize,
}

impl FailureDetector for Watcher {
    fn subscribe(&self, _: Pe, doorbell: &Doorbell) -> Box<dyn FailureEvents> {
        self.0.bells.lock().unwrap().push(doorbell.waker());
        Box::new(Listener { deaths: self.0.clone(), heard: AtomicUsize::new(0) })
    }
}

impl FailureEvents for Listener {
    fn has_events(&self) -> bool {
        self.heard.load(Ordering::Relaxed) < self.deaths.count.load(Ordering::Acquire)
    }

    fn take(&self) -> Result<Vec<Loss>, TransportError> {
        let dead = self.deaths.dead.lock().unwrap();
        let new = &dead[self.heard.swap(dead.len(), Ordering::Relaxed)..];
        // Each PE is a process of its own.
        Ok(new.iter().map(|pe| Loss { process: pe.0, why: "its process ended" }).collect())
    }
}

/// One process for each PE, over these transports of UCX.
struct Over {
    transports: &'static str,
    watch_near: bool,
    /// Whether a failure detector reports deaths, as in a real job.
    told: bool,
    /// Whether it uses a device for RDMA.
    verbs: bool,
}

impl Over {
    fn open(&self, pes: u32, deaths: &Arc<Deaths>) -> Vec<Arc<UcxFabric>> {
        let layout = Arc::new(Layout::one_host(pes, 1));
        let open = |process| {
            let mut config = UcxConfig::new(layout.clone(), process);
            config.watch_near = self.watch_near;
            config.detector = Some(Arc::new(Watcher(deaths.clone())));
            config.settings = vec![("TLS", self.transports.to_owned())];
            Arc::new(UcxFabric::open(config).unwrap())
        };
        let fabrics: Vec<_> = (0..pes).map(open).collect();
        let published: Vec<_> = fabrics.iter().map(|fabric| fabric.publish()).collect();
        fabrics.iter().for_each(|fabric| fabric.set_addresses(&published).unwrap());
        fabrics
    }
}

impl Harness for Over {
    fn group(&self, pes: u32) -> Group {
        let deaths = Arc::new(Deaths::default());
        let fabrics = self.open(pes, &deaths);
        let builders = fabrics.iter().zip(0..).map(|(fabric, pe)| fabric.builder(Pe(pe))).collect();
        let death = if self.told { Death::By(Arc::new(move |pe| deaths.kill(pe))) } else { Death::Drop };
        Group::Threads { builders, death, keep: Box::new(fabrics) }
    }

    fn absent(&self) -> Option<String> {
        let no_device = || self.verbs && !std::path::Path::new("/sys/class/infiniband/rxe0").exists();
        match super::find() {
            Err(error) => Some(error.to_string()),
            Ok(_) => no_device().then(|| "there is no RDMA device here: ci/verbs makes one".to_owned()),
        }
    }
}

const TCP: Over = Over { transports: "tcp", watch_near: true, told: true, verbs: false };
const SHM: Over = Over { transports: "posix,sysv,cma,self", watch_near: false, ..TCP };
const VERBS: Over = Over { transports: "rc_verbs,ud_verbs", verbs: true, ..TCP };

charm4rs_transport_testkit::conformance!(tcp, TCP);
charm4rs_transport_testkit::conformance!(shm, SHM);
charm4rs_transport_testkit::conformance!(rc_verbs, VERBS);

#[test]
fn a_watched_connection_reports_the_death_of_the_peer() {
    let untold = Over { told: false, ..TCP };
    check(&untold, "tcp", "death", life::the_death_of_a_peer_is_reported_and_posts_to_it_are_refused);
    check(&untold, "tcp", "pending", life::operations_to_a_dead_peer_end_exactly_once);
}
