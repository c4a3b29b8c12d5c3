//! Configures UCX for a job, and tells the user about UCX.

use std::sync::Arc;

use crate::TransportOptions;
use charm4rs_transport_core::failure_detector::FailureDetector;
use charm4rs_transport_core::{Layout, TransportError};
use charm4rs_ucx::{UcxConfig, UcxFabric};

/// Opens UCX. If `tells`, this process tells the user.
///
/// # Errors
/// [`TransportError::Config`]: there is no UCX, or it finds no way to communicate.
pub(super) fn open(
    layout: &Arc<Layout>,
    process: u32,
    options: &TransportOptions,
    detector: Arc<dyn FailureDetector>,
    tells: bool,
) -> Result<UcxFabric, TransportError> {
    let mut config = UcxConfig::new(layout.clone(), process);
    config.credit = usize::try_from(options.credit).unwrap_or(usize::MAX);
    config.message_max = options.frame_max();
    config.detector = Some(detector);
    config.notices = options.notices.clone();
    choose(&mut config, has_rdma());
    collect(&mut config, std::env::var(COLLECT).ok().as_deref())?;
    let said = |name| std::env::var(name).ok();
    let listens = ways(&mut config, said("UCX_TLS").as_deref(), said("UCX_NET_DEVICES").as_deref());
    let fabric = UcxFabric::open(config)?;
    if listens && tells {
        options.notices.tell(UNPROVEN.to_owned());
    }
    Ok(fabric)
}

/// UCX opens each transport that it may use, and listens there, whichever it prefers.
const UNPROVEN: &str = "++transport ucx: UCX listens on TCP and accepts connections without authentication; \
                        UCX_TLS=^tcp forbids it, and ++transport tcp asks for a proof";

/// Over sockets and shared memory, shorter payloads are copied: there UCX's handshake costs more than copies. (Measured, copied instead of fetched:
/// 256 KiB over sockets 58 us instead of 70, a stream of them 5.8 GB/s instead of 4.1; over shared memory 8.4 instead of 4 to 8. At 1 MiB
/// copies are slower, by a third.)
const SOFTWARE_COLLECTED_MIN: usize = 384 << 10;

/// Chooses by the network that carries the bytes.
fn choose(config: &mut UcxConfig, rdma: bool) {
    if config.layout.hosts() == 1 || !rdma {
        (config.either_min, config.collected_min) = (SOFTWARE_COLLECTED_MIN, SOFTWARE_COLLECTED_MIN);
    }
}

/// The environment variable with the length from which on payloads are fetched and never copied.
const COLLECT: &str = "CHARM4RS_UCX_COLLECT";

/// Applies the user's value of that length.
fn collect(config: &mut UcxConfig, said: Option<&str>) -> Result<(), TransportError> {
    if let Some(said) = said {
        let bad = |_| TransportError::Config(format!("{COLLECT}={said}: must be a number of bytes"));
        config.collected_min = said.parse().map_err(bad)?;
        config.either_min = config.either_min.min(config.collected_min);
    }
    Ok(())
}

/// Whether there is a device for RDMA.
fn has_rdma() -> bool {
    std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

/// Chooses among UCX's transports, unless the user does (`tls` and `devices` are the user's settings). Returns whether UCX will listen on TCP.
///
/// Never `posix`: it makes files in /dev/shm, and removes their names a little later, so a process that is killed in between leaves one behind.
/// UCX's `sysv` does the same work with memory that goes away with its last process: it is marked for that in the call after the one that makes it.
/// And inside one host no network: shared memory reaches all PEs.
fn ways(config: &mut UcxConfig, tls: Option<&str>, devices: Option<&str>) -> bool {
    let alone = config.layout.hosts() == 1 && devices.is_none();
    match tls {
        Some(tls) => {
            let (names, allowed) = tls.strip_prefix('^').map_or((tls, true), |names| (names, false));
            let listens = names.split(',').any(|name| matches!(name.trim(), "tcp" | "all")) == allowed;
            // Other transports may need the devices that this excludes.
            if alone && listens {
                config.settings.push(("NET_DEVICES", "lo".to_owned()));
            }
            listens
        }
        None if alone => {
            config.settings.push(("NET_DEVICES", "lo".to_owned()));
            config.settings.push(("TLS", "^tcp,posix".to_owned()));
            false
        }
        None => {
            config.settings.push(("TLS", "^posix".to_owned()));
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_payloads_are_copied_without_a_device() {
        let either_min = |layout: Layout, rdma| {
            let mut config = UcxConfig::new(Arc::new(layout), 0);
            choose(&mut config, rdma);
            assert!(config.either_min <= config.collected_min);
            config.either_min
        };
        let hosts = || Layout::new(&[1, 1], &[1, 1]);
        assert!(either_min(hosts(), true) < either_min(hosts(), false));
        assert_eq!(either_min(hosts(), false), either_min(Layout::one_host(2, 1), true));
    }

    #[test]
    fn ucx_listens_on_tcp_only_on_request_and_leaves_no_names_by_default() {
        let check = |hosts: usize, tls: Option<&str>, devices: Option<&str>, listens: bool, set: &[(&str, &str)]| {
            let layout = Layout::new(&vec![1; hosts], &vec![1; hosts]);
            let mut config = UcxConfig::new(Arc::new(layout), 0);
            assert_eq!(ways(&mut config, tls, devices), listens, "{hosts} {tls:?} {devices:?}");
            let settings: Vec<_> = config.settings.iter().map(|(name, value)| (*name, &**value)).collect();
            assert_eq!(settings, set, "{hosts} {tls:?} {devices:?}");
        };
        check(1, None, None, false, &[("NET_DEVICES", "lo"), ("TLS", "^tcp,posix")]);
        check(2, None, None, true, &[("TLS", "^posix")]);
        check(1, None, Some("eth0"), true, &[("TLS", "^posix")]);
        for (tls, listens) in [
            ("tcp,self", true),
            ("all", true),
            ("self, tcp", true),
            ("^posix", true),
            ("posix,cma,self", false),
            ("rc_verbs,ud_verbs", false),
            ("^tcp", false),
            ("^cma,tcp", false),
        ] {
            check(2, Some(tls), None, listens, &[]);
            check(1, Some(tls), None, listens, if listens { &[("NET_DEVICES", "lo")] } else { &[] });
            check(1, Some(tls), Some("eth0"), listens, &[]);
        }
    }

    #[test]
    fn payloads_are_fetched_from_the_users_length_on() {
        let mut config = UcxConfig::new(Arc::new(charm4rs_transport_core::Layout::one_host(2, 1)), 0);
        let usual = (config.either_min, config.collected_min);
        collect(&mut config, None).unwrap();
        assert_eq!((config.either_min, config.collected_min), usual);
        collect(&mut config, Some("1000")).unwrap();
        assert_eq!((config.either_min, config.collected_min), (1000, 1000));
        for said in ["", "64K", "-1"] {
            assert_eq!(collect(&mut config, Some(said)).unwrap_err().code(), 78, "{said}");
        }
    }
}
