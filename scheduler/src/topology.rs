//! The topology of the machine: its hardware threads, and the cores, caches, NUMA nodes and packages that contain them.
//!
//! It is read from the kernel's sysfs, below a root that tests replace by a tree of their own. If a kernel or a container hides something, the
//! simplest case is assumed: each hardware thread is a core of its own, and all are in one node. With the feature `hwloc`, that library can supply
//! the topology instead.
//!
//! Knows nothing of PEs, nor of which hardware threads this process may use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs, io};

/// The largest accepted number of a hardware thread; it bounds what a list can make us allocate.
const CPU_MAX: u32 = 1 << 16;

/// A set of hardware threads, by the kernel's numbers.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// Whether `cpu` is in it.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// The numbers, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// The number of hardware threads in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In the kernel's form: `0-3,8`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{comma}{first}")?
            } else {
                write!(f, "{comma}{first}-{last}")?
            }
            comma = ",";
        }
        Ok(())
    }
}

/// A list of hardware threads that is not in the kernel's form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a list of CPUs like 0-3,8")]
pub struct CpuListError;

impl FromStr for CpuSet {
    type Err = CpuListError;

    fn from_str(list: &str) -> Result<Self, CpuListError> {
        let number = |text: &str| text.parse().ok().filter(|&n: &u32| n < CPU_MAX).ok_or(CpuListError);
        let mut cpus = BTreeSet::new();
        for item in list.trim().split(',').filter(|item| !item.is_empty()) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(CpuListError);
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

/// A hardware thread, and its place in the machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cpu {
    /// Its NUMA node, by the kernel's number.
    pub node: u32,
    /// Its package (socket).
    pub package: u32,
    /// The first hardware thread that shares its last-level cache.
    pub cache: u32,
    /// The first hardware thread of its core.
    pub core: u32,
    /// Its number among the hardware threads of its core, from 0.
    pub sibling: u32,
    /// The kernel's number.
    pub id: u32,
}

/// A data cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cache {
    /// Level 1 is nearest to the core.
    pub level: u32,
    /// In bytes.
    pub size: u64,
    /// The hardware threads that share it.
    pub cpus: CpuSet,
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    /// In the order of nearness: the hardware threads of a node, package, last-level cache and core are contiguous.
    cpus: Vec<Cpu>,
    caches: Vec<Cache>,
}

/// Why the topology cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// A file's content is malformed.
    #[error("{}: {text:?} is not what the kernel writes there", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: Box<str>,
    },
    /// There is no hardware thread at all.
    #[error("no CPU is online")]
    Empty,
    /// The hwloc library finds nothing.
    #[error("hwloc finds no topology")]
    Hwloc,
}

impl Topology {
    /// The topology of this machine, from `/sys`.
    ///
    /// # Errors
    /// If sysfs is not mounted, or not readable.
    pub fn detect() -> Result<Self, TopologyError> {
        Self::from_sysfs(Path::new("/sys"))
    }

    /// The topology in a sysfs mounted at `root`.
    ///
    /// # Errors
    /// If the list of online CPUs is missing, or a file is malformed.
    pub fn from_sysfs(root: &Path) -> Result<Self, TopologyError> {
        let system = root.join("devices/system");
        let path = system.join("cpu/online");
        let text = fs::read_to_string(&path).map_err(|source| TopologyError::Read { path: path.clone(), source })?;
        let online: CpuSet = parse(&path, &text)?;
        let nodes = read_nodes(&system.join("node"))?;
        let (mut cpus, mut caches) = (Vec::with_capacity(online.len()), Vec::new());
        for id in online.iter() {
            let dir = system.join(format!("cpu/cpu{id}"));
            let siblings: CpuSet = read(&dir.join("topology/thread_siblings_list"))?.unwrap_or_default();
            let siblings: Vec<u32> = siblings.iter().filter(|&cpu| online.contains(cpu)).collect();
            let package: Option<i64> = read(&dir.join("topology/physical_package_id"))?;
            read_caches(&dir.join("cache"), &mut caches)?;
            cpus.push(Cpu {
                node: nodes.iter().find(|(_, cpus)| cpus.contains(id)).map_or(0, |(node, _)| *node),
                // The kernel writes -1 if it does not know.
                package: package.and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
                cache: 0,
                core: siblings.first().copied().unwrap_or(id),
                sibling: position(&siblings, id),
                id,
            });
        }
        Self::new(cpus, caches)
    }

