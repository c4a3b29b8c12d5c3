//! A process that runs out of descriptors. It is a test program of its own, since the limit holds for the whole process (faults.md, row 55).

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use charm4rs_tcp::{TcpConfig, TcpFabric};
use charm4rs_transport::{Doorbell, Event, Fabric, Imm, Layout, OpId, Pe, RegBuf};
use charm4rs_transport_core::Endpoint;
use charm4rs_transport_core::auth::{JobId, Secret};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn exchange(ends: &mut [Box<dyn Endpoint>; 2]) {
    let buf = RegBuf::copy_of(b"still here");
    assert!(ends[0].send(Pe(1), Imm(0), buf, OpId(0)).is_ok());
    let mut events = Vec::new();
    while events.is_empty() {
        assert_eq!(ends[0].progress(&mut Vec::new(), 8).expect("a healthy job"), 0);
        ends[1].progress(&mut events, 8).expect("a healthy job");
        std::thread::yield_now();
    }
    assert!(matches!(&events[..], [Event::Recv { msg, .. }] if **msg == *b"still here"), "{events:?}");
}

#[test]
fn accepting_pauses_when_descriptors_run_out_and_continues_when_there_are_some() {
    // This test is alone in its process, so ending the process harms no other test.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(60));
        eprintln!("watchdog: the test did not end within 60 s");
        std::process::abort();
    });
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
    let layout = Arc::new(Layout::one_host(3, 1));
    let fabrics: Vec<TcpFabric> = (0..3)
        .map(|process| {
            let secret = Secret::new([1; 32]);
            let config = TcpConfig::new(layout.clone(), process, JobId::default(), secret, [0; 32]);
            TcpFabric::open(config).unwrap()
        })
        .collect();
    assert_eq!(getrlimit(Resource::Nofile).current, hard, "the limit was raised as far as possible");

    let addresses: Vec<Vec<u8>> = fabrics.iter().map(TcpFabric::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
    let bell = Doorbell::new().unwrap();
    let mut ends = [0, 1].map(|pe| fabrics[pe as usize].builder(Pe(pe)).build(&bell).unwrap());
    exchange(&mut ends);

    // Enough for a few strangers, but not for the other ends of their connections.
    let port = u16::from_le_bytes(addresses[2][5..7].try_into().unwrap());
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(used + 6), maximum: hard }).unwrap();
    let strangers: Vec<TcpStream> = std::iter::from_fn(|| TcpStream::connect(("127.0.0.1", port)).ok()).collect();
    let pauses = || fabrics[2].counters().pauses.load(Ordering::Relaxed);
    while pauses() == 0 {
        std::thread::yield_now();
    }
    exchange(&mut ends);
    let before = pauses();
    let process_time = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = process_time();
    std::thread::sleep(Duration::from_secs(1));
    assert!(pauses() - before <= 11, "ten attempts a second, not a busy loop");
    let cpu = Duration::try_from(process_time() - cpu).unwrap();
    assert!(cpu < Duration::from_millis(500), "{cpu:?} of work while there is nothing to do");

    drop(strangers);
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    let mut third = fabrics[2].builder(Pe(2)).build(&bell).unwrap();
    assert!(ends[0].send(Pe(2), Imm(0), RegBuf::copy_of(b"welcome"), OpId(0)).is_ok());
    let mut events = Vec::new();
    while events.is_empty() {
        assert_eq!(ends[0].progress(&mut Vec::new(), 8).unwrap(), 0);
        third.progress(&mut events, 8).unwrap();
        std::thread::yield_now();
    }
    assert!(matches!(&events[..], [Event::Recv { msg, .. }] if **msg == *b"welcome"), "{events:?}");
}
