//! The hosts of a job: the file that `++nodelist` names, and the assignment of PEs to its hosts. Knows nothing of how a host is reached.
//!
//! The format is that of Charm++'s files: lines `group NAME [options]` and `host NAME [options]`; a line with only a host's name is a host too.
//! Options of a group hold for its hosts. They may also stand on lines of their own, without the pluses (`login me`), and hold for the hosts that
//! follow; `*` is an option's default. A `#` begins a comment.

use std::path::{Path, PathBuf};

use charm4rs_bootstrap::options::{PES_MAX, nearest};
use charm4rs_transport_core::Layout;

use crate::shell;

/// The default group.
pub(crate) const MAIN: &str = "main";

/// A host of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Its weight when PEs are assigned.
    pub(crate) cpus: u32,
    /// The command that runs commands there, if not the default.
    pub(crate) shell: Option<String>,
    /// The user name.
    pub(crate) login: Option<String>,
}

/// An error in a nodelist.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodelistError {
    /// It cannot be read.
    #[error("cannot read the nodelist {path}: {source}", path = path.display())]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A line of it is wrong.
    #[error("{path}:{line}: {problem}", path = path.display())]
    Line {
        /// The path as given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The error.
        problem: Problem,
    },
    /// It has no such group.
    #[error("{path} has no group {group}", path = path.display())]
    NoGroup {
        /// The path as given.
        path: PathBuf,
        /// The group's name.
        group: String,
    },
    /// A group has no host.
    #[error("{path} names no host in group {group}", path = path.display())]
    NoHost {
        /// The path as given.
        path: PathBuf,
        /// The group.
        group: String,
    },
}

/// An error in a line of a nodelist.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// `host` or `group` without a name.
    #[error("{0} needs a name")]
    NoName(&'static str),
    /// An invalid name.
    #[error("{0} is not a host name (a user's name goes after ++login)")]
    NoHost(String),
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(String),
    /// An invalid command.
    #[error("++shell {0}: an unterminated quote")]
    Shell(String),
    /// An option of Charm++'s that cannot work here.
    #[error("{word} does not work here: {instead}")]
    Refused {
        /// The option.
        word: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// An invalid number.
    #[error("++cpus {0}: must be a number between 1 and 1048576")]
    Cpus(String),
    /// An unknown word.
    #[error("unknown word {given}{}; a line is: host NAME [++cpus N] [++login USER] [++shell CMD]", nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default())]
    Unknown {
        /// The word.
        given: String,
        /// The most similar one.
        nearest: Option<&'static str>,
    },
    /// Too many hosts.
    #[error("the hosts count more than 1048576 times together")]
    TooMany,
}

/// The content of a file for one group.
#[derive(Debug)]
pub(crate) struct Nodelist {
    /// The hosts, in the order in which they come first; one that is named more than once is one.
    pub(crate) hosts: Vec<Host>,
    /// Options of Charm++'s that have no effect here.
    pub(crate) ignored: Vec<String>,
}

/// Reads a group's hosts.
pub(crate) fn read(path: &Path, group: &str) -> Result<Nodelist, NodelistError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| NodelistError::Unreadable { path: path.to_owned(), source })?;
    parse(&text, group, path)
}

#[derive(Clone, Default)]
struct Settings {
    cpus: Option<u32>,
    shell: Option<String>,
    login: Option<String>,
}

