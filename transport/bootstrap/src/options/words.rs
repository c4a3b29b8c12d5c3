//! The table of options: those of the runtime, with the names that they have in Charm++, and all others of Charm++, with what happens to them.
//!
//! Every line of `++help`, of the book's tables and of what is sent to processes comes from here. An option is a field of
//! [`Options`] and one entry of [`OURS`]; an option of Charm++ without counterpart is one word in [`IGNORED`] or [`REFUSED`].

use std::fmt;
use std::time::Duration;

use super::{Action, Options, PES_MAX};
use crate::Kind;
use charm4rs_transport_core::TransportKind;

/// An option that has an effect.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// Its other names, most of them those of Charm++.
    pub(super) also: &'static [&'static str],
    /// The name of its value; empty: it has none.
    pub(super) value: &'static str,
    pub(super) help: &'static str,
    pub(super) at: At,
    pub(super) field: Field,
}

/// Where an option is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// By the launcher and by every process.
    All,
    /// By the launcher only: where a job runs, or how it is watched.
    Launcher,
    /// By a process only: how it finds its job.
    Program,
}

/// The field of an option's value. Its type determines how it is parsed and sent.
#[derive(Debug)]
pub(super) enum Field {
    Flag(fn(&mut Options) -> &mut bool),
    Count(fn(&mut Options) -> &mut Option<u32>),
    Number(fn(&mut Options) -> &mut Option<u64>),
    Port(fn(&mut Options) -> &mut Option<u16>),
    Bytes(fn(&mut Options) -> &mut Option<u64>),
    Seconds(fn(&mut Options) -> &mut Option<Duration>),
    Text(fn(&mut Options) -> &mut Option<String>),
    /// CPUs, as in `0-3,8`.
    Cpus(fn(&mut Options) -> &mut Option<String>),
    /// A CPU; the option may be given several times, for several CPUs.
    EachCpu(fn(&mut Options) -> &mut Option<String>),
    Transport,
    Bootstrap,
    Act(Action),
    /// One PE for each of these.
    PeFor(Unit),
    /// A number of processes for each of these.
    ProcessesFor(Unit),
}

/// The parts of the machine by which PEs or processes are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A host.
    Host,
    /// A socket: a package of cores.
    Socket,
    /// A core.
    Core,
    /// A hardware thread.
    Thread,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Socket => "socket",
            Self::Core => "core",
            Self::Thread => "hardware thread",
        })
    }
}

/// Marks the one value whose error is not a usage error.
pub(super) const NO_TRANSPORT: &str = "";

const COUNT: &str = "must be a number between 1 and 1048576";
const SECONDS: &str = "must be a number of seconds, up to a year";

