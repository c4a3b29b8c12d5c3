//! The messages between a launcher and its processes, as packets of a socket pair. Pure functions from values to bytes
//! and back. Knows nothing of sockets.
//!
//! A packet is `"c4"`, the version (16 bits), the kind (8 bits), and the kind's fields, all little-endian, in order,
//! without padding. Its length is the packet's; bytes left over are an error, as is any count beyond its limit, so
//! nothing is allocated that was not received. Lists and texts carry their length (32 bits). Another version is
//! recognized before anything else is read, since its fields may have any meaning.

use super::KEY_MAX;
use super::bytes::{Reader, Writer};
use super::options::PES_MAX;
use charm4rs_transport_core::Layout;
use charm4rs_transport_core::auth::{JobId, Secret};

/// The version of this protocol. A launcher and its processes must have the same.
pub const VERSION: u16 = 4;
/// Longest packet, in bytes.
pub const PACKET_MAX: usize = 64 << 10;
/// Most descriptors that the kernel passes with one packet.
pub const FDS_MAX: usize = 253;
/// Longest text of a report, in bytes; a longer one is cut.
pub const TEXT_MAX: usize = 32 << 10;

const MAGIC: [u8; 2] = *b"c4";
const OPTIONS_MAX: usize = 256;
/// Most names of other hosts that a process gets.
pub const TOWARD_MAX: usize = 4;

/// Why bytes are not a valid message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The first bytes are not those of this protocol.
    #[error("not a packet of a launcher's channel")]
    Magic,
    /// The other side runs another version.
    #[error("protocol version {0}")]
    Version(u16),
    /// There is no message of this kind.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// It ends too early.
    #[error("packet too short")]
    Short,
    /// It continues after the end of the message.
    #[error("bytes after the end")]
    Trailing,
    /// A field has an invalid value.
    #[error("impossible {0}")]
    Field(&'static str),
}

/// The first message to a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// Its number.
    pub rank: u32,
    /// Distinguishes the job from others of this host.
    pub job: JobId,
    /// The job's secret.
    pub secret: Secret,
    /// The process group that the launcher made for the process, and for all that it starts.
    pub group: u32,
    /// The process and host of each PE.
    pub layout: Layout,
    /// The launcher's options.
    pub options: Vec<(String, String)>,
    /// [`super::Bootstrap::toward`].
    pub toward: Vec<String>,
}

/// From the launcher to a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToProcess {
    /// The first message.
    Welcome(Box<Welcome>),
    /// Every process has reached the fence.
    Fenced,
    /// The answer to a get; `None`: there is no such value.
    Value(Option<Vec<u8>>),
    /// Descriptors of `rank`, which come with the packet.
    Fds {
        /// The process that they belong to.
        rank: u32,
        /// The number of descriptors in this packet.
        count: u16,
        /// More descriptors of the same process follow.
        more: bool,
    },
    /// [`super::Order::Stop`].
    Stop(u8),
    /// [`super::Order::Kill`].
    Kill,
    /// A check that the process is alive. It must answer with the same number.
    Ping(u32),
    /// [`super::Order::Stacks`].
    Stacks,
}

/// From a process to the launcher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToLauncher {
    /// The process has understood its welcome.
    Join {
        /// Its number, as the launcher said.
        rank: u32,
        /// Its process id.
        pid: u32,
    },
    /// Stores a value.
    Put {
        /// Its name.
        key: String,
        /// Its bytes.
        value: Vec<u8>,
    },
    /// Waits for all processes.
    Fence,
    /// Asks for a value.
    Get {
        /// The process that put it.
        rank: u32,
        /// Its name.
        key: String,
    },
    /// Descriptors for the processes of this host come with the packet.
    Share {
        /// The number of descriptors in this packet.
        count: u16,
        /// More follow.
        more: bool,
    },
    /// [`super::Report::Exit`].
    Exit(i32),
    /// [`super::Report::Abort`].
    Abort {
        /// The job's exit status.
        code: u8,
        /// The PE that failed, if known.
        pe: Option<u32>,
        /// What failed.
        what: String,
    },
    /// [`super::Report::Warning`].
    Warning(String),
    /// A signal that ends the process, raised by its own code.
    Fault(Fault),
    /// The answer to a ping.
    Pong(u32),
    /// [`super::Report::Stacks`].
    Stacks(String),
    /// [`super::Report::TakesInterrupt`].
    TakesInterrupt,
}

