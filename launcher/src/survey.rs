//! The machine's resources for a job, and the choices of wire-up: `charmrun ++info`.
//!
//! The report calls the same functions as wire-up. It knows nothing of other hosts. For a limit that jobs often reach it says what to do about it.

use std::fmt::Write as _;
#[cfg(feature = "fabrics")]
use std::net::{IpAddr, Ipv4Addr};

use rustix::process::{Resource, getrlimit};

use charm4rs_bootstrap::Kind;
#[cfg(feature = "fabrics")]
use charm4rs_transport_core::TransportError;

/// Open files below which a job of many processes, or of many connections, may run into the limit.
const FILES_WISHED: u64 = 4096;
/// Locked memory that a PE's pool on a device may need, in bytes.
const LOCKED_WISHED: u64 = 1 << 30;

/// Cores of a NUMA node, as the kernel lists them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Node {
    number: u32,
    cpus: String,
}

/// The report, some lines of text.
pub(crate) fn report() -> String {
    let mut text = String::new();
    let mut line = |name: &str, what: &str| {
        writeln!(text, "{name:<24}{what}").expect("a string accepts every write");
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    line("cpus", &format!("{cpus} that this process may use"));
    for Node { number, cpus } in nodes() {
        line(&format!("NUMA node {number}"), &format!("cpus {cpus}"));
    }
    let fabrics = Fabrics::find();
    line("libfabric", &fabrics.libfabric);
    line("UCX", &fabrics.ucx);
    line("topology", "the kernel's (/sys)");

    let kind = Kind::here();
    line("bootstrap", &format!("{kind}: {}", kind.because()));
    line("within a process", "local: threads hand values over");
    line("within a host", "shm: processes meet in shared memory, and hand payloads over");
    line("between hosts", &fabrics.between_hosts);
    line("on request", "++transport local, shm, tcp, ofi, ucx or sim; extern:NAME, if the program has such a backend");

    let files = getrlimit(Resource::Nofile);
    line("open files", &limit(files.current, files.maximum, FILES_WISHED, "ulimit -n 65536"));
    let locked = getrlimit(Resource::Memlock);
    line(
        "locked memory, bytes",
        &limit(locked.current, locked.maximum, LOCKED_WISHED, "devices need more: ulimit -l unlimited"),
    );
    text
}

/// What wire-up would find of libfabric and UCX, and what it would use between hosts.
struct Fabrics {
    libfabric: String,
    ucx: String,
    between_hosts: String,
}

#[cfg(feature = "fabrics")]
impl Fabrics {
    fn find() -> Self {
        // The numbers of a job of two PEs: libfabric's answer depends on the number of PEs only in sizes.
        let devices = charm4rs_ofi::find(2, false, IpAddr::V4(Ipv4Addr::LOCALHOST));
        let anything = charm4rs_ofi::find(2, true, IpAddr::V4(Ipv4Addr::LOCALHOST));
        let libfabric = found(&anything.as_ref().map(charm4rs_ofi::FoundProvider::describe));
        let ucx = charm4rs_ucx::find();
        let version = |found: &charm4rs_ucx::FoundLibrary| format!("{} from {}", found.version, found.path);
        Self {
            libfabric: libfabric.trim_start_matches("libfabric ").to_owned(),
            ucx: found(&ucx.as_ref().map(version)),
            between_hosts: between_hosts(&devices),
        }
    }
}

#[cfg(not(feature = "fabrics"))]
impl Fabrics {
    fn find() -> Self {
        let unknown = || "not looked for: this charmrun was built without the feature `fabrics`".to_owned();
        Self {
            libfabric: unknown(),
            ucx: unknown(),
            between_hosts: "ofi, if every host has a device; tcp otherwise".to_owned(),
        }
    }
}

#[cfg(feature = "fabrics")]
fn found(what: &Result<String, &TransportError>) -> String {
    match what {
        Ok(what) => what.clone(),
        Err(error) => format!("not found: {error}"),
    }
}

/// The choice of wire-up, and the reason.
#[cfg(feature = "fabrics")]
fn between_hosts(devices: &Result<charm4rs_ofi::FoundProvider, TransportError>) -> String {
    match devices {
        Ok(found) => format!("ofi, if every host has it: {}", found.describe()),
        Err(why) => format!("tcp, since no fabric is there: {why}"),
    }
}

/// A limit, and a remedy if it is low.
fn limit(current: Option<u64>, most: Option<u64>, wished: u64, advice: &str) -> String {
    let number = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let (now, most) = (number(current), number(most));
    match current {
        Some(current) if current < wished => format!("{now} (at most {most}): low; {advice}"),
        _ => format!("{now} (at most {most})"),
    }
}

/// The NUMA nodes that have cores; empty, if the kernel does not list them.
fn nodes() -> Vec<Node> {
    let Ok(folder) = std::fs::read_dir("/sys/devices/system/node") else { return Vec::new() };
    let node = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let cpus = std::fs::read_to_string(entry.path().join("cpulist")).ok()?.trim().to_owned();
        (!cpus.is_empty()).then_some(Node { number, cpus })
    };
    let mut nodes: Vec<Node> = folder.filter_map(node).collect();
    nodes.sort_by_key(|node| node.number);
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_carries_messages_between_hosts() {
        assert!(report().contains("between hosts"));
    }

    #[test]
    fn a_low_limit_comes_with_advice_and_a_high_one_without() {
        assert_eq!(limit(Some(1024), Some(4096), 4000, "raise it"), "1024 (at most 4096): low; raise it");
        assert_eq!(limit(Some(5000), None, 4000, "raise it"), "5000 (at most unlimited)");
        assert_eq!(limit(None, None, 4000, "raise it"), "unlimited (at most unlimited)");
    }

    #[cfg(feature = "fabrics")]
    #[test]
    fn a_missing_library_is_reported_with_the_searched_names() {
        let missing = Err(TransportError::Config("there is no libfabric: /nowhere".to_owned()));
        let text = between_hosts(&missing);
        assert!(text.starts_with("tcp, since no fabric is there:") && text.contains("/nowhere"), "{text}");
    }
}
