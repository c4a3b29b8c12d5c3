//! Tests of libfabric over its real providers, with TCP's heartbeats, as wire-up combines them: two or more "processes" in one, each
//! with fabrics of its own.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Barrier, Mutex};

use crate::options::TransportOptions;
use crate::port::{Incoming, Port, PortEvent, PutWindowAddress, Tag};
use charm4rs_bootstrap::Threads;
use charm4rs_ofi::{FoundProvider, OfiFabric, find};
use charm4rs_tcp::{TcpConfig, TcpFabric};
use charm4rs_transport_core::Notices;
use charm4rs_transport_core::auth::{JobId, Secret};
use charm4rs_transport_core::memory::write_bytes;
use charm4rs_transport_core::{Doorbell, EndpointBuilder, Fabric as _, Layout, Pe, RegBuf, TransportError};
use charm4rs_transport_testkit::conformance::{Death, Group, Harness, Watchdog, check, onesided};

struct Ofi {
    provider: &'static str,
    skips: Vec<(&'static str, &'static str)>,
}

/// Laws in which a PE dies.
const DEATHS: [&str; 3] = [
    "the_death_of_a_peer_is_reported_and_posts_to_it_are_refused",
    "operations_to_a_dead_peer_end_exactly_once",
    "the_other_pes_continue_when_one_dies",
];

impl Ofi {
    fn new(provider: &'static str) -> Self {
        let deaths = (provider == "shm").then_some(DEATHS).into_iter().flatten();
        let why = "an endpoint that is closed takes its memory away from its peers, in one process; a process that dies does not";
        Self { provider, skips: deaths.map(|law| (law, why)).collect() }
    }

    fn find(&self, pes: u32) -> Result<FoundProvider, TransportError> {
        Ok(find(pes, true, IpAddr::V4(Ipv4Addr::LOCALHOST))?.only(self.provider))
    }
}

impl Ofi {
    /// Endpoints, over fabrics that `change` has modified.
    fn changed(&self, pes: u32, change: impl Fn(&OfiFabric)) -> Group {
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
            let detector = heartbeats[process as usize].clone();
            OfiFabric::open(&found, &layout, process, &secret, Some(detector)).unwrap()
        };
        let fabrics: Vec<OfiFabric> = (0..pes).map(open).collect();
        fabrics.iter().for_each(change);
        let addresses: Vec<_> = fabrics.iter().map(OfiFabric::publish).collect();
        fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()).unwrap());
        let builders = (0..pes).map(|pe| fabrics[pe as usize].builder(Pe(pe))).collect();
        let dying = Mutex::new(heartbeats.clone());
        let death = Death::By(Arc::new(move |pe: Pe| dying.lock().unwrap()[pe.0 as usize].vanish()));
        Group::Threads { builders, death, keep: Box::new((fabrics, heartbeats)) }
    }
}

