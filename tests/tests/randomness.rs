//! A system without randomness: secrets are not created there, and the error says why. A system call filter refuses the system's random bytes to one
//! thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use charm4rs_bootstrap::Alone;
use charm4rs_bootstrap::options::Options;
use charm4rs_ofi::OfiFabric;
use charm4rs_tcp::{TcpConfig, TcpFabric};
use charm4rs_transport::wireup;
use charm4rs_transport::{Doorbell, Fabric, Layout, Pe, TransportError, TransportKind, TransportOptions};
use charm4rs_transport_core::auth::{JobId, Secret, random_u64};
use charm4rs_ucx::{UcxConfig, UcxFabric};
use seccompiler::{SeccompAction, SeccompFilter};

/// From here on this thread gets no random bytes from the system. Returns `false` if the system has no filters.
fn refuse_random_bytes() -> bool {
    let refused = BTreeMap::from([(libc::SYS_getrandom, vec![])]);
    let arch = std::env::consts::ARCH.try_into().expect("a known architecture");
    // Any error but those with which the system says that it has no such call.
    let refuse = SeccompAction::Errno(libc::EIO.cast_unsigned());
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, refuse, arch).expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program for it");
    seccompiler::apply_filter(&program).is_ok()
}

fn check<T>(what: &str, made: Result<T, TransportError>) {
    let Err(error) = made else { panic!("{what} is made without randomness") };
    assert!(error.code() == 71 && error.to_string().contains("random"), "{what}: {error}");
}

fn one_process(force: Option<TransportKind>) -> Result<(), TransportError> {
    let options = TransportOptions { force, ..TransportOptions::default() };
    wireup::local(Layout::one_host(1, 1), &options).map(drop)
}

#[test]
fn without_randomness_nothing_is_made_that_must_not_be_guessed() {
    // The keys of this thread's hash maps.
    let _keys = std::hash::RandomState::new();
    let layout = Arc::new(Layout::one_host(1, 1));
    let config = TcpConfig::new(layout.clone(), 0, JobId([1; 8]), Secret::new([1; 32]), [0; 32]);
    let tcp = TcpFabric::open(config).unwrap();
    let ofi = charm4rs_ofi::find(1, true, std::net::Ipv4Addr::LOCALHOST.into());
    let ucx = charm4rs_ucx::find();
    if !refuse_random_bytes() {
        return eprintln!("skipped: this system has no filters for system calls");
    }
    check("a secret", Secret::random());
    check("a number", random_u64());
    check("a segment of threads", one_process(None));
    check("a shared segment", one_process(Some(TransportKind::Shm)));
    check("an endpoint of TCP", tcp.builder(Pe(0)).build(&Doorbell::new().unwrap()));
    let alone = Alone::new(&Options::default()).map(drop).unwrap_err().to_string();
    assert!(alone.contains("random"), "{alone}");
    match ofi {
        Ok(found) => check("a lane", OfiFabric::open(&found, &layout, 0, &Secret::new([1; 32]), None)),
        Err(error) => eprintln!("skipped: {error}"),
    }
    match ucx {
        Ok(_) => check("a pass", UcxFabric::open(UcxConfig::new(layout, 0))),
        Err(error) => eprintln!("skipped: {error}"),
    }
}