    /// Finds each thread's last-level cache, and sorts.
    fn new(mut cpus: Vec<Cpu>, mut caches: Vec<Cache>) -> Result<Self, TopologyError> {
        if cpus.is_empty() {
            return Err(TopologyError::Empty);
        }
        caches.sort_by_key(|c| (c.level, c.cpus.iter().next()));
        for cpu in &mut cpus {
            let last = caches.iter().rev().find(|c| c.cpus.contains(cpu.id));
            cpu.cache = last.and_then(|c| c.cpus.iter().next()).unwrap_or(cpu.package);
        }
        cpus.sort_unstable();
        Ok(Self { cpus, caches })
    }

    /// All hardware threads, in the order of nearness.
    #[must_use]
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// The data caches, the smallest level first.
    #[must_use]
    pub fn caches(&self) -> &[Cache] {
        &self.caches
    }

    /// The hardware thread with this number.
    #[must_use]
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// The number of cores.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cpus.iter().map(|cpu| cpu.core).collect::<BTreeSet<_>>().len()
    }

    /// The number of NUMA nodes with cores.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.cpus.iter().map(|cpu| cpu.node).collect::<BTreeSet<_>>().len()
    }
}

fn position(siblings: &[u32], id: u32) -> u32 {
    let at = siblings.iter().position(|&s| s == id).unwrap_or(0);
    u32::try_from(at).expect("below the number of CPUs")
}

fn parse<T: FromStr>(path: &Path, text: &str) -> Result<T, TopologyError> {
    text.trim().parse().map_err(|_| TopologyError::Parse { path: path.into(), text: text.trim().into() })
}

/// Reads a file that may be missing.
fn read<T: FromStr>(path: &Path) -> Result<Option<T>, TopologyError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(_) => Ok(None),
    }
}

/// The entries of a directory that are called `prefix` and a number.
fn numbered(dir: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    found
}

fn read_nodes(dir: &Path) -> Result<Vec<(u32, CpuSet)>, TopologyError> {
    numbered(dir, "node")
        .into_iter()
        .map(|(node, path)| Ok((node, read(&path.join("cpulist"))?.unwrap_or_default())))
        .collect()
}

fn read_caches(dir: &Path, caches: &mut Vec<Cache>) -> Result<(), TopologyError> {
    for (_, dir) in numbered(dir, "index") {
        let kind: Option<String> = read(&dir.join("type"))?;
        if kind.as_deref() == Some("Instruction") {
            continue;
        }
        let (Some(level), Some(cpus)) = (read(&dir.join("level"))?, read(&dir.join("shared_cpu_list"))?) else {
            continue;
        };
        let size = read(&dir.join("size"))?.map_or(0, |Size(bytes)| bytes);
        let cache = Cache { level, size, cpus };
        // Every hardware thread that shares the cache lists it.
        if !caches.contains(&cache) {
            caches.push(cache);
        }
    }
    Ok(())
}

/// A number of bytes, as in `32K`.
struct Size(u64);

impl FromStr for Size {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            _ => return Err(CpuListError),
        };
        let number: u64 = digits.parse().map_err(|_| CpuListError)?;
        number.checked_mul(1 << shift).map(Self).ok_or(CpuListError)
    }
}

#[cfg(feature = "hwloc")]
mod hwloc {
    use hwloc2::{ObjectType, TopologyFlag, TopologyObject};

    use super::{Cache, Cpu, CpuSet, Topology, TopologyError};