impl Harness for Ofi {
    fn group(&self, pes: u32) -> Group {
        self.changed(pes, |_| ())
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

charm4rs_transport_testkit::conformance!(tcp, Ofi::new("tcp"));
charm4rs_transport_testkit::conformance!(tcp_rxm, Ofi::new("tcp;ofi_rxm"));
charm4rs_transport_testkit::conformance!(shm, Ofi::new("shm"));
charm4rs_transport_testkit::conformance!(verbs_rxm, Ofi::new("verbs;ofi_rxm"));

/// The provider with keys that are longer than a number, by a stub.
struct RawKeys(Ofi);

impl Harness for RawKeys {
    fn group(&self, pes: u32) -> Group {
        self.0.changed(pes, OfiFabric::set_raw_keys)
    }

    fn absent(&self) -> Option<String> {
        self.0.absent()
    }
}

#[test]
fn keys_longer_than_64_bits_reach_windows_and_are_unmapped() {
    for provider in ["tcp", "tcp;ofi_rxm", "shm"] {
        let raw = RawKeys(Ofi::new(provider));
        check(&raw, provider, "put", onesided::a_put_is_visible_when_it_is_announced);
        check(&raw, provider, "again", onesided::puts_into_a_persistent_window_arrive_in_order_without_waiting);
        check(&raw, provider, "taken back", onesided::a_put_to_a_window_taken_back_fails_and_touches_nothing);
        check(&raw, provider, "tampered with", onesided::a_key_that_was_tampered_with_is_refused);
        check(&raw, provider, "get", onesided::a_get_reads_what_the_window_holds);
        let [mapped, unmapped] = OfiFabric::raw_keys_used();
        assert_eq!(mapped, unmapped);
        assert!(raw.absent().is_some() || mapped > 0);
    }
}

#[test]
fn hosts_use_a_device_that_all_have_or_tcp_and_one_process_reports_it() {
    let told = Told::default();
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

/// The next message. Discards everything before it.
fn message(port: &mut Port) -> Incoming {
    let mut events = VecDeque::new();
    loop {
        port.poll(&mut events, 1).unwrap();
        match events.pop_front() {
            Some(PortEvent::Message(message)) => return message,
            Some(other) => panic!("a message, not {other:?}"),
            None => std::thread::yield_now(),
        }
    }
}

/// Memory of this process that is registered with devices, in bytes.
fn pinned() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let pinned = status.lines().find_map(|line| line.strip_prefix("VmPin:")?.strip_suffix("kB")?.trim().parse().ok());
    pinned.map_or(0, |kib: u64| kib << 10)
}

/// Makes the limit of locked memory apply to this thread, even if it runs as root, and to the threads that it starts. (An open device refuses
/// calls from a thread whose rights have changed since.)
fn heed_limit() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).unwrap();
}

/// Limits registrations to this many more bytes of this process than now. This is permanent: the test has a process of its own.
fn limit_locked_memory(more: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Memlock).maximum;
    setrlimit(Resource::Memlock, Rlimit { current: Some(pinned() + more), maximum }).unwrap();
}

#[test]
fn locked_memory_limits_at_either_end_are_replaced_by_messages() {
    const LEN: usize = 300_000;
    heed_limit();
    let ofi = Ofi::new("verbs;ofi_rxm");
    if let Some(why) = ofi.absent() {
        return eprintln!("skipped: {why}");
    }
    let _watchdog = Watchdog::start("locked memory");
    let Group::Threads { builders, keep, .. } = ofi.group(2) else { panic!("it has threads") };
    let (told, open) = opener();
    let contents = |key: u8| -> Vec<u8> { (key..251u8).cycle().take(LEN).collect() };
    let (tell, address) = std::sync::mpsc::channel::<PutWindowAddress>();
    let Ok([zero, one]) = <[_; 2]>::try_from(builders) else { panic!("it has two") };
    // The provider's own memory for a connection is registered before the limit is set.
    let greet = |port: &mut Port, to: Pe| {
        for _ in 0..100 {
            port.send(to, Tag(1), 10_000, |room| write_bytes(room, &[1; 10_000]));
            assert_eq!(message(port).msg.len(), 10_000);
        }
    };
    let limited = Barrier::new(2);
    std::thread::scope(|scope| {
        let (open, limited) = (&open, &limited);
        scope.spawn(move || {
            let mut port = open(one);
            greet(&mut port, Pe(0));
            let put_window = address.recv().unwrap();
            limited.wait();
            // The put window is registered, but its source cannot be.
            port.put(&put_window, 0, RegBuf::from_vec(contents(1)), Tag(9), &[]);
            assert_eq!(message(&mut port).tag, Tag(2));
            assert_eq!(port.counters().copies, 1);
            // Neither can be registered.
            port.send_payloads(Pe(0), Tag(1), 0, |_| {}, vec![RegBuf::from_vec(contents(2))], false);
            assert_eq!(message(&mut port).tag, Tag(2));
            assert_eq!(port.counters().copies, 2);
            port.close().unwrap();
        });
        let mut port = open(zero);
        greet(&mut port, Pe(1));
        let (put_window, memory) = port.open_put_window(LEN, Tag(3), |_| Vec::new());
        let id = put_window.id;
        tell.send(put_window).unwrap();
        limit_locked_memory(100_000);
        limited.wait();
        assert_eq!(message(&mut port).tag, Tag(3));
        assert!(memory.copy_of(0..LEN) == contents(1));
        port.send(Pe(1), Tag(2), 0, |_| {});
        assert!(*message(&mut port).payloads[0] == contents(2));
        port.send(Pe(1), Tag(2), 0, |_| {});
        port.close_put_window(id);
        port.close().unwrap();
    });
    drop(keep);
    let told = told.lock().unwrap();
    assert!(matches!(&told[..], [text] if text.contains("ulimit -l")), "{told:?}");
}

