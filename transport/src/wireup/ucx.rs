//! What UCX is told of a job, and what the user is told of UCX.

use std::sync::Arc;

use super::TransportOptions;
use crate::liveness::Watch;
use crate::ucx::{UcxConfig, UcxFabric};
use crate::{Layout, TransportError};

/// Opens UCX. Whoever `tells` tells the user.
///
/// # Errors
/// [`TransportError::Config`]: it is not here, or finds no way to communicate.
pub(super) fn open(
    layout: &Arc<Layout>,
    process: u32,
    options: &TransportOptions,
    watch: Arc<dyn Watch>,
    tells: bool,
) -> Result<UcxFabric, TransportError> {
    let mut config = UcxConfig::new(layout.clone(), process);
    config.credit = usize::try_from(options.credit).unwrap_or(usize::MAX);
    config.watch = Some(watch);
    choose(&mut config, has_rdma());
    collect(&mut config, std::env::var(COLLECT).ok().as_deref())?;
    alone_on_this_host(&mut config);
    let fabric = UcxFabric::open(config)?;
    if layout.hosts() > 1 && tells && !has_rdma() {
        options.notices.tell(UNPROVEN.to_owned());
    }
    Ok(fabric)
}

const UNPROVEN: &str = "UCX finds no RDMA device here, and its own sockets ask nobody who connects for a proof: \
                        ++transport tcp does";

/// Over sockets and shared memory what is shorter is copied: there UCX's handshake costs more than copies do. (Measured, copied in place of collected:
/// 256 KiB over sockets 58 us in place of 70, a stream of them 5.8 GB/s in place of 4.1; over shared memory 8.4 in place of 4 to 8. At 1 MiB
/// copies are slower, by a third.)
const SOFTWARE_COLLECTED_MIN: usize = 384 << 10;

/// Chooses by what carries the bytes.
fn choose(config: &mut UcxConfig, rdma: bool) {
    if config.layout.hosts() == 1 || !rdma {
        (config.either_min, config.collected_min) = (SOFTWARE_COLLECTED_MIN, SOFTWARE_COLLECTED_MIN);
    }
}

/// The environment's name for the length from which on payloads are collected and never copied.
const COLLECT: &str = "CHARM4RS_UCX_COLLECT";

/// Heeds what the user says of that length.
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

/// A job of one host listens on loopback only, unless the user says otherwise.
fn alone_on_this_host(config: &mut UcxConfig) {
    let said = ["UCX_NET_DEVICES", "UCX_TLS"].into_iter().any(|name| std::env::var_os(name).is_some());
    if config.layout.hosts() == 1 && !said {
        config.settings.push(("NET_DEVICES", "lo".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_copied_where_no_device_carries_it() {
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
    fn payloads_are_collected_from_the_length_that_the_user_names() {
        let mut config = UcxConfig::new(Arc::new(crate::Layout::one_host(2, 1)), 0);
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
