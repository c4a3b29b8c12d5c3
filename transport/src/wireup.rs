//! Wire-up: from a bootstrap to one [`PortBuilder`] for each PE of this process.
//!
//! Knows nothing of the launcher, nor of what the PEs will do.

mod select;
#[cfg(test)]
mod trial;
mod ucx;

use std::sync::Arc;

use self::select::Selection;
use crate::TransportOptions;
use crate::local::LocalFabric;
use crate::port::{Fabrics, PortBuilder};
use crate::shm::ShmFabric;
use charm4rs_bootstrap::Bootstrap;
use charm4rs_tcp::TcpConfig;
use charm4rs_transport_core::{Fabric, Layout, Pe, TransportError, TransportKind};

/// Changes with every change of the protocols between processes.
const PROTOCOL: u32 = 3;

/// A job of one process, whose PEs are threads. One builder for each PE, in order. If `shm` is forced they communicate
/// through shared memory, as processes do.
///
/// # Errors
/// If the system is out of a resource.
pub fn local(layout: Layout, options: &TransportOptions) -> Result<Vec<PortBuilder>, TransportError> {
    let mut fabrics = Fabrics::default();
    match options.force {
        Some(TransportKind::Shm) => fabrics.shm = Some(ShmFabric::alone(layout.pes(), options.ring)?),
        _ => fabrics.local = Some(LocalFabric::new(0..layout.pes(), options.ring)?),
    }
    builders(&Arc::new(layout), 0, &fabrics, options)
}

/// A job of the processes that `boot` knows: chooses the backends, and exchanges what they need. All processes call it once.
///
/// # Errors
/// If the system is out of a resource, a requested backend cannot do it, or the processes do not fit together.
pub fn open(boot: &mut dyn Bootstrap, options: &TransportOptions) -> Result<Vec<PortBuilder>, TransportError> {
    let layout = Arc::new(boot.layout().clone());
    let rank = boot.rank();
    if layout.processes() == 1 && !options.force.is_some_and(TransportKind::is_network) {
        return local(boot.layout().clone(), options);
    }
    let several_here = layout.processes_of(layout.host_of(rank)).len() > 1;
    let (shm, network) = match options.force {
        None => (several_here, layout.hosts() > 1),
        Some(kind) if kind.is_network() => (false, true),
        Some(TransportKind::Shm) if layout.hosts() == 1 => (true, false),
        Some(kind) => {
            let (processes, hosts) = (layout.processes(), layout.hosts());
            let problem = format!("transport {kind} cannot join {processes} processes on {hosts} hosts; tcp can");
            return Err(TransportError::Config(problem));
        }
    };
    let selection = if network { Some(Selection::open(boot, &layout, options)?) } else { None };
    let address = selection.as_ref().map_or_else(Vec::new, Selection::publish);
    let theirs = introduce(boot, &options.digest, &address)?;
    let net = selection.map(|selection| selection.join(&theirs, options)).transpose()?;
    let fabrics = Fabrics {
        local: if layout.pes_of(rank).len() > 1 {
            Some(LocalFabric::new(layout.pes_of(rank), options.ring)?)
        } else {
            None
        },
        shm: if shm { Some(ShmFabric::open(boot, options.ring)?) } else { None },
        net,
    };
    builders(&layout, rank, &fabrics, options)
}

/// A job whose PEs reach each other through `fabric` only, even within a process: for simulated networks. One builder for each PE of
/// `process`.
///
/// # Errors
/// If the system is out of a resource.
pub fn over(
    fabric: Arc<dyn Fabric>,
    layout: &Arc<Layout>,
    process: u32,
    options: &TransportOptions,
) -> Result<Vec<PortBuilder>, TransportError> {
    builders(layout, process, &Fabrics { net: Some(fabric), ..Fabrics::default() }, options)
}

fn tcp_config(boot: &dyn Bootstrap, layout: &Arc<Layout>, options: &TransportOptions) -> TcpConfig {
    let mut config = TcpConfig::new(layout.clone(), boot.rank(), boot.job_id(), boot.secret().clone(), options.digest);
    config.toward = boot.toward().to_vec();
    config.checksum = options.checksum;
    config.credit = usize::try_from(options.credit).unwrap_or(usize::MAX);
    config.message_max = options.frame_max();
    config.port = options.port;
    if !options.liveness {
        config.liveness = None;
    }
    config
}