/// The texts that ports have told the user.
type Told = Arc<Mutex<Vec<String>>>;

/// A function that opens ports over endpoints, and the texts that they tell the user.
fn opener() -> (Told, impl Fn(Box<dyn EndpointBuilder>) -> Port + Sync) {
    let told = Told::default();
    let hears = told.clone();
    let notices = Notices::new(move |text| hears.lock().unwrap().push(text));
    let options = TransportOptions { notices, ..TransportOptions::default() };
    let open = move |builder: Box<dyn EndpointBuilder>| {
        let doorbell = Doorbell::new().unwrap();
        let end = builder.build(&doorbell).unwrap();
        Port::over(end, Arc::new(Layout::one_host(2, 1)), options.clone(), &doorbell)
    };
    (told, open)
}

#[test]
fn payloads_that_cannot_be_registered_are_copied_and_reported_once() {
    const LENS: [usize; 4] = [70_000, 300_000, 9_000_000, 70_001];
    for provider in ["tcp", "tcp;ofi_rxm", "shm"] {
        let ofi = Ofi::new(provider);
        if let Some(why) = ofi.absent() {
            eprintln!("skipped: {why}");
            continue;
        }
        let _watchdog = Watchdog::start(provider);
        // Enough for the endpoints themselves, but for no payload.
        let limit = |fabric: &OfiFabric| fabric.limit_registrations(65_000);
        let Group::Threads { builders, keep, .. } = ofi.changed(2, limit) else { panic!("it has threads") };
        let (told, open) = opener();
        let contents = |len: usize| -> Vec<u8> { (0..251u8).cycle().take(len).collect() };
        let (tell, address) = std::sync::mpsc::channel();
        let Ok([zero, one]) = <[_; 2]>::try_from(builders) else { panic!("it has two") };
        std::thread::scope(|scope| {
            let (open, contents) = (&open, &contents);
            scope.spawn(move || {
                let mut port = open(one);
                for len in LENS {
                    let payloads = vec![RegBuf::from_vec(contents(len)), RegBuf::from_vec(contents(len / 2))];
                    port.send_payloads(Pe(0), Tag(1), 0, |_| {}, payloads, false);
                    assert_eq!(message(&mut port).tag, Tag(2));
                }
                let address: PutWindowAddress = address.recv().unwrap();
                for len in LENS {
                    port.put(&address, 5, RegBuf::from_vec(contents(len)), Tag(1), &[]);
                    assert_eq!(message(&mut port).tag, Tag(2));
                }
                assert!(port.counters().copies > 0);
                port.close().unwrap();
            });
            let mut port = open(zero);
            for len in LENS {
                let payloads = message(&mut port).payloads;
                assert!(*payloads[0] == contents(len) && *payloads[1] == contents(len / 2));
                port.send(Pe(1), Tag(2), 0, |_| {});
            }
            let (put_window, memory) = port.open_put_window(9_000_005, Tag(3), |_| Vec::new());
            let id = put_window.id;
            tell.send(put_window).unwrap();
            for len in LENS {
                assert_eq!(message(&mut port).tag, Tag(3));
                assert!(memory.copy_of(5..5 + len) == contents(len));
                port.send(Pe(1), Tag(2), 0, |_| {});
            }
            port.close_put_window(id);
            port.close().unwrap();
        });
        drop(keep);
        let told = told.lock().unwrap();
        assert!(matches!(&told[..], [text] if text.contains("ulimit -l")), "{provider}: {told:?}");
    }
}
