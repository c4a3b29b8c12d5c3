//! What this machine has for a job, and what would be chosen: for `charmrun ++info`.
//!
//! Says what wire-up would find here, by asking what wire-up asks; of other hosts it knows nothing. Limits that a job runs into first are
//! told with what to do about them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use rustix::process::{Resource, getrlimit};

use crate::bootstrap::Kind;
use crate::{TransportError, ofi, ucx};

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
///
/// ```
/// let text = charm4rs_transport::wireup::survey::report();
/// assert!(text.contains("between hosts"));
/// ```
#[must_use]
pub fn report() -> String {
    let mut text = String::new();
    let mut line = |name: &str, what: &str| {
        writeln!(text, "{name:<24}{what}").expect("a string takes what is written");
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    line("cpus", &format!("{cpus} that this process may use"));
    for Node { number, cpus } in nodes() {
        line(&format!("NUMA node {number}"), &format!("cpus {cpus}"));
    }
    // Asked as a job of two would; libfabric's answer depends on how many there are only in sizes.
    let devices = ofi::find(2, false, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let anything = ofi::find(2, true, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let libfabric = said(&anything.as_ref().map(ofi::FoundProvider::describe));
    line("libfabric", libfabric.trim_start_matches("libfabric "));
    let ucx = ucx::find();
    line("UCX", &said(&ucx.as_ref().map(|found| format!("{} from {}", found.version, found.path))));
    line("topology", "the kernel's (/sys)");

    let kind = Kind::here();
    line("bootstrap", &format!("{kind}: {}", kind.because()));
    line("within a process", "local: threads hand values over");
    line("within a host", "shm: processes meet in shared memory, and hand payloads over");
    line("between hosts", &between_hosts(&devices));
    line("on request", "++transport local, shm, tcp, ofi, ucx or sim");

    let files = getrlimit(Resource::Nofile);
    line("open files", &limit(files.current, files.maximum, FILES_WISHED, "ulimit -n 65536"));
    let locked = getrlimit(Resource::Memlock);
    line(
        "locked memory, bytes",
        &limit(locked.current, locked.maximum, LOCKED_WISHED, "devices need more: ulimit -l unlimited"),
    );
    text
}

fn said(found: &Result<String, &TransportError>) -> String {
    match found {
        Ok(found) => found.clone(),
        Err(error) => format!("not found: {error}"),
    }
}

/// What wire-up takes, and why.
fn between_hosts(devices: &Result<ofi::FoundProvider, TransportError>) -> String {
    match devices {
        Ok(found) => format!("ofi, if every host has it: {}", found.describe()),
        Err(why) => format!("tcp, since no fabric is there: {why}"),
    }
}

/// A limit, and what to do if it is low.
fn limit(current: Option<u64>, most: Option<u64>, wished: u64, advice: &str) -> String {
    let number = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let (now, most) = (number(current), number(most));
    match current {
        Some(current) if current < wished => format!("{now} (at most {most}): low; {advice}"),
        _ => format!("{now} (at most {most})"),
    }
}

/// The NUMA nodes that have cores; none, if the kernel does not tell.
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
    fn a_low_limit_comes_with_advice_and_a_high_one_without() {
        assert_eq!(limit(Some(1024), Some(4096), 4000, "raise it"), "1024 (at most 4096): low; raise it");
        assert_eq!(limit(Some(5000), None, 4000, "raise it"), "5000 (at most unlimited)");
        assert_eq!(limit(None, None, 4000, "raise it"), "unlimited (at most unlimited)");
    }

    #[test]
    fn what_is_not_there_is_told_with_where_it_was_looked_for() {
        let missing = Err(TransportError::Config("there is no libfabric: /nowhere".to_owned()));
        let text = between_hosts(&missing);
        assert!(text.starts_with("tcp, since no fabric is there:") && text.contains("/nowhere"), "{text}");
    }
}
