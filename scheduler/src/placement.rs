//! Which hardware thread each PE of a host runs on.
//!
//! By default a PE is pinned if every PE of the host can have a core of its own, or at least a hardware thread. The PEs of a host fill one NUMA node
//! after the other, so that PEs with neighbouring ranks are near each other in the machine. If there are more PEs, the kernel places them, and PEs
//! sleep rather than poll. The affinity mask of the process, as Slurm, `taskset` or a container sets it, says which hardware threads it may use. A
//! container's limit on processor *time* counts too: then nothing is pinned, because neighbouring containers would choose the same cores.
//!
//! All processes of a host must compute the same plan without communication: it follows from the topology, the mask and the number of PEs. If a
//! launcher gives each process a mask of its own, [`Options::mask_is_own`] is set, and the plan covers only the PEs of the process.
//!
//! Read the machine ([`Machine::detect`]) before the first thread is pinned: threads inherit the mask of the thread that creates them. A thread that
//! a PE starts is pinned as the PE is, until it calls [`unpin`].

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::pemap::PeMap;
use crate::topology::{CpuSet, Topology, TopologyError};

/// What the user can choose.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// Whether and how to pin.
    pub pin: Pin,
    /// Hardware threads to which no PE is pinned, unless a map names them.
    pub exclude: Vec<u32>,
    /// The process does not share its mask with the other processes of the host; ranks and counts are those of the process.
    pub mask_is_own: bool,
}

/// Whether and how to pin.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Pin {
    /// Pin if there are enough cores.
    #[default]
    Auto,
    /// Do not pin.
    Never,
    /// Pin as `+pemap` says.
    Map(PeMap),
}

/// Why a PE cannot be placed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// The machine cannot be read.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The map names a hardware thread that the process may not use, or that does not exist.
    #[error("+pemap: CPU {cpu} is not among the CPUs that this process may use ({allowed})")]
    NotAllowed {
        /// The hardware thread.
        cpu: u32,
        /// Those that the process may use.
        allowed: CpuSet,
    },
    /// The kernel refuses to pin.
    #[error("cannot pin a PE to CPU {cpu}: {source}")]
    Refused {
        /// The hardware thread.
        cpu: u32,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// The process's affinity mask cannot be read.
    #[error("sched_getaffinity: {0}")]
    Mask(#[source] std::io::Error),
}

/// Where one PE runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The hardware thread that the PE is pinned to.
    pub cpu: Option<u32>,
    /// That thread's NUMA node.
    pub node: Option<u32>,
    /// Whether the host's PEs must share hardware threads: see [`Config::oversubscribed`](crate::Config).
    pub oversubscribed: bool,
}

/// A machine, and the part of it that this process may use.
#[derive(Clone, Debug)]
pub struct Machine {
    topology: Topology,
    allowed: CpuSet,
    /// The processor time that the process may use, in hardware threads.
    usable: usize,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// If the topology or the affinity mask cannot be read.
    pub fn detect() -> Result<Self, PlacementError> {
        let mask = rustix::thread::sched_getaffinity(None).map_err(|e| PlacementError::Mask(e.into()))?;
        let mask = *ORIGINAL.get_or_init(|| mask);
        let topology = Topology::detect()?;
        let allowed: CpuSet = topology.cpus().iter().map(|c| c.id).filter(|&cpu| mask_has(&mask, cpu)).collect();
        // The standard library reads the limits of control groups.
        let time = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        Ok(Self::new(topology, allowed, time))
    }

    /// A machine of which the process may use `allowed`, and the time of `time_max` hardware threads.
    #[must_use]
    pub fn new(topology: Topology, allowed: CpuSet, time_max: usize) -> Self {
        let usable = allowed.len().min(time_max).max(1);
        Self { topology, allowed, usable }
    }

    /// The hardware.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The hardware threads that the process may use.
    #[must_use]
    pub fn allowed(&self) -> &CpuSet {
        &self.allowed
    }

    /// The place of PE `rank` of the `pes` on this host.
    ///
    /// # Errors
    /// If a map names a hardware thread that the process may not use.
    pub fn place(&self, rank: usize, pes: usize, options: &Options) -> Result<Place, PlacementError> {
        let crowded = pes > self.usable;
        let left = self.near().filter(|cpu| !options.exclude.contains(&cpu.id));
        let (cpu, oversubscribed) = match &options.pin {
            Pin::Never => (None, crowded),
            Pin::Auto if crowded || self.usable < self.allowed.len() || left.clone().count() < pes => (None, crowded),
            Pin::Auto => (spread(left, pes).get(rank).copied(), false),
            Pin::Map(map) => {
                let cpus = self.mapped(map, pes)?;
                let distinct = cpus.iter().collect::<BTreeSet<_>>().len();
                (cpus.get(rank).copied(), distinct < cpus.len() || crowded)
            }
        };
        let node = cpu.and_then(|cpu| self.topology.cpu(cpu)).map(|c| c.node);
        Ok(Place { cpu, node, oversubscribed })
    }