/// Publishes this process's version and address, and checks that all processes have the same version. Returns their addresses, by rank.
fn introduce(boot: &mut dyn Bootstrap, digest: &[u8; 32], address: &[u8]) -> Result<Vec<Vec<u8>>, TransportError> {
    let own: Vec<u8> = [&PROTOCOL.to_le_bytes()[..], digest, address].concat();
    boot.put("transport", &own)?;
    boot.fence()?;
    let mut addresses = Vec::new();
    for (rank, theirs) in (0u32..).zip(boot.get_all("transport")?) {
        let Some((protocol, rest)) = theirs.split_first_chunk().map(|(p, rest)| (u32::from_le_bytes(*p), rest)) else {
            return Err(TransportError::Startup(format!("process {rank} published no version")));
        };
        if protocol != PROTOCOL {
            let (ours, theirs) = (PROTOCOL.to_string(), format!("{protocol} (process {rank})"));
            return Err(TransportError::Version { what: "the version of the transport", ours, theirs });
        }
        match rest.split_first_chunk::<32>() {
            Some((theirs, address)) if theirs == digest => addresses.push(address.to_vec()),
            _ => {
                let (ours, theirs) = (hex(digest), format!("{} (process {rank})", hex(&rest[..rest.len().min(32)])));
                return Err(TransportError::Version { what: "the set of entry methods", ours, theirs });
            }
        }
    }
    Ok(addresses)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One builder for each PE of `process`.
fn builders(
    layout: &Arc<Layout>,
    process: u32,
    fabrics: &Fabrics,
    options: &TransportOptions,
) -> Result<Vec<PortBuilder>, TransportError> {
    layout.pes_of(process).map(|pe| PortBuilder::new(Pe(pe), layout, fabrics, options)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::port::{PortEvent, Tag};
    use charm4rs_transport_core::RegBuf;

    #[test]
    fn a_backend_that_the_program_lacks_is_refused_before_processes_connect() {
        let force = Some("extern:absent".parse().unwrap());
        let options = TransportOptions { force, ..TransportOptions::default() };
        let layout = Layout::one_host(1, 1);
        let refused = charm4rs_bootstrap::Threads::open_all(&layout, |process| match open(process, &options) {
            Err(error) => Ok(error),
            Ok(_) => panic!("there is no such backend"),
        });
        let error = &refused[0];
        assert_eq!(error.code(), 78);
        assert!(error.to_string().ends_with("no such backend registered; it has none"), "{error}");
    }

    #[test]
    fn a_message_and_its_payload_reach_another_thread_and_come_back() {
        let mut builders = local(Layout::one_host(2, 2), &TransportOptions::default()).unwrap();
        let other = builders.pop().unwrap();
        let echo = std::thread::spawn(move || {
            let mut port = other.open().unwrap();
            let mut events = VecDeque::new();
            while port.poll(&mut events, 16).unwrap() == 0 {
                port.park(None).unwrap();
            }
            let Some(PortEvent::Message(m)) = events.pop_front() else { panic!("a message") };
            port.send_payloads(
                m.from,
                m.tag,
                m.msg.len(),
                |to| to.iter_mut().zip(m.msg.iter()).for_each(|(a, b)| _ = a.write(*b)),
                m.payloads.into_vec(),
                false,
            );
            port.close().unwrap();
        });
        let mut port = builders.pop().unwrap().open().unwrap();
        port.send_payloads(
            Pe(1),
            Tag(7),
            3,
            |to| to.iter_mut().for_each(|b| _ = b.write(9)),
            vec![RegBuf::copy_of(b"payload")],
            false,
        );
        let mut events = VecDeque::new();
        while port.poll(&mut events, 16).unwrap() == 0 {
            port.park(None).unwrap();
        }
        let Some(PortEvent::Message(m)) = events.pop_front() else { panic!("a message") };
        assert_eq!((m.from, m.tag, &*m.msg, &*m.payloads[0]), (Pe(1), Tag(7), &[9u8; 3][..], &b"payload"[..]));
        echo.join().unwrap();
    }
}