/// What a signal handler can report: of fixed size, so that it needs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The signal's number.
    pub signal: u8,
    /// The PE whose thread raised it, if it was one.
    pub pe: Option<u32>,
    /// The address of the access.
    pub address: u64,
    /// Whether the access was just beyond the thread's stack.
    pub stack: bool,
}

impl ToProcess {
    /// Encodes it as a packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = packet();
        match self {
            Self::Welcome(welcome) => welcome.encode(w.u8(1)),
            Self::Fenced => _ = w.u8(2),
            Self::Value(value) => match value {
                Some(value) => _ = w.u8(3).u8(1).bytes(value),
                None => _ = w.u8(3).u8(0),
            },
            Self::Fds { rank, count, more } => _ = w.u8(4).u32(*rank).u16(*count).u8((*more).into()),
            Self::Stop(signal) => _ = w.u8(5).u8(*signal),
            Self::Kill => _ = w.u8(6),
            Self::Ping(n) => _ = w.u8(7).u32(*n),
            Self::Stacks => _ = w.u8(8),
        }
        w.into_bytes()
    }

    /// Decodes a packet.
    ///
    /// # Errors
    /// If it is invalid.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        let mut r = open(packet)?;
        let message = match r.u8()? {
            1 => Self::Welcome(Box::new(Welcome::decode(&mut r)?)),
            2 => Self::Fenced,
            3 => Self::Value(if r.flag("answer")? { Some(r.bytes(PACKET_MAX)?.to_vec()) } else { None }),
            4 => Self::Fds { rank: r.u32()?, count: fds(&mut r)?, more: r.flag("more")? },
            5 => Self::Stop(r.u8()?),
            6 => Self::Kill,
            7 => Self::Ping(r.u32()?),
            8 => Self::Stacks,
            kind => return Err(WireError::Kind(kind)),
        };
        r.close(message)
    }
}

impl ToLauncher {
    /// Where an encoded [`ToLauncher::Abort`] names its PE: behind the common prefix, the kind, and the code. A signal
    /// handler, which cannot encode, writes it there.
    pub(super) const ABORTS_PE: std::ops::Range<usize> = MAGIC.len() + 4..MAGIC.len() + 8;

    /// Encodes it as a packet. Texts are cut to [`TEXT_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = packet();
        match self {
            Self::Join { rank, pid } => _ = w.u8(1).u32(*rank).u32(*pid),
            Self::Put { key, value } => _ = w.u8(2).bytes(key.as_bytes()).bytes(value),
            Self::Fence => _ = w.u8(3),
            Self::Get { rank, key } => _ = w.u8(4).u32(*rank).bytes(key.as_bytes()),
            Self::Share { count, more } => _ = w.u8(5).u16(*count).u8((*more).into()),
            Self::Exit(code) => _ = w.u8(6).u32(code.cast_unsigned()),
            Self::Abort { code, pe, what } => _ = w.u8(7).u8(*code).u32(pe.unwrap_or(u32::MAX)).text(what, TEXT_MAX),
            Self::Warning(text) => _ = w.u8(8).text(text, TEXT_MAX),
            Self::Fault(fault) => return fault.encode().to_vec(),
            Self::Pong(n) => _ = w.u8(10).u32(*n),
            Self::Stacks(text) => _ = w.u8(11).text(text, TEXT_MAX),
            Self::TakesInterrupt => _ = w.u8(12),
        }
        w.into_bytes()
    }

    /// Decodes a packet.
    ///
    /// # Errors
    /// If it is invalid.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        let mut r = open(packet)?;
        let message = match r.u8()? {
            1 => Self::Join { rank: r.u32()?, pid: r.u32()? },
            2 => Self::Put { key: r.text("key", KEY_MAX)?, value: r.bytes(super::VALUE_MAX)?.to_vec() },
            3 => Self::Fence,
            4 => Self::Get { rank: r.u32()?, key: r.text("key", KEY_MAX)? },
            5 => Self::Share { count: fds(&mut r)?, more: r.flag("more")? },
            6 => Self::Exit(r.u32()?.cast_signed()),
            7 => Self::Abort { code: r.u8()?, pe: pe(&mut r)?, what: r.text("text", TEXT_MAX)? },
            8 => Self::Warning(r.text("text", TEXT_MAX)?),
            Fault::KIND => Self::Fault(Fault {
                signal: r.u8()?,
                pe: pe(&mut r)?,
                address: u64::from_le_bytes(r.array()?),
                stack: r.flag("stack")?,
            }),
            10 => Self::Pong(r.u32()?),
            11 => Self::Stacks(r.text("text", TEXT_MAX)?),
            12 => Self::TakesInterrupt,
            kind => return Err(WireError::Kind(kind)),
        };
        r.close(message)
    }
}

