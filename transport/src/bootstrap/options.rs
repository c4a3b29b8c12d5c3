//! The runtime's own options on a command line: one table for `charmrun` and for every program of the runtime.
//!
//! Ours begin with `+` or `++`; everything else belongs to the program and passes through untouched. `--` ends ours. A
//! word that begins with `++` and is none of ours is an error with the nearest name, so that a slip of the pen never
//! silently changes a run; a word with a single `+` is ours only if it is in the table. Knows nothing of who acts on
//! an option.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

use super::Kind;
use crate::wireup::TransportKind;

/// No job is larger: a larger number is a slip of the pen.
pub const PES_MAX: u32 = 1 << 20;

/// What the user asked for. `None`: not said, so the default of whoever acts on it holds.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Options {
    /// What to do at all.
    pub action: Action,
    /// `+p N`: PEs of the job.
    pub pes: Option<u32>,
    /// `++ppn K`: PEs of each process.
    pub ppn: Option<u32>,
    /// `++transport T`: the only backend between PEs.
    pub transport: Option<TransportKind>,
    /// `++bootstrap B`: how a process finds its job.
    pub bootstrap: Option<Kind>,
    /// `++nodelist FILE`: the hosts of the job. This and the next four are the launcher's alone.
    pub nodelist: Option<String>,
    /// `++nodegroup NAME`: which group of hosts in that file.
    pub nodegroup: Option<String>,
    /// `++numHosts N`: only so many of them.
    pub hosts: Option<u32>,
    /// `++remote-shell CMD`: what runs commands on another host.
    pub remote_shell: Option<String>,
    /// `++remote-charmrun PATH`: the launcher's program on other hosts.
    pub remote_charmrun: Option<String>,
    /// `++timeout S`: how long start-up may take.
    pub timeout: Duration,
    /// Whether a silent process counts as dead (`++no-liveness`: it does not).
    pub liveness: bool,
    /// `++credit BYTES`: what may be on its way to one peer.
    pub credit: Option<u64>,
    /// `++message-max BYTES`: the longest message that may pass between processes.
    pub message_max: Option<u64>,
    /// `++checksum`: every message carries one.
    pub checksum: bool,
    /// `++seed N`: of everything random.
    pub seed: Option<u64>,
    /// `+pemap LIST`: which CPU each PE runs on.
    pub pemap: Option<String>,
    /// `++hang-timeout S`: a job that makes no progress for so long is ended, with stacks.
    pub hang_timeout: Option<Duration>,
    /// `++quiet`: no warnings and no notes of the runtime's.
    pub quiet: bool,
    /// `++verbose`: what was started, found and chosen.
    pub verbose: bool,
    /// `++prefix-output`: each line of output begins with its process.
    pub prefix_output: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            action: Action::Run,
            pes: None,
            ppn: None,
            transport: None,
            bootstrap: None,
            nodelist: None,
            nodegroup: None,
            hosts: None,
            remote_shell: None,
            remote_charmrun: None,
            timeout: Duration::from_secs(60),
            liveness: true,
            credit: None,
            message_max: None,
            checksum: false,
            seed: None,
            pemap: None,
            hang_timeout: None,
            quiet: false,
            verbose: false,
            prefix_output: false,
        }
    }
}

/// What a command line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Action {
    /// Run the job.
    #[default]
    Run,
    /// `++help`: print [`help`].
    Help,
    /// `++version`: print [`version`].
    Version,
    /// `++info`: print what was found on this machine.
    Info,
}

/// What is wrong with a command line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// Not in the table.
    #[error("unknown option {given}{}", nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default())]
    Unknown {
        /// The word.
        given: String,
        /// The most similar name.
        nearest: Option<&'static str>,
    },
    /// An option without its value.
    #[error("{name} needs a value: {name} {value}")]
    NoValue {
        /// The option.
        name: &'static str,
        /// What its value is called.
        value: &'static str,
    },
    /// A value that is no such thing.
    #[error("{name} {given}: {want}")]
    BadValue {
        /// The option.
        name: &'static str,
        /// The value.
        given: String,
        /// What it must be.
        want: &'static str,
    },
    /// An option of a later version.
    #[error("{name} is not available in this version: {instead}")]
    Later {
        /// The option.
        name: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// An option of the launcher's among a program's arguments.
    #[error("{0} is for the launcher, in front of the program: charmrun {0} … PROGRAM")]
    Launchers(&'static str),
    /// An option of a program's, given to the launcher.
    #[error("{0} is for a program, behind its name: PROGRAM {0} …")]
    Programs(&'static str),
    /// `+p` is not what the processes of a site's launcher have together.
    #[error(
        "+p {pes} does not fit: {processes} processes have been started, with {started} PEs in all (++ppn K: K PEs to each)"
    )]
    Started {
        /// PEs asked for.
        pes: u32,
        /// PEs of all processes.
        started: u32,
        /// Processes.
        processes: u32,
    },
    /// Two parts of the command line disagree.
    #[error("{name} is {launcher} for charmrun and {program} for the program")]
    Conflict {
        /// The option.
        name: &'static str,
        /// The launcher's value.
        launcher: String,
        /// The program's value.
        program: String,
    },
    /// `++ppn` without a launcher.
    #[error("{pes} PEs, {ppn} to a process, need a launcher: charmrun +p{pes} ++ppn {ppn} PROGRAM")]
    NeedsLauncher {
        /// PEs asked for.
        pes: u32,
        /// PEs to a process.
        ppn: u32,
    },
    /// A backend that is not there.
    #[error("++transport {0}: there is no such transport; there are local, shm, tcp, ofi, ucx and sim")]
    Transport(String),
}

