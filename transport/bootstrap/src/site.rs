//! A process that a site's launcher started, without `charmrun`: it knows its number and has a key space. The
//! processes learn everything else from each other.
//!
//! Each process publishes an introduction. The first one adds the job's secret, which the key space shows to the job's processes only. The introductions say
//! which processes share a host. The launcher may number processes in any order, round-robin over the hosts for example; here they are numbered by host, so
//! those of a host are consecutive. Then the processes of each host connect ([`super::host_peers`]).
//!
//! Their output is not joined: each process prints its own reports, once for a host. A failure ends the job through the
//! launcher. If that does not end it, the processes of a host end when one of them is gone, and those of other hosts when the network
//! reports it. This module does not know the launcher's protocol.

use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::alone::{check_put, nothing_there};
use super::bytes::{Reader, Writer};
use super::control::{error_line, to_stderr};
use super::host_peers::{Connecting, HostLinks, HostPeers, Listener};
use super::options::{OptionError, Options, PES_MAX};
use super::wire::{TOWARD_MAX, VERSION, WireError};
use super::{BootError, Bootstrap, Control, host_name, sys};
use charm4rs_transport_core::auth::{JobId, Keys, Secret, random_bytes};
use charm4rs_transport_core::{Layout, TransportError};

/// What a launcher provides to the processes that it starts.
pub(super) trait KeySpace: Send + Debug {
    /// The number that the launcher gave to this process.
    fn rank(&self) -> u32;

    /// Processes of the job.
    fn size(&self) -> u32;

    /// Publishes a value.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError>;

    /// Waits until every process has called it. Values that were put before can be got afterwards.
    fn fence(&mut self) -> Result<(), TransportError>;

    /// The value that `rank` put.
    fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, TransportError>;

    /// How the job ends. It outlives the key space.
    fn ending(&self) -> Arc<dyn Ending>;
}

/// Tells a launcher that the job or the process ends.
pub(super) trait Ending: Send + Sync + Debug {
    /// Asks the launcher to end the job, with this exit status if it can.
    fn abort(&self, code: u8);

    /// This process is about to end normally.
    fn finish(&self);
}

/// Checks the place that a launcher made for this process.
pub(super) fn check_place(rank: u32, size: u32) -> Result<(), TransportError> {
    if rank >= size || size > PES_MAX {
        return Err(TransportError::Startup(format!("the launcher started process {rank} of {size}")));
    }
    Ok(())
}

/// The error for a launcher that does not answer.
pub(super) fn silent(patience: Duration) -> TransportError {
    let patience = patience.as_secs_f64();
    TransportError::Startup(format!("the launcher has not answered within {patience} s"))
}

/// The error for processes that do not join.
pub(super) fn not_all(size: u32, patience: Duration) -> TransportError {
    let patience = patience.as_secs_f64();
    TransportError::Startup(format!(
        "not all {size} processes have joined within {patience} s: has one ended, or is one not a program of charm4rs? (++timeout S waits longer)"
    ))
}

/// How long a process that ends waits for the permission of its launcher.
pub(super) const LEAVE: Duration = Duration::from_secs(2);

/// How long to wait for a launcher that may itself end the job, with a better reason.
const GRACE: Duration = Duration::from_secs(1);

/// Where a process sends its reports.
#[derive(Debug)]
pub(super) struct Line {
    ending: Arc<dyn Ending>,
    first: bool,
    links: OnceLock<Arc<HostLinks>>,
}

impl Line {
    pub(super) fn new(space: &dyn KeySpace) -> Self {
        Self { ending: space.ending(), first: space.rank() == 0, links: OnceLock::new() }
    }

    /// Prints a failure, unless another process does, and asks the launcher to end the job.
    pub(super) fn fail(&self, code: u8, text: &str) {
        let tells = self.links.get().map_or(self.first, |links| links.may_report());
        if !tells {
            // The process that reports also ends the job, with its own code.
            std::thread::sleep(GRACE);
        }
        // Before the processes of a host have connected, each has a failure of its own, most likely the same one.
        if tells || self.links.get().is_none() {
            to_stderr(text);
        }
        self.ending.abort(code);
    }

    /// A process of this host is gone. The launcher may notice it too, and know why.
    fn gone(&self, links: &HostLinks, what: &str) -> ! {
        if links.may_report() {
            to_stderr(&error_line(69, what, None, &host_name(), std::process::id()));
        }
        std::thread::sleep(GRACE);
        self.ending.abort(69);
        sys::end_process(69)
    }

    /// The job has ended normally.
    pub(super) fn finish(&self) {
        if let Some(links) = self.links.get() {
            links.finish();
        }
        self.ending.finish();
    }