impl Field {
    /// Parses and stores a value.
    pub(super) fn read(&self, options: &mut Options, text: &str) -> Result<(), &'static str> {
        match self {
            Self::Flag(field) => *field(options) = true,
            Self::Count(field) => *field(options) = Some(count(text).ok_or(COUNT)?),
            Self::Number(field) => *field(options) = Some(text.parse().map_err(|_| "must be a number of 64 bits")?),
            Self::Port(field) => {
                *field(options) = Some(text.parse().map_err(|_| "must be a port, a number up to 65535")?);
            }
            Self::Bytes(field) => {
                *field(options) = Some(bytes(text).ok_or("must be a number of bytes, 64K or more")?);
            }
            Self::Seconds(field) => *field(options) = Some(duration(text).ok_or(SECONDS)?),
            Self::Text(_) if text.is_empty() => return Err("must not be empty"),
            Self::Text(field) => *field(options) = Some(text.to_owned()),
            Self::Cpus(field) => {
                let plausible = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b",-:.+".contains(&b));
                *field(options) =
                    Some(plausible.then(|| text.to_owned()).ok_or("must be a list of CPUs, as in 0-3,8")?);
            }
            Self::EachCpu(field) => {
                if !text.split(',').all(|cpu| cpu.parse::<u32>().is_ok()) {
                    return Err("must be the number of a CPU");
                }
                let cpus = field(options);
                *cpus = Some(cpus.take().map_or_else(|| text.to_owned(), |before| format!("{before},{text}")));
            }
            Self::Transport => options.transport = Some(text.parse().map_err(|_| NO_TRANSPORT)?),
            Self::Bootstrap => {
                options.bootstrap = Some(text.parse().map_err(|()| "must be charmrun, pmix, pmi1 or alone")?);
            }
            Self::Act(action) => options.action = *action,
            Self::PeFor(unit) => options.pe_for = Some(*unit),
            Self::ProcessesFor(unit) => options.processes_for = Some((count(text).ok_or(COUNT)?, *unit)),
        }
        Ok(())
    }

    /// The stored value, as on a command line; `None`: none was given.
    pub(super) fn text(&self, options: &Options) -> Option<String> {
        let options = &mut options.clone();
        match self {
            Self::Flag(field) => field(options).then(String::new),
            Self::Count(field) => field(options).map(|n| n.to_string()),
            Self::Number(field) | Self::Bytes(field) => field(options).map(|n| n.to_string()),
            Self::Port(field) => field(options).map(|n| n.to_string()),
            Self::Seconds(field) => field(options).map(|d| d.as_secs_f64().to_string()),
            Self::Text(field) | Self::Cpus(field) | Self::EachCpu(field) => field(options).clone(),
            Self::Transport => options.transport.as_ref().map(TransportKind::to_string),
            Self::Bootstrap => options.bootstrap.as_ref().map(Kind::to_string),
            Self::Act(_) | Self::PeFor(_) | Self::ProcessesFor(_) => None,
        }
    }

    pub(super) fn is_flag(&self) -> bool {
        matches!(self, Self::Flag(_) | Self::PeFor(_))
    }

    /// Takes back a flag (`++no-FLAG`).
    pub(super) fn unset(&self, options: &mut Options) {
        match self {
            Self::Flag(field) => *field(options) = false,
            Self::PeFor(_) => options.pe_for = None,
            _ => {}
        }
    }

    /// Whether digits may follow the name directly, as in `+p4`.
    pub(super) fn takes_digits(&self) -> bool {
        matches!(
            self,
            Self::Count(_)
                | Self::Number(_)
                | Self::Port(_)
                | Self::Seconds(_)
                | Self::EachCpu(_)
                | Self::ProcessesFor(_)
        )
    }
}

fn count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| (1..=PES_MAX).contains(n))
}

fn duration(text: &str) -> Option<Duration> {
    text.parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .filter(|d| !d.is_zero() && *d <= Duration::from_secs(366 * 86400))
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|n| *n >= 64 << 10)
}

impl Entry {
    const fn new(name: &'static str, value: &'static str, help: &'static str, field: Field) -> Self {
        Self { name, also: &[], value, help, at: At::All, field }
    }

    const fn also(mut self, names: &'static [&'static str]) -> Self {
        self.also = names;
        self
    }

    const fn only(mut self, at: At) -> Self {
        self.at = at;
        self
    }

    /// The name under which it is sent to a process: as on the command line, without the pluses. `None`: it is not sent.
    pub(super) fn travels_as(&self) -> Option<&'static str> {
        let travels =
            self.at == At::All && !matches!(self.field, Field::Act(_) | Field::PeFor(_) | Field::ProcessesFor(_));
        travels.then(|| self.name.trim_start_matches('+'))
    }

    /// Whether it is part of the shape of the job, which must be the same wherever it is given.
    pub(super) fn is_shape(&self) -> bool {
        matches!(self.name, "+p" | "++n" | "++ppn" | "++transport")
    }
}