impl OptionError {
    /// The exit status of a job that ends because of this error.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Transport(_) | Self::Later { .. } => 78,
            _ => 64,
        }
    }
}

/// A command line, taken apart.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// Ours.
    pub options: Options,
    /// The program's (for a launcher: the program and its arguments), untouched.
    pub rest: Vec<OsString>,
}

/// How far ours reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Up to the first word that is not ours: a launcher's command line.
    ToProgram,
    /// Anywhere before `--`: a program's own arguments.
    Everywhere,
}

/// Stores an option's value.
type Store = fn(&mut Options, &str) -> Result<(), &'static str>;

/// A line of the table.
struct Spec {
    name: &'static str,
    /// What its value is called; empty: it has none.
    value: &'static str,
    help: &'static str,
    store: Store,
}

impl Spec {
    const fn new(name: &'static str, value: &'static str, help: &'static str, store: Store) -> Self {
        Self { name, value, help, store }
    }
}

/// Marks the one value whose error is not of usage.
const NO_TRANSPORT: &str = "";

const SECONDS: &str = "must be a number of seconds, up to a year";

const TABLE: &[Spec] = &[
    Spec::new("+p", "N", "PEs of the job (default 1); also +pN", |o, v| {
        count(v).map(|n| o.pes = Some(n)).ok_or("the number of PEs must be between 1 and 1048576")
    }),
    Spec::new("++ppn", "K", "PEs to a process (default: all; with ++transport shm, tcp, ofi or ucx: 1)", |o, v| {
        count(v).map(|n| o.ppn = Some(n)).ok_or("the PEs of a process must be between 1 and 1048576")
    }),
    Spec::new("++transport", "T", "the only transport to use: local, shm, tcp, ofi, ucx or sim", |o, v| {
        v.parse().map(|kind| o.transport = Some(kind)).map_err(|_| NO_TRANSPORT)
    }),
    Spec::new("++bootstrap", "B", "what started the job: charmrun, pmix, pmi1 or alone (default: it looks)", |o, v| {
        v.parse().map(|kind| o.bootstrap = Some(kind)).map_err(|()| "must be charmrun, pmix, pmi1 or alone")
    }),
    Spec::new("++nodelist", "FILE", "run on the hosts that this file names", |o, v| text(&mut o.nodelist, v)),
    Spec::new("++nodegroup", "NAME", "those of this group of the file (default main)", |o, v| {
        text(&mut o.nodegroup, v)
    }),
    Spec::new("++numHosts", "N", "only the first N of them", |o, v| {
        count(v).map(|n| o.hosts = Some(n)).ok_or("the number of hosts must be between 1 and 1048576")
    }),
    Spec::new("++remote-shell", "CMD", "what runs a command on another host (default ssh)", |o, v| {
        text(&mut o.remote_shell, v)
    }),
    Spec::new("++remote-charmrun", "PATH", "charmrun on other hosts (default: where it is on this one)", |o, v| {
        text(&mut o.remote_charmrun, v)
    }),
    Spec::new("++timeout", "S", "seconds in which all processes must have joined (default 60)", |o, v| {
        duration(v).map(|d| o.timeout = d).ok_or(SECONDS)
    }),
    Spec::new("++no-liveness", "", "a silent process does not count as dead: for debuggers", |o, _| {
        set(&mut o.liveness, false)
    }),
    Spec::new("++hang-timeout", "S", "end a job that makes no progress for S seconds, with its stacks", |o, v| {
        duration(v).map(|d| o.hang_timeout = Some(d)).ok_or(SECONDS)
    }),
    Spec::new("++credit", "BYTES", "bytes on their way to one peer at most (default 64M)", |o, v| {
        bytes(v).map(|n| o.credit = Some(n)).ok_or("must be a number of bytes, 64K or more")
    }),
    Spec::new("++message-max", "BYTES", "bytes of a message between processes at most (default 16G)", |o, v| {
        bytes(v).map(|n| o.message_max = Some(n)).ok_or("must be a number of bytes, 64K or more")
    }),
    Spec::new("++checksum", "", "every message between processes carries a checksum", |o, _| {
        set(&mut o.checksum, true)
    }),
    Spec::new("++seed", "N", "the seed of everything random", |o, v| {
        v.parse().map(|n| o.seed = Some(n)).map_err(|_| "must be a number of 64 bits")
    }),
    Spec::new("+pemap", "LIST", "the CPU of each PE, as in 0-3,8", |o, v| {
        let plausible = !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit() || b",-:.+".contains(&b));
        plausible.then(|| o.pemap = Some(v.to_owned())).ok_or("must be a list of CPUs, as in 0-3,8")
    }),
    Spec::new("++prefix-output", "", "each line of output begins with its process", |o, _| {
        set(&mut o.prefix_output, true)
    }),
    Spec::new("++quiet", "", "no warnings and no notes of the runtime's", |o, _| set(&mut o.quiet, true)),
    Spec::new("++verbose", "", "say what is started, found and chosen", |o, _| set(&mut o.verbose, true)),
    Spec::new("++info", "", "print what was found on this machine", |o, _| set(&mut o.action, Action::Info)),
    Spec::new("++help", "", "print this", |o, _| set(&mut o.action, Action::Help)),
    Spec::new("++version", "", "print the version", |o, _| set(&mut o.action, Action::Version)),
];