    /// Places the calling thread, as PE `rank` of the `pes` on this host.
    ///
    /// # Errors
    /// As [`Machine::place`]; or if the kernel refuses a thread that a map names.
    pub fn pin(&self, rank: usize, pes: usize, options: &Options) -> Result<Place, PlacementError> {
        let mut place = self.place(rank, pes, options)?;
        let Some(cpu) = place.cpu else { return Ok(place) };
        let pinned = set_mask(cpu);
        match (pinned, &options.pin) {
            (Ok(()), _) => {}
            (Err(source), Pin::Map(_)) => return Err(PlacementError::Refused { cpu, source }),
            (Err(error), _) => {
                // The user did not ask to pin, so the PE can run unpinned.
                tracing::warn!(cpu, %error, "a PE is not pinned");
                (place.cpu, place.node) = (None, None);
            }
        }
        Ok(place)
    }

    /// The allowed hardware threads, ordered so that neighbours in the machine are neighbours in the order.
    fn near(&self) -> impl Iterator<Item = &crate::topology::Cpu> + Clone {
        self.topology.cpus().iter().filter(|c| self.allowed.contains(c.id))
    }

    fn mapped(&self, map: &PeMap, pes: usize) -> Result<Vec<u32>, PlacementError> {
        let near: Vec<u32> = if map.logical() { self.near().map(|c| c.id).collect() } else { Vec::new() };
        map.expand(pes)
            .into_iter()
            .map(|number| {
                let cpu = if map.logical() { near.get(number as usize).copied() } else { Some(number) };
                let cpu = cpu.filter(|&cpu| self.allowed.contains(cpu));
                cpu.ok_or_else(|| PlacementError::NotAllowed { cpu: number, allowed: self.allowed.clone() })
            })
            .collect()
    }
}

/// A hardware thread for each of `pes` PEs: one core each while there are cores, then the cores' other threads; in the order of nearness.
fn spread<'a>(near: impl Iterator<Item = &'a crate::topology::Cpu>, pes: usize) -> Vec<u32> {
    // A core's first allowed thread comes before any core's second.
    let mut turn = 0;
    let mut core = None;
    let mut cpus: Vec<_> = near
        .enumerate()
        .map(|(at, cpu)| {
            turn = if core.replace(cpu.core) == Some(cpu.core) { turn + 1 } else { 0 };
            (turn, at, cpu.id)
        })
        .collect();
    cpus.sort_unstable();
    cpus.truncate(pes);
    cpus.sort_unstable_by_key(|&(_, at, _)| at);
    cpus.into_iter().map(|(_, _, id)| id).collect()
}

fn mask_has(mask: &rustix::thread::CpuSet, cpu: u32) -> bool {
    let cpu = cpu as usize;
    cpu < rustix::thread::CpuSet::MAX_CPU && mask.is_set(cpu)
}

fn set_mask(cpu: u32) -> std::io::Result<()> {
    let cpu = cpu as usize;
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let mut mask = rustix::thread::CpuSet::new();
    mask.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &mask)?)
}

/// The hardware threads that the process could use when the machine was first read.
static ORIGINAL: OnceLock<rustix::thread::CpuSet> = OnceLock::new();

/// Lets the calling thread run on all hardware threads of the process, if the PE that started it is pinned. If the kernel refuses, the thread stays
/// pinned.
pub fn unpin() {
    if let Some(mask) = ORIGINAL.get()
        && let Err(error) = rustix::thread::sched_setaffinity(None, mask)
    {
        tracing::warn!(%error, "a thread is not unpinned");
    }
}