/// The runtime's options, in the order of `++help`.
pub(super) const OURS: &[Entry] = &[
    Entry::new("+p", "N", "PEs of the job (default 1); also +pN", Field::Count(|o| &mut o.pes)).also(&["++p"]),
    Entry::new(
        "++n",
        "N",
        "processes of the job: +p PEs are distributed over them, or one to each",
        Field::Count(|o| &mut o.processes),
    )
    .also(&["++np"]),
    Entry::new(
        "++ppn",
        "K",
        "PEs to a process (default: all; with ++transport shm, tcp, ofi, ucx or extern:NAME: 1)",
        Field::Count(|o| &mut o.ppn),
    )
    .also(&["+ppn"]),
    Entry::new("++auto-provision", "", "a PE for each hardware thread of this host", Field::PeFor(Unit::Thread))
        .also(&["++autoProvision", "+auto-provision", "+autoProvision", "++oneWthPerPU", "+oneWthPerPU"]),
    Entry::new("++oneWthPerCore", "", "a PE for each of its cores", Field::PeFor(Unit::Core)).also(&["+oneWthPerCore"]),
    Entry::new("++oneWthPerSocket", "", "a PE for each of its sockets", Field::PeFor(Unit::Socket))
        .also(&["+oneWthPerSocket"]),
    Entry::new("++oneWthPerHost", "", "a PE for each host", Field::PeFor(Unit::Host)).also(&["+oneWthPerHost"]),
    Entry::new("++processPerHost", "N", "N processes for each host", Field::ProcessesFor(Unit::Host)),
    Entry::new(
        "++processPerSocket",
        "N",
        "N processes for each socket of this host",
        Field::ProcessesFor(Unit::Socket),
    ),
    Entry::new("++processPerCore", "N", "N processes for each of its cores", Field::ProcessesFor(Unit::Core)),
    Entry::new(
        "++processPerPU",
        "N",
        "N processes for each of its hardware threads",
        Field::ProcessesFor(Unit::Thread),
    ),
    Entry::new(
        "++transport",
        "T",
        "the only transport to use: local, shm, tcp, ofi, ucx, sim or extern:NAME",
        Field::Transport,
    ),
    Entry::new(
        "++bootstrap",
        "B",
        "what started the job: charmrun, pmix, pmi1 or alone (default: detected)",
        Field::Bootstrap,
    )
    .only(At::Program),
    Entry::new("++local", "", "on this host only: no nodelist is read", Field::Flag(|o| &mut o.local)),
    Entry::new("++nodelist", "FILE", "run on the hosts that this file names", Field::Text(|o| &mut o.nodelist))
        .only(At::Launcher),
    Entry::new(
        "++nodegroup",
        "NAME",
        "only the hosts of this group of the file (default main)",
        Field::Text(|o| &mut o.nodegroup),
    )
    .only(At::Launcher),
    Entry::new("++numHosts", "N", "only the first N of them", Field::Count(|o| &mut o.hosts)).only(At::Launcher),
    Entry::new(
        "++remote-shell",
        "CMD",
        "what runs a command on another host (default ssh)",
        Field::Text(|o| &mut o.remote_shell),
    )
    .only(At::Launcher),
    Entry::new(
        "++remote-charmrun",
        "PATH",
        "charmrun on other hosts (default: where it is on this one)",
        Field::Text(|o| &mut o.remote_charmrun),
    )
    .only(At::Launcher),
    Entry::new(
        "++runscript",
        "CMD",
        "run this instead of the program, with the program and its arguments behind it",
        Field::Text(|o| &mut o.runscript),
    )
    .only(At::Launcher),
    Entry::new(
        "++timeout",
        "S",
        "seconds in which all processes must have joined (default 60)",
        Field::Seconds(|o| &mut o.timeout),
    ),
    Entry::new(
        "++timelimit",
        "S",
        "end the job with 1 if it still runs after S seconds",
        Field::Seconds(|o| &mut o.timelimit),
    )
    .only(At::Launcher),
    Entry::new(
        "++no-liveness",
        "",
        "a silent process does not count as dead: for debuggers",
        Field::Flag(|o| &mut o.no_liveness),
    ),
    Entry::new(
        "++hang-timeout",
        "S",
        "end a job that makes no progress for S seconds, with its stacks",
        Field::Seconds(|o| &mut o.hang_timeout),
    )
    .also(&["+idle-timeout"]),
    Entry::new("++credit", "BYTES", "most bytes in flight to one peer (default 64M)", Field::Bytes(|o| &mut o.credit)),
    Entry::new(
        "++message-max",
        "BYTES",
        "most bytes of a message between processes (default 16G)",
        Field::Bytes(|o| &mut o.message_max),
    ),
    Entry::new(
        "++checksum",
        "",
        "every message between processes carries a checksum",
        Field::Flag(|o| &mut o.checksum),
    ),
    Entry::new("++server", "", "answer requests of CCS clients (programs in Python)", Field::Flag(|o| &mut o.server)),
    Entry::new(
        "++server-port",
        "N",
        "the port of ++server, which it implies (default: one that is free)",
        Field::Port(|o| &mut o.server_port),
    ),
    Entry::new(
        "++server-address",
        "ADDRESS",
        "the address of ++server, which it implies (default 127.0.0.1: this host only)",
        Field::Text(|o| &mut o.server_address),
    ),
    Entry::new(
        "++server-auth",
        "FILE",
        "the key of ++server, which it implies; readable by its owner only (default ~/.charm4py_ccs_key)",
        Field::Text(|o| &mut o.server_auth),
    ),
    Entry::new("++seed", "N", "the seed of everything random", Field::Number(|o| &mut o.seed)),
    Entry::new("+pemap", "LIST", "the CPU of each PE, as in 0-3,8", Field::Cpus(|o| &mut o.pemap)),
    Entry::new("+no-pin", "", "do not pin PEs to CPUs", Field::Flag(|o| &mut o.no_pin)),
    Entry::new(
        "+excludecore",
        "N",
        "a CPU that no PE is pinned to; may be given several times",
        Field::EachCpu(|o| &mut o.exclude),
    )
    .also(&["++excludecore"]),
    Entry::new(
        "++prefix-output",
        "",
        "each line of output begins with its process",
        Field::Flag(|o| &mut o.prefix_output),
    ),
    Entry::new("++quiet", "", "no warnings and no notes of the runtime", Field::Flag(|o| &mut o.quiet)),
    Entry::new("++verbose", "", "say what is started, found and chosen", Field::Flag(|o| &mut o.verbose)),
    Entry::new("++info", "", "print what was found on this machine", Field::Act(Action::Info)),
    Entry::new("++help", "", "print this", Field::Act(Action::Help)),
    Entry::new("++version", "", "print the version", Field::Act(Action::Version)),
];