/// Options that exist in Charm++ or will here; refused in clear words rather than ignored.
const LATER: &[(&str, &str)] = &[("++encrypt", "use it on a trusted network")];

/// Those that say where a job runs: nobody can act on them but a launcher.
const LAUNCHERS: [&str; 5] = ["++nodelist", "++nodegroup", "++numHosts", "++remote-shell", "++remote-charmrun"];

/// What only a process itself can act on.
const PROGRAMS: [&str; 1] = ["++bootstrap"];

/// `++info`, `++help`, and whatever else is printed, must name this.
#[must_use]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The table, for `++help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::new();
    for spec in TABLE {
        let left = format!("{} {}", spec.name, spec.value);
        let _ = writeln!(text, "  {left:<22} {}", spec.help);
    }
    text.push_str("  --                     ends these options; what follows is the program's\n");
    text
}

/// Takes a command line (without its word 0) apart.
///
/// # Errors
/// On anything that looks like ours and is not right.
pub fn parse(args: impl IntoIterator<Item = OsString>, extent: Extent) -> Result<Parsed, OptionError> {
    let mut args = args.into_iter();
    let mut options = Options::default();
    let mut rest = Vec::new();
    while let Some(word) = args.next() {
        // What is not text cannot be ours.
        let Some((spec, inline)) = word.to_str().map(find).transpose()?.flatten() else {
            if word == "--" {
                break;
            }
            if extent == Extent::ToProgram {
                if word.to_str().is_some_and(|w| w.starts_with('+')) {
                    return Err(unknown(&word.to_string_lossy()));
                }
                rest.push(word);
                break;
            }
            rest.push(word);
            continue;
        };
        if extent == Extent::Everywhere && LAUNCHERS.contains(&spec.name) {
            return Err(OptionError::Launchers(spec.name));
        }
        if extent == Extent::ToProgram && PROGRAMS.contains(&spec.name) {
            return Err(OptionError::Programs(spec.name));
        }
        let value = match inline {
            Some(_) if spec.value.is_empty() => return Err(unknown(&word.to_string_lossy())),
            Some(value) => value,
            None if spec.value.is_empty() => String::new(),
            None => args
                .next()
                .ok_or(OptionError::NoValue { name: spec.name, value: spec.value })?
                .to_string_lossy()
                .into_owned(),
        };
        store(&mut options, spec, &value)?;
    }
    rest.extend(args);
    Ok(Parsed { options, rest })
}

fn store(options: &mut Options, spec: &Spec, value: &str) -> Result<(), OptionError> {
    (spec.store)(options, value).map_err(|want| match want {
        NO_TRANSPORT => OptionError::Transport(value.to_owned()),
        _ => OptionError::BadValue { name: spec.name, given: value.to_owned(), want },
    })
}