/// Places the calling thread on this machine, as PE `rank` of the `pes` on this host. A process with several PEs calls [`Machine::detect`] once
/// instead.
///
/// # Errors
/// As [`Machine::detect`] and [`Machine::pin`].
pub fn pin(rank: usize, pes: usize, options: &Options) -> Result<Place, PlacementError> {
    Machine::detect()?.pin(rank, pes, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::Fake;

    /// Two nodes of two cores of two threads: 0-1 and 4-5, 2-3 and 6-7.
    fn machine(name: &str, allowed: &str, time_max: usize) -> Machine {
        let topology = Fake::new(name, 2, 2, 2).read().unwrap();
        Machine::new(topology, allowed.parse().unwrap(), time_max)
    }

    fn cpus(machine: &Machine, pes: usize, options: &Options) -> Vec<Option<u32>> {
        (0..pes).map(|rank| machine.place(rank, pes, options).unwrap().cpu).collect()
    }

    #[test]
    fn each_pe_gets_a_core_and_a_node_is_filled_before_the_next() {
        let machine = machine("fill", "0-7", usize::MAX);
        let check = |pes, expected: &[u32]| {
            let expected: Vec<_> = expected.iter().copied().map(Some).collect();
            assert_eq!(cpus(&machine, pes, &Options::default()), expected);
        };
        check(1, &[0]);
        check(2, &[0, 1]);
        check(3, &[0, 1, 2]);
        check(4, &[0, 1, 2, 3]);
        check(5, &[0, 4, 1, 2, 3]);
        check(8, &[0, 4, 1, 5, 2, 6, 3, 7]);
        assert_eq!(machine.place(3, 4, &Options::default()).unwrap().node, Some(1));
    }

    #[test]
    fn no_pe_is_pinned_to_an_excluded_cpu() {
        let machine = machine("exclude", "0-7", usize::MAX);
        let check = |pes, exclude: &[u32], expected: Option<&[u32]>| {
            let options = Options { exclude: exclude.to_vec(), ..Options::default() };
            let expected: Vec<_> = (0..pes).map(|rank| expected.map(|cpus| cpus[rank])).collect();
            assert_eq!(cpus(&machine, pes, &options), expected, "{exclude:?}");
        };
        check(2, &[0], Some(&[4, 1]));
        check(4, &[0, 4], Some(&[1, 5, 2, 3]));
        check(3, &[0, 4, 99], Some(&[1, 2, 3]));
        check(7, &[0, 4], None);
    }

    #[test]
    fn nothing_is_pinned_where_there_are_too_few_cores_or_too_little_time() {
        let check = |name, allowed, time_max, pes, crowded| {
            let place = machine(name, allowed, time_max).place(0, pes, &Options::default()).unwrap();
            assert_eq!((place.cpu, place.oversubscribed), (None, crowded), "{name}");
        };
        check("more-pes", "0-7", 8, 9, true);
        check("small-mask", "0,4", 8, 3, true);
        check("little-time", "0-7", 2, 3, true);
        check("time-enough", "0-7", 4, 3, false);
    }

    #[test]
    fn only_allowed_hardware_threads_are_used() {
        let machine = machine("mask", "1,3,5,7", usize::MAX);
        assert_eq!(cpus(&machine, 2, &Options::default()), [Some(1), Some(3)]);
        assert_eq!(cpus(&machine, 3, &Options::default()), [Some(1), Some(5), Some(3)]);
    }

    #[test]
    fn a_map_is_obeyed_or_refused() {
        let machine = machine("map", "0-5", usize::MAX);
        let map = |text: &str| Options { pin: Pin::Map(text.parse().unwrap()), ..Options::default() };
        assert_eq!(cpus(&machine, 2, &map("3,1")), [Some(3), Some(1)]);
        assert_eq!(cpus(&machine, 3, &map("L0-2")), [Some(0), Some(4), Some(1)], "logical numbers follow nearness");
        assert!(!machine.place(0, 2, &map("3,1")).unwrap().oversubscribed);
        assert!(machine.place(0, 2, &map("3")).unwrap().oversubscribed, "two PEs on one CPU");
        for (text, cpu) in [("6", 6), ("100", 100), ("L6", 6)] {
            let error = machine.place(0, 1, &map(text)).unwrap_err();
            assert!(matches!(error, PlacementError::NotAllowed { cpu: c, .. } if c == cpu), "{error}");
        }
    }

    #[test]
    fn a_pinned_thread_runs_where_it_was_put() {
        let machine = Machine::detect().unwrap();
        let first = machine.allowed().iter().next().unwrap();
        let options = Options { pin: Pin::Map(first.to_string().parse().unwrap()), ..Options::default() };
        // In a thread of its own, so that the test's thread is not pinned.
        let mask = std::thread::spawn(move || {
            assert_eq!(machine.pin(0, 1, &options).unwrap().cpu, Some(first));
            rustix::thread::sched_getaffinity(None).unwrap()
        });
        let mask = mask.join().unwrap();
        assert!(mask.count() == 1 && mask_has(&mask, first));
    }
}