    impl Topology {
        /// The topology of this machine, from the hwloc library.
        ///
        /// # Errors
        /// If the library finds nothing.
        pub fn from_hwloc() -> Result<Self, TopologyError> {
            // Including what a cpuset hides from this process, as sysfs shows it.
            let machine = hwloc2::Topology::with_flags(vec![TopologyFlag::IncludeDisallowed]);
            let machine = machine.ok_or(TopologyError::Hwloc)?;
            let units = machine.objects_with_type(&ObjectType::PU).map_err(|_| TopologyError::Hwloc)?;
            let (mut cpus, mut caches) = (Vec::new(), Vec::new());
            for unit in units {
                let id = unit.os_index();
                let core: Vec<u32> = above(unit, &ObjectType::Core).map(members).unwrap_or_else(|| vec![id]);
                let node = unit.nodeset().and_then(|nodes| u32::try_from(nodes.first()).ok());
                cpus.push(Cpu {
                    node: node.unwrap_or(0),
                    package: above(unit, &ObjectType::Package).map_or(0, TopologyObject::os_index),
                    cache: 0,
                    core: core.first().copied().unwrap_or(id),
                    sibling: super::position(&core, id),
                    id,
                });
                find_caches(unit, &mut caches);
            }
            Self::new(cpus, caches)
        }
    }