/// Words of Charm++, and one remark on all of them. A word is `NAME`, `NAME VALUE` or `NAME [N]`: a number that may be
/// missing. `N` and `S` are numbers, which may follow the name directly.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) words: &'static str,
    pub(super) says: &'static str,
}

const fn row(words: &'static str, says: &'static str) -> Row {
    Row { words, says }
}

/// Accepted, and without effect. The remark says why they are not needed.
pub(super) const IGNORED: &[Row] = &[
    row(
        "++scalable-start, ++hierarchical-start, ++batch N, ++maxssh N, ++maxrsh N",
        "each host has one agent, which starts its processes; all hosts start at the same time",
    ),
    row(
        "++usehostname, ++useip ADDRESS, ++ssh-display, ++no-xrdb, ++va-randomization",
        "processes listen on the address that leads to the other hosts, and addresses in memory may differ",
    ),
    row("++xterm PATH, ++display NAME, ++debugger PATH, ++debug-commands TEXT", "they belong to ++debug"),
    row(
        "+setcpuaffinity, +showcpuaffinity, +commap LIST, +maffinity, +memnodemap LIST, +mempol NAME",
        "PEs are pinned if there are enough cores, and have their memory nearby; no other thread has work",
    ),
    row("+obtain_cpu_topology, +skip_cpu_topology, +show_cpu_topology, +printTopo FILE", "++info shows the machine"),
    row(
        "+balancer NAME, +TreeLBFile FILE, +LBPeriod S, +LBDebug [N], +LBOff, +LBLoop, +LBTopo NAME, +LBObjOnly, +LBSyncResume, \
         +LBSameCpus, +LBTestPESpeed, +LBUseCpuTime, +LBNoBackground, +LBPrintSummary, +LBCommOn, +LBCommOff, +LBAlpha S, +LBBeta S, \
         +LBPredictor, +LBPredictorDelay N, +LBPredictorWindow N, +LBVersion N, +LBCentPE N, +LBDump N, +LBDumpSteps N, \
         +LBDumpFile FILE, +LBSim N, +LBSimSteps N, +LBSimProcs N, +LBShowDecisions, +DistLBTargetRatio S, +DistLBMaxPhases N, \
         +MetaLB, +MetaLBModelDir DIR, +MetaLBNoObjTimer S, +teamSize N, +cldb_cs",
        "loads are not balanced: chares stay where they were made, or where the program moves them",
    ),
    row(
        "+traceroot DIR, +traceoff, +traceWarn, +traceprocessors LIST, +traceselective, +tracenested, +trace-subdirs N, +logsize N, \
         +logDelta, +binary-trace, +gz-trace, +gz-no-trace, +no-gz-trace, +write-analysis-file, +checknested, +bincount N, +binsize S, \
         +sumDetail, +sumonly, +extrema, +numClusters N, +outlier, +outlierEpThresh N, +outlierNumSeeds N, +outlierPeNumKeep N, \
         +outlierUsePhases",
        "no traces are written",
    ),
    row(
        "+cs, +ss, +stats",
        "nothing is counted (in Python, charm.options.profiling and charm.printStats() count calls)",
    ),
    row(
        "+isomalloc_sync, +no_isomalloc_sync, +noisomalloc, +isomalloc_probe, +isomalloc_test, +stacksize SIZE",
        "tasks are not stacks in memory of their own",
    ),
    row(
        "+fifo, +lifo, +ififo, +ilifo, +bfifo, +blifo, +objq",
        "a call says its priority and whether it goes to the front itself (in Rust, priority and lifo)",
    ),
    row(
        "+idlepoll, +idlesleep, +netpoll, +netint, +CmiSleepOnIdle, +CmiSpinOnIdle, +CmiNoProcForComThread, +csdLocalMax N, \
         +networkProgressPeriod N",
        "a PE polls for a moment and then sleeps, and looks at the network between calls",
    ),
    row(
        "+asyncio, +asynciooff, +atm, +eth, +giga, +max_dgram_size N, +window_size N, +os_buffer_size N, +delay_retransmit N, \
         +ack_delay N, +noCMAForZC, +cma_enable_all, +cma_disable, +cma_min_threshold N, +cma_max_threshold N, \
         +ofi_eager_maxsize N, +ofi_cq_entries_count N, +ofi_use_inject N, +ofi_num_recvs N, +ofi_runtime_tcp",
        "transports tune themselves (see ++transport and ++credit)",
    ),
    row("+io_flush_user, +io_flush_system, +syncprint", "output comes out line by line"),
    row(
        "+messageBufferingThreshold N, +noAnytimeMigration, +noNotifyChildInReduction, +staticInsertion, +useNodeBlkMapping, \
         +ringexit N, +truecrash, +useAbsoluteTime, +qd N, +nice N, +libcharm_interface NAME",
        "they concern the internals of Charm++",
    ),
    row(
        "+CPSamplePeriod S, +CPSamplePeriodMs S, +CPSchemeRandom, +CPExhaustiveSearch, +CPAlwaysUseDefaults, +CPSimulAnneal, \
         +CPCriticalPathPrio, +CPBestKnown, +CPSteering, +CPMemoryAware, +CPSimplex, +CPDivideConquer, +CPLDBPeriod, \
         +CPLDBPeriodLinear, +CPLDBPeriodQuadratic, +CPLDBPeriodOptimal, +CPDefaultValues LIST, +CPGatherAll, \
         +CPGatherMemoryUsage, +CPGatherUtilization, +CPSaveData, +CPNoFilterData, +CPLoadData, +CPDataFilename FILE",
        "there are no control points",
    ),
];