/// The effect of an option of a host or group.
#[derive(Clone, Copy)]
enum Does {
    Cpus,
    Shell,
    Login,
    /// Charm++'s; it has no effect there either, or needs none here.
    Nothing,
    /// Charm++'s; the text says what to do instead.
    Refused(&'static str),
}

static OPTIONS: [(&str, Does); 8] = [
    ("++cpus", Does::Cpus),
    ("++shell", Does::Shell),
    ("++login", Does::Login),
    ("++speed", Does::Nothing),
    ("++passwd", Does::Nothing),
    (
        "++setup",
        Does::Refused(
            "put the command into a script that ends with exec \"$@\", and name it on the command line: ++runscript SCRIPT",
        ),
    ),
    ("++pathfix", Does::Refused("a program has the same path on all hosts; a link on the host makes it so")),
    ("++ext", Does::Refused("a program has the same name on all hosts; a link on the host makes it so")),
];

pub(crate) fn parse(text: &str, group: &str, path: &Path) -> Result<Nodelist, NodelistError> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut ignored = Vec::new();
    let mut settings = Settings::default();
    // Hosts before the first group belong to the main group.
    let (mut here, mut seen) = (group == MAIN, group == MAIN);
    for (line, words) in (1..).zip(text.lines().map(words)) {
        let wrong = |problem| NodelistError::Line { path: path.to_owned(), line, problem };
        match &words[..] {
            [] => {}
            ["group"] => return Err(wrong(Problem::NoName("group"))),
            ["host"] => return Err(wrong(Problem::NoName("host"))),
            ["group", name, rest @ ..] => {
                settings = options(rest, Settings::default(), &mut ignored).map_err(wrong)?;
                here = *name == group;
                seen |= here;
            }
            // Unless it is a host of this name, with options.
            [word, value, ..] if !value.starts_with("++") && named(&format!("++{word}")).is_some() => {
                let word = format!("++{word}");
                let words: Vec<&str> = std::iter::once(&*word).chain(words[1..].iter().copied()).collect();
                settings = options(&words, settings, &mut ignored).map_err(wrong)?;
            }
            ["host", name, rest @ ..] | [name, rest @ ..] => {
                let name = host_name(name).map_err(wrong)?;
                let settings = options(rest, settings.clone(), &mut ignored).map_err(wrong)?;
                if here {
                    add(&mut hosts, name, settings).map_err(wrong)?;
                }
            }
        }
    }
    let (path, group) = (path.to_owned(), group.to_owned());
    match (seen, hosts.is_empty()) {
        (false, _) => Err(NodelistError::NoGroup { path, group }),
        (true, true) => Err(NodelistError::NoHost { path, group }),
        (true, false) => Ok(Nodelist { hosts, ignored }),
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split('#').next().unwrap_or_default().split_whitespace().collect()
}

/// A host name or an address. It becomes an argument of a remote shell, so a name that could be an option is refused.
fn host_name(name: &str) -> Result<String, Problem> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:%-".contains(&b));
    if plain && !name.starts_with('-') { Ok(name.to_owned()) } else { Err(Problem::NoHost(name.to_owned())) }
}

fn named(word: &str) -> Option<&'static (&'static str, Does)> {
    OPTIONS.iter().find(|(name, _)| *name == word)
}

fn options(words: &[&str], mut settings: Settings, ignored: &mut Vec<String>) -> Result<Settings, Problem> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some((name, does)) = named(word) else {
            let nearest = nearest(word, OPTIONS.iter().map(|(name, _)| *name));
            return Err(Problem::Unknown { given: (*word).to_owned(), nearest });
        };
        if let Does::Refused(instead) = *does {
            return Err(Problem::Refused { word: name, instead });
        }
        let value = *words.next().ok_or_else(|| Problem::NoValue((*name).to_owned()))?;
        let given = (value != "*").then_some(value);
        match *does {
            Does::Cpus => settings.cpus = given.map(cpus).transpose()?,
            Does::Shell => settings.shell = given.map(command).transpose()?,
            Does::Login => {
                let login = |name| host_name(name).map_err(|_| Problem::NoHost(value.to_owned()));
                settings.login = given.map(login).transpose()?;
            }
            Does::Nothing | Does::Refused(_) => ignored.push(format!("{} {value}", name.trim_start_matches('+'))),
        }
    }
    Ok(settings)
}

fn cpus(text: &str) -> Result<u32, Problem> {
    text.parse().ok().filter(|n| (1..=PES_MAX).contains(n)).ok_or_else(|| Problem::Cpus(text.to_owned()))
}

fn command(text: &str) -> Result<String, Problem> {
    shell::split(text).map(|_| text.to_owned()).ok_or_else(|| Problem::Shell(text.to_owned()))
}