    fn above<'a>(unit: &'a TopologyObject, kind: &ObjectType) -> Option<&'a TopologyObject> {
        std::iter::successors(Some(unit), |object| object.parent()).find(|object| object.object_type() == *kind)
    }

    /// The hardware threads of an object, in ascending order.
    fn members(object: &TopologyObject) -> Vec<u32> {
        let Some(set) = object.cpuset() else { return Vec::new() };
        (0..=u32::try_from(set.last()).unwrap_or(0)).filter(|&cpu| set.is_set(cpu)).collect()
    }

    fn find_caches(unit: &TopologyObject, caches: &mut Vec<Cache>) {
        use ObjectType::{L1Cache, L2Cache, L3Cache, L4Cache, L5Cache};
        for (level, kind) in (1..).zip([L1Cache, L2Cache, L3Cache, L4Cache, L5Cache]) {
            let Some(object) = above(unit, &kind) else { continue };
            let size = object.cache_attributes().map_or(0, |a| a.size());
            let cache = Cache { level, size, cpus: members(object).into_iter().collect::<CpuSet>() };
            if !caches.contains(&cache) {
                caches.push(cache);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A sysfs of `nodes` packages, each one NUMA node, of `cores` cores with `threads` hardware threads, numbered as Linux does on x86: all first
    /// threads, then all second ones. Removed when dropped.
    pub(crate) struct Fake(PathBuf);

    impl Fake {
        pub(crate) fn new(name: &str, nodes: u32, cores: u32, threads: u32) -> Self {
            let root = std::env::temp_dir().join(format!("charm4rs-sysfs-{}-{name}", std::process::id()));
            let fake = Self(root);
            let all = nodes * cores;
            fake.write("cpu/online", &format!("0-{}\n", all * threads - 1));
            let list = |cpus: &mut dyn Iterator<Item = u32>| cpus.collect::<CpuSet>().to_string();
            for node in 0..nodes {
                let of_node = (0..threads).flat_map(|t| (0..cores).map(move |c| t * all + node * cores + c));
                let of_node = list(&mut of_node.into_iter());
                fake.write(&format!("node/node{node}/cpulist"), &format!("{of_node}\n"));
                for (core, thread) in (0..cores).flat_map(|c| (0..threads).map(move |t| (c, t))) {
                    let first = node * cores + core;
                    let cpu = format!("cpu/cpu{}", thread * all + first);
                    let siblings = list(&mut (0..threads).map(|t| t * all + first));
                    fake.write(&format!("{cpu}/topology/thread_siblings_list"), &siblings);
                    fake.write(&format!("{cpu}/topology/physical_package_id"), &node.to_string());
                    let caches = [("1", "Data", "32K", &siblings), ("1", "Instruction", "32K", &siblings)];
                    for (at, (level, kind, size, cpus)) in
                        caches.into_iter().chain([("3", "Unified", "16M", &of_node)]).enumerate()
                    {
                        for (file, text) in
                            [("level", level), ("type", kind), ("size", size), ("shared_cpu_list", cpus)]
                        {
                            fake.write(&format!("{cpu}/cache/index{at}/{file}"), text);
                        }
                    }
                }
            }
            fake
        }

        pub(crate) fn write(&self, path: &str, text: &str) {
            let path = self.0.join("devices/system").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn read(&self) -> Result<Topology, TopologyError> {
            Topology::from_sysfs(&self.0)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn nodes_cores_siblings_and_caches_are_found() {
        let topology = Fake::new("full", 2, 2, 2).read().unwrap();
        assert_eq!((topology.cpus().len(), topology.cores(), topology.nodes()), (8, 4, 2));
        let ids: Vec<_> = topology.cpus().iter().map(|c| c.id).collect();
        assert_eq!(ids, [0, 4, 1, 5, 2, 6, 3, 7], "threads of a core, cores of a node stand together");
        assert_eq!(topology.cpu(7), Some(&Cpu { node: 1, package: 1, cache: 2, core: 3, sibling: 1, id: 7 }));
        let caches: Vec<_> = topology.caches().iter().map(|c| (c.level, c.size, c.cpus.to_string())).collect();
        assert_eq!(caches[4], (3, 16 << 20, "0-1,4-5".into()));
        assert_eq!((caches.len(), &caches[0]), (6, &(1, 32 << 10, "0,4".into())));
    }

    #[test]
    fn what_is_not_told_is_taken_to_be_the_simplest() {
        let fake = Fake(std::env::temp_dir().join(format!("charm4rs-sysfs-{}-bare", std::process::id())));
        fake.write("cpu/online", "0,2-3\n");
        let topology = fake.read().unwrap();
        assert_eq!((topology.cores(), topology.nodes(), topology.caches().len()), (3, 1, 0));
    }

    #[test]
    fn an_offline_sibling_leaves_its_core_to_the_other() {
        let fake = Fake::new("offline", 1, 2, 2);
        fake.write("cpu/online", "1-3");
        let topology = fake.read().unwrap();
        assert_eq!(topology.cpu(2).map(|c| (c.core, c.sibling)), Some((2, 0)));
        assert_eq!((topology.cores(), topology.cpus().len()), (2, 3));
    }

    #[test]
    fn malformed_files_are_errors_that_name_the_file() {
        let fake = Fake::new("bad", 1, 1, 1);
        for (path, text) in [
            ("cpu/cpu0/cache/index0/size", "32X"),
            ("cpu/cpu0/topology/thread_siblings_list", "3-1"),
            ("node/node0/cpulist", "0-99999999999"),
            ("cpu/online", "zero"),
        ] {
            fake.write(path, text);
            let error = fake.read().unwrap_err();
            assert!(matches!(error, TopologyError::Parse { .. }) && error.to_string().contains(path), "{error}");
        }
        let fake = Fake::new("empty", 1, 1, 1);
        fake.write("cpu/online", "\n");
        assert!(matches!(fake.read(), Err(TopologyError::Empty)));
        assert!(matches!(Topology::from_sysfs(Path::new("/nowhere")), Err(TopologyError::Read { .. })));
    }

    #[test]
    fn a_cpu_list_survives_being_written_and_read() {
        for list in ["", "0", "0-3", "0,2,4", "1-2,4-7,9"] {
            assert_eq!(list.parse::<CpuSet>().unwrap().to_string(), list);
        }
        for list in ["-", "1-", "a", "2-1", "0-65536", "1 2"] {
            assert_eq!(list.parse::<CpuSet>(), Err(CpuListError), "{list}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let topology = Topology::detect().unwrap();
        assert!(topology.cores() >= 1 && topology.cpus().len() >= topology.cores());
    }

    #[cfg(feature = "hwloc")]
    #[test]
    fn hwloc_and_sysfs_agree() {
        let (ours, theirs) = (Topology::detect().unwrap(), Topology::from_hwloc().unwrap());
        assert_eq!(ours.cpus(), theirs.cpus());
        assert_eq!(ours.caches, theirs.caches);
    }
}