    /// The descriptor from which a signal handler takes the right to report: one read of eight bytes succeeds.
    pub(super) fn token(&self) -> Option<RawFd> {
        self.links.get().map(|links| links.token())
    }
}

/// What a process publishes about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Introduction {
    pes: u32,
    /// Equal for processes that can share memory.
    host: [u8; 32],
    name: String,
    socket: [u8; Listener::NAME],
    /// From the first process only.
    job: Option<(JobId, Secret)>,
}

const MAGIC: [u8; 4] = *b"c4s\0";
const NAME_MAX: usize = 64;

impl Introduction {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.raw(&MAGIC).u16(VERSION).u32(self.pes).raw(&self.host).text(&self.name, NAME_MAX).raw(&self.socket);
        match &self.job {
            Some((job, secret)) => w.u8(1).raw(&job.0).raw(secret.expose()),
            None => w.u8(0),
        };
        w.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        if r.array()? != MAGIC {
            return Err(WireError::Magic);
        }
        match u16::from_le_bytes(r.array()?) {
            VERSION => {}
            other => return Err(WireError::Version(other)),
        }
        let pes = Some(r.u32()?).filter(|pes| (1..=PES_MAX).contains(pes)).ok_or(WireError::Field("PEs"))?;
        let (host, name, socket) = (r.array()?, r.text("name", NAME_MAX)?, r.array()?);
        let job = if r.flag("secret")? { Some((JobId(r.array()?), Secret::new(r.array()?))) } else { None };
        r.close(Self { pes, host, name, socket, job })
    }
}

/// Decodes what processes publish, each behind the length of what follows its prefix.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    let (mut input, mut all) = (charm4rs_transport_testkit::fuzz::Input(bytes), Vec::new());
    while let Some(one) = input.run() {
        let whole = [&MAGIC[..], &VERSION.to_le_bytes(), one].concat();
        let Ok(one) = Introduction::decode(&whole) else { continue };
        assert_eq!(Introduction::decode(&one.encode()).as_ref(), Ok(&one), "a decoded value encodes to the same bytes");
        all.push(one);
    }
    if !all.is_empty() {
        let (layout, numbers) = arrange(&all);
        assert_eq!(layout.processes() as usize, numbers.len());
    }
}

/// Identifies this host: its name, and the identities of its memory, sockets and process numbers.
///
/// # Errors
/// If the kernel does not provide them: two hosts without them would look like one.
fn host() -> Result<[u8; 32], TransportError> {
    let mut digest = Sha256::new();
    digest.update(host_name());
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
    digest.update(boot.map_err(|e| TransportError::system("read(/proc/sys/kernel/random/boot_id)", e))?);
    for space in ["net", "pid"] {
        match std::fs::read_link(format!("/proc/self/ns/{space}")) {
            Ok(link) => digest.update(link.as_os_str().as_encoded_bytes()),
            // A kernel without such namespaces has one of each.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => digest.update([0]),
            Err(error) => return Err(TransportError::system("readlink(/proc/self/ns)", error)),
        }
    }
    Ok(digest.finalize().into())
}

/// The layout of the job, and the launcher's number of each process. Hosts are in the order of their first processes.
fn arrange(all: &[Introduction]) -> (Layout, Vec<u32>) {
    let mut hosts: Vec<(&[u8; 32], Vec<u32>)> = Vec::new();
    for (number, one) in (0..).zip(all) {
        match hosts.iter_mut().find(|(host, _)| **host == one.host) {
            Some((_, processes)) => processes.push(number),
            None => hosts.push((&one.host, vec![number])),
        }
    }
    let count = |(_, processes): &(_, Vec<u32>)| u32::try_from(processes.len()).expect("counted in 32 bits");
    let per_host: Vec<u32> = hosts.iter().map(count).collect();
    let numbers: Vec<u32> = hosts.into_iter().flat_map(|(_, processes)| processes).collect();
    let pes: Vec<u32> = numbers.iter().map(|number| all[*number as usize].pes).collect();
    (Layout::new(&pes, &per_host), numbers)
}

/// How many PEs this process has, if the job has `size` processes.
fn own_pes(options: &Options, size: u32) -> Result<u32, OptionError> {
    if let Some(unit) = options.pe_for.or(options.processes_for.map(|(_, unit)| unit)) {
        return Err(OptionError::Elsewhere(unit));
    }
    match (options.ppn, options.pes) {
        (Some(ppn), _) => Ok(ppn),
        (None, Some(pes)) if pes.is_multiple_of(size) => Ok(pes / size),
        (None, Some(pes)) => Err(OptionError::Started { pes, started: size, processes: size }),
        (None, None) => Ok(1),
    }
}