impl Fault {
    const KIND: u8 = 9;
    /// Length of its packet.
    pub const LEN: usize = 19;

    /// Encodes it as a packet, without allocation or anything else that a signal handler may not use.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let [v0, v1] = VERSION.to_le_bytes();
        let [p0, p1, p2, p3] = self.pe.unwrap_or(u32::MAX).to_le_bytes();
        let [a, b, c, d, e, f, g, h] = self.address.to_le_bytes();
        let [m0, m1] = MAGIC;
        [m0, m1, v0, v1, Self::KIND, self.signal, p0, p1, p2, p3, a, b, c, d, e, f, g, h, u8::from(self.stack)]
    }
}

impl Welcome {
    fn encode(&self, w: &mut Writer) {
        w.u32(self.rank).raw(&self.job.0).raw(self.secret.expose()).u32(self.group);
        let layout = &self.layout;
        let pes = |p| u32::try_from(layout.pes_of(p).len()).expect("PEs are counted in 32 bits");
        let processes = |h| u32::try_from(layout.processes_of(h).len()).expect("processes are counted in 32 bits");
        w.runs((0..layout.processes()).map(pes)).runs((0..layout.hosts()).map(processes));
        w.len(self.options.len());
        for (name, value) in &self.options {
            w.bytes(name.as_bytes()).bytes(value.as_bytes());
        }
        w.len(self.toward.len());
        self.toward.iter().for_each(|name| _ = w.bytes(name.as_bytes()));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (rank, job, secret) = (r.u32()?, JobId(r.array()?), Secret::new(r.array()?));
        let group = r.u32()?;
        let (pes, processes) = (r.runs()?, r.runs()?);
        let sum = |sizes: &[u32]| sizes.iter().try_fold(0u32, |sum, n| sum.checked_add(*n));
        // The conditions that `Layout::new` asserts, and plausible sizes.
        let fits = sum(&pes).is_some_and(|n| n <= PES_MAX)
            && sum(&processes).is_some_and(|n| usize::try_from(n).is_ok_and(|n| n == pes.len()))
            && usize::try_from(rank).is_ok_and(|rank| rank < pes.len());
        if !fits {
            return Err(WireError::Field("layout"));
        }
        let layout = Layout::new(&pes, &processes);
        let count = r.count("number of options", OPTIONS_MAX)?;
        let options = (0..count)
            .map(|_| Ok((r.text("option", PACKET_MAX)?, r.text("option", PACKET_MAX)?)))
            .collect::<Result<_, _>>()?;
        let count = r.count("number of names", TOWARD_MAX)?;
        let toward = (0..count).map(|_| r.text("name", PACKET_MAX)).collect::<Result<_, _>>()?;
        Ok(Self { rank, job, secret, group, layout, options, toward })
    }
}

/// The common prefix of packets.
fn packet() -> Writer {
    let mut w = Writer::default();
    w.raw(&MAGIC).u16(VERSION);
    w
}

fn open(packet: &[u8]) -> Result<Reader<'_>, WireError> {
    let mut r = Reader::new(packet);
    if r.array()? != MAGIC {
        return Err(WireError::Magic);
    }
    match u16::from_le_bytes(r.array()?) {
        VERSION => Ok(r),
        other => Err(WireError::Version(other)),
    }
}

fn pe(r: &mut Reader<'_>) -> Result<Option<u32>, WireError> {
    r.u32().map(|pe| (pe != u32::MAX).then_some(pe))
}

fn fds(r: &mut Reader<'_>) -> Result<u16, WireError> {
    let count = r.array().map(u16::from_le_bytes)?;
    if usize::from(count) <= FDS_MAX { Ok(count) } else { Err(WireError::Field("number of descriptors")) }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