/// Cannot work. The remark says what to do instead.
pub(super) const REFUSED: &[Row] = &[
    row(
        "++mpiexec, ++mpiexec-no-n",
        "programs find their job by themselves under the site's launcher: mpiexec -n 4 PROGRAM",
    ),
    row(
        "++debug, ++debug-no-pause, ++in-xterm, ++charmdebug, +cpd",
        "++verbose names the processes, for gdb -p PID with ++no-liveness; PEs are threads with gdb --args PROGRAM +p4",
    ),
    row("++interactive", "the prompt is Python's: python -m charmrun.start ++interactive"),
    row("++encrypt", "use a trusted network"),
    row("+restart DIR", "there are no checkpoints; let the program save what it needs in files of its own"),
    row(
        "+partitions N, +replicas N, +master_partition, +partition_sizes LIST, +partition_topology, +partition_topology_scheme N, \
         +use_custom_partition, +stdout FILE",
        "start a job for each partition: charmrun +p4 PROGRAM >FILE",
    ),
    row("+pemapfile FILE", "write the map on the command line: +pemap LIST"),
    row(
        "+record, +record-detail LIST, +replay, +replay-detail LIST, +recplay-crc, +recplay-xor, +recplay-logsize N",
        "++transport sim ++seed N runs a job in the same order each time",
    ),
];

/// How many of the words behind an option are its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Takes {
    Nothing,
    Number,
    /// A number, if there is one.
    PerhapsNumber,
    Text,
}

impl Row {
    /// Its words: their names, the names of their values, and what they take.
    pub(super) fn words(&self) -> impl Iterator<Item = (&'static str, &'static str, Takes)> {
        self.words.split(", ").map(|word| {
            let (name, value) = word.trim().split_once(' ').unwrap_or((word.trim(), ""));
            let takes = match value {
                "" => Takes::Nothing,
                "N" | "S" => Takes::Number,
                "[N]" => Takes::PerhapsNumber,
                _ => Takes::Text,
            };
            (name, value, takes)
        })
    }
}