/// A process's place in such a job.
#[derive(Debug)]
pub(super) struct Site {
    space: Box<dyn KeySpace>,
    rank: u32,
    layout: Layout,
    /// The launcher's number of each process.
    numbers: Vec<u32>,
    job: JobId,
    secret: Secret,
    toward: Vec<String>,
    options: Vec<(String, String)>,
    peers: Option<HostPeers>,
    control: Control,
}

impl Site {
    /// Joins the other processes of the job.
    ///
    /// # Errors
    /// If they do not join, or their values contradict each other.
    pub(super) fn join(
        mut space: Box<dyn KeySpace>,
        options: &Options,
        line: &Arc<Line>,
        control: Control,
    ) -> Result<Self, BootError> {
        let (number, size) = (space.rank(), space.size());
        let listener = Listener::open()?;
        let [a, b, c, d, e, f, g, h, ..] = random_bytes()?;
        let own = Introduction {
            pes: own_pes(options, size)?,
            host: host()?,
            name: host_name(),
            socket: *listener.name(),
            job: if number == 0 { Some((JobId([a, b, c, d, e, f, g, h]), Secret::random()?)) } else { None },
        };
        space.put(INTRODUCTION, &own.encode())?;
        space.fence()?;
        let mut all = (0..size).map(|number| introduced(&mut *space, number)).collect::<Result<Vec<_>, _>>()?;
        let Some((job, secret)) = all[0].job.take() else {
            return Err(TransportError::Startup("the first process has published no secret".to_owned()).into());
        };
        let total: u64 = all.iter().map(|one| u64::from(one.pes)).sum();
        match options.pes {
            Some(pes) if u64::from(pes) != total => {
                let started = u32::try_from(total).unwrap_or(u32::MAX);
                return Err(OptionError::Started { pes, started, processes: size }.into());
            }
            _ if total > u64::from(PES_MAX) => {
                let what = format!("a job has {PES_MAX} PEs at most, and this one would have {total}");
                return Err(TransportError::Startup(what).into());
            }
            _ => {}
        }
        let (layout, numbers) = arrange(&all);
        let rank = (0..).zip(&numbers).find(|(_, other)| **other == number).map_or(0, |(rank, _)| rank);
        let here = layout.processes_of(layout.host_of(rank));
        let of = |rank: u32| &all[numbers[rank as usize] as usize];
        let elsewhere = (0..layout.hosts()).map(|host| layout.processes_of(host).start).filter(|p| *p != here.start);
        let toward = elsewhere.map(|process| of(process).name.clone()).take(TOWARD_MAX).collect();
        let peers = if here.len() > 1 {
            let keys = Keys::new(job, &secret);
            let leader = of(here.start).socket;
            let connecting =
                Connecting { keys: &keys, rank, host: here, listener, leader, patience: options.timeout() };
            let tells = line.clone();
            let peers = connecting.connect(move |links, what| tells.gone(links, what))?;
            line.links.get_or_init(|| peers.links().clone());
            Some(peers)
        } else {
            None
        };
        let options = options.to_pairs();
        Ok(Self { space, rank, layout, numbers, job, secret, toward, options, peers, control })
    }
}

/// The key of a process's introduction.
const INTRODUCTION: &str = "process";

fn introduced(space: &mut dyn KeySpace, number: u32) -> Result<Introduction, TransportError> {
    let bytes = space.get(number, INTRODUCTION)?.ok_or_else(|| nothing_there(number, INTRODUCTION))?;
    Introduction::decode(&bytes).map_err(|error| match error {
        WireError::Version(theirs) => TransportError::Version {
            what: "the version of the processes' introduction",
            ours: VERSION.to_string(),
            theirs: format!("{theirs} (process {number})"),
        },
        error => TransportError::Startup(format!("process {number} cannot be understood: {error}")),
    })
}

impl Bootstrap for Site {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn job_id(&self) -> JobId {
        self.job
    }

    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn toward(&self) -> &[String] {
        &self.toward
    }

    fn options(&self) -> &[(String, String)] {
        &self.options
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError> {
        self.space.put(key, value)
    }

    fn fence(&mut self) -> Result<(), TransportError> {
        self.space.fence()
    }

    fn get(&mut self, rank: u32, key: &str) -> Result<Vec<u8>, TransportError> {
        check_put(key, &[])?;
        let number = self.numbers.get(rank as usize).copied();
        let value = number.map(|number| self.space.get(number, key)).transpose()?.flatten();
        value.ok_or_else(|| nothing_there(rank, key))
    }

    fn share_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError> {
        match &self.peers {
            Some(peers) => peers.share_fds(fds),
            None => {
                let own = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<Result<_, _>>();
                Ok(vec![own.map_err(|e| TransportError::system("dup", e))?])
            }
        }
    }

    fn control(&self) -> Control {
        self.control.clone()
    }
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