/// The line of the table that `word` names, with the value that is part of the word (`+p4`, `++ppn=2`).
fn find(word: &str) -> Result<Option<(&'static Spec, Option<String>)>, OptionError> {
    if !word.starts_with('+') {
        return Ok(None);
    }
    let (name, inline) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    if let Some(spec) = TABLE.iter().find(|spec| spec.name == name) {
        return Ok(Some((spec, inline)));
    }
    // `+p4`: a plus, a letter, digits.
    if let Some(digits) = word.strip_prefix("+p")
        && digits.starts_with(|c: char| c.is_ascii_digit() || c == '-')
    {
        return Ok(Some((&TABLE[0], Some(digits.to_owned()))));
    }
    if let Some(&(name, instead)) = LATER.iter().find(|(later, _)| *later == name) {
        return Err(OptionError::Later { name, instead });
    }
    if name.starts_with("++") { Err(unknown(word)) } else { Ok(None) }
}

fn unknown(word: &str) -> OptionError {
    let name = word.split('=').next().unwrap_or(word);
    let nearest = nearest(name, TABLE.iter().map(|spec| spec.name));
    OptionError::Unknown { given: word.chars().take(200).collect(), nearest }
}

/// The name that `word` is a slip of the pen for, if there is one.
#[must_use]
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(word, name), name))
        .min()
        .filter(|(d, name)| *d <= (name.len() / 3).max(1))
        .map(|(_, name)| name)
}

/// Letters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate().take(64) {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn set<T>(field: &mut T, to: T) -> Result<(), &'static str> {
    *field = to;
    Ok(())
}

fn text(field: &mut Option<String>, text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Err("must not be empty") } else { set(field, Some(text.to_owned())) }
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

impl Options {
    /// What the processes of a job need to know (not where it runs), as it travels: names as on the command line, without the pluses.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut add = |name: &str, value: Option<String>| pairs.extend(value.map(|v| (name.to_owned(), v)));
        let flag = |on: bool| on.then(String::new);
        add("p", self.pes.map(|n| n.to_string()));
        add("ppn", self.ppn.map(|n| n.to_string()));
        add("transport", self.transport.map(|kind| format!("{kind:?}").to_lowercase()));
        add("timeout", Some(self.timeout.as_secs_f64().to_string()));
        add("no-liveness", flag(!self.liveness));
        add("hang-timeout", self.hang_timeout.map(|d| d.as_secs_f64().to_string()));
        add("credit", self.credit.map(|n| n.to_string()));
        add("message-max", self.message_max.map(|n| n.to_string()));
        add("checksum", flag(self.checksum));
        add("seed", self.seed.map(|n| n.to_string()));
        add("pemap", self.pemap.clone());
        add("prefix-output", flag(self.prefix_output));
        add("quiet", flag(self.quiet));
        add("verbose", flag(self.verbose));
        pairs
    }

    /// What [`Options::to_pairs`] made. Unknown names are skipped: they are of a newer launcher.
    ///
    /// # Errors
    /// On a value that is no such thing.
    pub fn from_pairs(pairs: &[(String, String)]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for (name, value) in pairs {
            if let Some(spec) = TABLE.iter().find(|spec| spec.name.trim_start_matches('+') == name) {
                store(&mut options, spec, value)?;
            }
        }
        Ok(options)
    }

    /// The launcher's options with those of the program's own arguments laid over them. The shape of the job is the
    /// launcher's: the program may repeat it, not change it.
    ///
    /// # Errors
    /// [`OptionError::Conflict`].
    pub fn overlaid(&self, program: &Self) -> Result<Self, OptionError> {
        fn same<T: PartialEq + std::fmt::Debug>(
            name: &'static str,
            ours: &Option<T>,
            theirs: &Option<T>,
        ) -> Result<(), OptionError> {
            match (ours, theirs) {
                (Some(a), Some(b)) if a != b => Err(OptionError::Conflict {
                    name,
                    launcher: format!("{a:?}").to_lowercase(),
                    program: format!("{b:?}").to_lowercase(),
                }),
                _ => Ok(()),
            }
        }
        same("+p", &self.pes, &program.pes)?;
        same("++ppn", &self.ppn, &program.ppn)?;
        same("++transport", &self.transport, &program.transport)?;
        let default = Self::default();
        Ok(Self {
            action: program.action,
            bootstrap: program.bootstrap,
            pes: self.pes.or(program.pes),
            ppn: self.ppn.or(program.ppn),
            transport: self.transport.or(program.transport),
            timeout: if program.timeout == default.timeout { self.timeout } else { program.timeout },
            liveness: self.liveness && program.liveness,
            credit: program.credit.or(self.credit),
            message_max: program.message_max.or(self.message_max),
            checksum: self.checksum || program.checksum,
            seed: program.seed.or(self.seed),
            pemap: program.pemap.clone().or_else(|| self.pemap.clone()),
            hang_timeout: program.hang_timeout.or(self.hang_timeout),
            quiet: self.quiet || program.quiet,
            verbose: self.verbose || program.verbose,
            prefix_output: self.prefix_output || program.prefix_output,
            ..self.clone()
        })
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