fn add(hosts: &mut Vec<Host>, name: String, settings: Settings) -> Result<(), Problem> {
    let cpus = settings.cpus.unwrap_or(1);
    match hosts.iter_mut().find(|host| host.name == name) {
        Some(host) => host.cpus += cpus,
        None => hosts.push(Host { name, cpus, shell: settings.shell, login: settings.login }),
    }
    let total: u64 = hosts.iter().map(|host| u64::from(host.cpus)).sum();
    if total > u64::from(PES_MAX) { Err(Problem::TooMany) } else { Ok(()) }
}

/// Merges hosts that are the same under other names.
pub(crate) fn one_for_all(hosts: Vec<Host>, is_it: impl Fn(&str) -> bool) -> Vec<Host> {
    let mut all: Vec<Host> = Vec::new();
    for host in hosts {
        let known = if is_it(&host.name) { all.iter_mut().find(|known| is_it(&known.name)) } else { None };
        match known {
            Some(known) => known.cpus += host.cpus,
            None => all.push(host),
        }
    }
    all
}

/// Assigns PEs in blocks to hosts in proportion to their weights: whole processes of `ppn` PEs, or else one process for each host. Returns the
/// layout, and the hosts that have a part in it.
pub(crate) fn deal(pes: u32, ppn: Option<u32>, cpus: &[u32]) -> (Layout, Vec<usize>) {
    let units = ppn.map_or(pes, |ppn| pes.div_ceil(ppn));
    let total: u64 = cpus.iter().map(|n| u64::from(*n)).sum();
    let (mut dealt, mut counted, mut left) = (0, 0, pes);
    let (mut processes, mut of_host, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    for (host, cpus) in cpus.iter().enumerate() {
        counted += u64::from(*cpus);
        // The first hosts get the remainder.
        let upto = u32::try_from((u64::from(units) * counted).div_ceil(total)).expect("not more than all");
        let share = std::mem::replace(&mut dealt, upto).abs_diff(upto);
        let sizes: Vec<u32> = match ppn {
            _ if share == 0 => continue,
            Some(ppn) => (0..share).map(|_| take(&mut left, ppn)).collect(),
            None => vec![take(&mut left, share)],
        };
        of_host.push(u32::try_from(sizes.len()).expect("not more than all"));
        processes.extend(sizes);
        hosts.push(host);
    }
    (Layout::new(&processes, &of_host), hosts)
}

fn take(left: &mut u32, n: u32) -> u32 {
    let taken = n.min(*left);
    *left -= taken;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, group: &str) -> Result<String, String> {
        let Nodelist { hosts, ignored } = parse(text, group, Path::new("f")).map_err(|e| e.to_string())?;
        let show = |h: &Host| {
            let extra = [&h.login, &h.shell].into_iter().flatten().map(|text| format!(" {text}")).collect::<String>();
            format!("{}*{}{extra}", h.name, h.cpus)
        };
        let ignored = if ignored.is_empty() { String::new() } else { format!("; {}", ignored.join(", ")) };
        Ok(hosts.iter().map(show).collect::<Vec<_>>().join(", ") + &ignored)
    }

    #[test]
    fn hosts_are_lines_of_charm_or_plain_names() {
        let check = |text: &str, group: &str, want: &str| assert_eq!(read(text, group).as_deref(), Ok(want), "{text}");
        check("a\n\n# none\nb # two\n", MAIN, "a*1, b*1");
        check("group main ++shell rsh\n  host a ++cpus 4\n host b ++login me\n", MAIN, "a*4 rsh, b*1 me rsh");
        check("a\nb\na\na ++cpus 2\n", MAIN, "a*4, b*1");
        check("a\ngroup other ++cpus 2\nhost b\nc ++cpus 1\ngroup main\nd", "other", "b*2, c*1");
        check("a\ngroup other\nb\ngroup main\nd", MAIN, "a*1, d*1");
        check("login me\na\nlogin *\nb\ncpus 3\nshell rsh\nc\nlogin", MAIN, "a*1 me, b*1, c*3 rsh, login*3 rsh");
        check("speed 1.5\na ++speed 2 ++passwd x\ncpus ++cpus 2\n", MAIN, "a*1, cpus*2; speed 1.5, speed 2, passwd x");
        check("group main ++cpus 2\nhost a ++cpus *\ncpus *\nb", MAIN, "a*1, b*1");
        check("10.0.0.1\nfd00::1\nnode-1.some.where", MAIN, "10.0.0.1*1, fd00::1*1, node-1.some.where*1");
    }

    #[test]
    fn an_error_in_a_nodelist_names_its_line() {
        let check = |text: &str, group: &str, want: &str| {
            let error = read(text, group).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        };
        check("a\nhost\n", MAIN, "f:2: host needs a name");
        check("group", MAIN, "f:1: group needs a name");
        check("host -oProxyCommand=x", MAIN, "f:1: -oProxyCommand=x is not a host name");
        check("me@a", MAIN, "f:1: me@a is not a host name (a user's name goes after ++login)");
        check("host a ++cpu 3", MAIN, "f:1: unknown word ++cpu (did you mean ++cpus?)");
        check("host a b", MAIN, "f:1: unknown word b");
        check("host a ++cpus", MAIN, "f:1: ++cpus needs a value");
        check("host a ++cpus 0", MAIN, "f:1: ++cpus 0: must be a number");
        check("host a ++cpus 1048576\nb", MAIN, "f:2: the hosts count more than");
        check("host a ++shell 'x", MAIN, "f:1: ++shell 'x: an unterminated quote");
        check("host a ++login -x", MAIN, "f:1: -x is not a host name");
        check("setup . ./env", MAIN, "f:1: ++setup does not work here: put the command into a script");
        check("host a ++pathfix /a /b", MAIN, "f:1: ++pathfix does not work here: a program has the same path");
        check("ext 2", MAIN, "f:1: ++ext does not work here: a program has the same name");
        check("a", "other", "f has no group other");
        check("# no host\n", MAIN, "f names no host in group main");
    }

    #[test]
    fn pes_are_dealt_in_blocks_to_each_host_its_share() {
        let check = |pes, ppn, cpus: &[u32], want: &[(usize, &[u32])]| {
            let (layout, hosts) = deal(pes, ppn, cpus);
            let of = |host| layout.processes_of(host).map(|p| u32::try_from(layout.pes_of(p).len()).unwrap());
            let got: Vec<(usize, Vec<u32>)> = (0..).zip(&hosts).map(|(i, host)| (*host, of(i).collect())).collect();
            let want: Vec<_> = want.iter().map(|(host, sizes)| (*host, sizes.to_vec())).collect();
            assert_eq!(got, want, "{pes} {ppn:?} {cpus:?}");
            assert_eq!(layout.pes(), pes);
        };
        check(4, None, &[1, 1], &[(0, &[2]), (1, &[2])]);
        check(5, None, &[1, 1, 1], &[(0, &[2]), (1, &[2]), (2, &[1])]);
        check(2, None, &[1, 1, 1], &[(0, &[1]), (1, &[1])]);
        check(6, Some(1), &[4, 2], &[(0, &[1, 1, 1, 1]), (1, &[1, 1])]);
        check(8, Some(4), &[4, 4], &[(0, &[4]), (1, &[4])]);
        check(7, Some(2), &[1, 1], &[(0, &[2, 2]), (1, &[2, 1])]);
        check(1, None, &[3, 1], &[(0, &[1])]);
    }

    proptest::proptest! {
        #[test]
        fn no_nodelist_panics_and_every_pe_is_dealt_once(
            text in "(?s)[ \n#+a-z0-9]{0,80}|(host|group|a|b|\\+\\+cpus|\\+\\+shell|main|7|[ \n]){0,20}",
            pes in 1..3000u32, ppn in proptest::option::of(1..70u32), cpus in proptest::collection::vec(1..100u32, 1..20),
        ) {
            let _ = parse(&text, MAIN, Path::new("f"));
            let (layout, hosts) = deal(pes, ppn, &cpus);
            assert_eq!((layout.pes(), layout.hosts() as usize), (pes, hosts.len()));
        }
    }
}
