//! The frames between a launcher and its agent on another host, sent over a byte stream (the standard input and output of a remote shell), as pure
//! data. Knows nothing of descriptors and hosts.
//!
//! Each side begins with [`opening`]: a magic and a version. Text before it is not part of the protocol (a login shell may print a greeting), and is
//! kept. A frame is its kind (8 bits), the length of its body (32 bits), and its body. A length beyond the limit of its kind is refused before memory
//! is allocated for it; numbers and texts have the format of the launcher's channels (`bootstrap::wire`), whose packets are embedded in frames.

use charm4rs_bootstrap::bytes::{Reader, Writer};
use charm4rs_bootstrap::wire::{PACKET_MAX, TEXT_MAX, ToLauncher, ToProcess, Welcome, WireError};

use crate::local_processes::News;
use crate::sys::{Death, Ending};

/// Changes with every change of the frames. A launcher and its agents must have the same version.
pub(crate) const VERSION: u16 = 1;
const MAGIC: [u8; 14] = *b"\0charm4rs-line";
/// The maximum length of text before the opening, in bytes.
const WORDS_MAX: usize = 64 << 10;
/// Bytes in front of a frame's body.
const HEAD: usize = 5;
/// Maximum length of an order: it contains the environment.
const ORDER_MAX: usize = 8 << 20;
/// Maximum number of output bytes in a frame.
pub(crate) const PRINTED_MAX: usize = 32 << 10;

/// What an agent must start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Order {
    /// The welcome of the first process of the agent's host; those of the other processes follow from it.
    pub(crate) welcome: Welcome,
    /// The program's name, as given.
    pub(crate) program: Vec<u8>,
    pub(crate) args: Vec<Vec<u8>>,
    /// The working directory of the processes.
    pub(crate) folder: Vec<u8>,
    /// The launcher's environment, as `NAME=VALUE`.
    pub(crate) env: Vec<Vec<u8>>,
}

/// From a launcher to an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ToAgent {
    /// The first frame.
    Order(Box<Order>),
    /// A packet for a process.
    Packet { rank: u32, packet: Vec<u8> },
    /// A signal for all processes and their descendants.
    Signal(u8),
    /// A signal for one process.
    SignalOne { rank: u32, signal: u8 },
    /// A ping, to be answered with the same number.
    Ping(u32),
    /// The launcher has consumed so many bytes of output: the agent may send as many more.
    Taken(u32),
    /// The job has ended: kill what is left, and answer with `Done`.
    Finish,
}

/// From an agent to its launcher.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum ToHome {
    /// The first frame: the agent's process number.
    Hello(u32),
    /// An event of a process.
    News { rank: u32, news: News },
    /// Output of a process on one of its two streams; empty: the stream has ended.
    Printed { rank: u32, which: u8, bytes: Vec<u8> },
    /// The order cannot be carried out: the reason, and the exit status for it.
    Failed { code: u8, what: String },
    /// The answer to a ping.
    Pong(u32),
    /// Nothing is left.
    Done,
}

/// A frame of one direction.
pub(crate) trait Frame: Sized {
    /// The maximum length of a body of this kind; `None`: there is no such kind.
    fn limit(kind: u8) -> Option<usize>;
    fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError>;
    /// Kind and body.
    fn encode(&self) -> (u8, Vec<u8>);

    /// The frame's bytes on the wire.
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, body) = self.encode();
        let mut w = Writer::default();
        w.u8(kind).bytes(&body);
        w.into_bytes()
    }
}

/// The first bytes of both directions.
pub(crate) fn opening() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes()].concat()
}

/// Reads frames from a stream.
#[derive(Default, Debug)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    /// The number of bytes already consumed.
    used: usize,
    opened: bool,
    words: Vec<u8>,
}

impl Incoming {
    /// Adds received bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The text before the opening, as far as received.
    pub(crate) fn words(&self) -> &[u8] {
        if self.opened { &self.words } else { &self.bytes }
    }

    /// The next frame, if it is complete.
    pub(crate) fn next<F: Frame>(&mut self) -> Result<Option<F>, WireError> {
        if !self.opened && !self.open()? {
            return Ok(None);
        }
        let rest = &self.bytes[self.used..];
        let Some(&[kind, a, b, c, d]) = rest.first_chunk::<HEAD>() else { return Ok(None) };
        let limit = F::limit(kind).ok_or(WireError::Kind(kind))?;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| WireError::Field("length"))?;
        if length > limit {
            return Err(WireError::Field("length"));
        }
        let Some(body) = rest.get(HEAD..HEAD + length) else { return Ok(None) };
        let frame = F::decode(kind, body)?;
        self.used += HEAD + length;
        Ok(Some(frame))
    }

    fn open(&mut self) -> Result<bool, WireError> {
        let Some(at) = self.bytes.windows(MAGIC.len()).position(|window| *window == MAGIC) else {
            return if self.bytes.len() > WORDS_MAX { Err(WireError::Magic) } else { Ok(false) };
        };
        let from = at + MAGIC.len();
        let Some(version) = self.bytes[from..].first_chunk() else { return Ok(false) };
        match u16::from_le_bytes(*version) {
            VERSION => {
                self.words = self.bytes[..at].to_vec();
                self.used = from + version.len();
                self.opened = true;
                Ok(true)
            }
            other => Err(WireError::Version(other)),
        }
    }
}

impl Frame for ToAgent {
    fn limit(kind: u8) -> Option<usize> {
        match kind {
            1 => Some(ORDER_MAX),
            2 => Some(PACKET_MAX + 8),
            3..=7 => Some(8),
            _ => None,
        }
    }

    fn encode(&self) -> (u8, Vec<u8>) {
        let mut w = Writer::default();
        let kind = match self {
            Self::Order(order) => {
                order.encode(&mut w);
                1
            }
            Self::Packet { rank, packet } => {
                w.u32(*rank).raw(packet);
                2
            }
            Self::Signal(signal) => {
                w.u8(*signal);
                3
            }
            Self::SignalOne { rank, signal } => {
                w.u32(*rank).u8(*signal);
                4
            }
            Self::Ping(n) => {
                w.u32(*n);
                5
            }
            Self::Taken(n) => {
                w.u32(*n);
                6
            }
            Self::Finish => 7,
        };
        (kind, w.into_bytes())
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body);
        let frame = match kind {
            1 => Self::Order(Box::new(Order::decode(&mut r)?)),
            2 => Self::Packet { rank: r.u32()?, packet: r.rest().to_vec() },
            3 => Self::Signal(r.u8()?),
            4 => Self::SignalOne { rank: r.u32()?, signal: r.u8()? },
            5 => Self::Ping(r.u32()?),
            6 => Self::Taken(r.u32()?),
            7 => Self::Finish,
            kind => return Err(WireError::Kind(kind)),
        };
        r.close(frame)
    }
}

impl Order {
    fn encode(&self, w: &mut Writer) {
        w.bytes(&ToProcess::Welcome(Box::new(self.welcome.clone())).encode());
        w.bytes(&self.program).bytes(&self.folder);
        for list in [&self.args, &self.env] {
            w.len(list.len());
            list.iter().for_each(|text| _ = w.bytes(text));
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let ToProcess::Welcome(welcome) = ToProcess::decode(r.bytes(PACKET_MAX)?)? else {
            return Err(WireError::Field("welcome"));
        };
        let (program, folder) = (r.bytes(ORDER_MAX)?.to_vec(), r.bytes(ORDER_MAX)?.to_vec());
        let mut list = || {
            // Each text has its length in the frame, so the frame's length limits their number.
            let count = r.count("number of texts", ORDER_MAX)?;
            let mut texts = Vec::new();
            for _ in 0..count {
                texts.push(r.bytes(ORDER_MAX)?.to_vec());
            }
            Ok(texts)
        };
        Ok(Self { welcome: *welcome, program, folder, args: list()?, env: list()? })
    }
}

impl Frame for ToHome {
    fn limit(kind: u8) -> Option<usize> {
        match kind {
            2 => Some(PACKET_MAX + 16),
            3 => Some(PRINTED_MAX + 8),
            4 => Some(TEXT_MAX + 8),
            1 | 5..=6 => Some(8),
            _ => None,
        }
    }

    fn encode(&self) -> (u8, Vec<u8>) {
        let mut w = Writer::default();
        let kind = match self {
            Self::Hello(pid) => {
                w.u32(*pid);
                1
            }
            Self::News { rank, news } => {
                encode_news(w.u32(*rank), news);
                2
            }
            Self::Printed { rank, which, bytes } => {
                w.u32(*rank).u8(*which).raw(bytes);
                3
            }
            Self::Failed { code, what } => {
                w.u8(*code).text(what, TEXT_MAX);
                4
            }
            Self::Pong(n) => {
                w.u32(*n);
                5
            }
            Self::Done => 6,
        };
        (kind, w.into_bytes())
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(body);
        let frame = match kind {
            1 => Self::Hello(r.u32()?),
            2 => Self::News { rank: r.u32()?, news: decode_news(&mut r)? },
            3 => Self::Printed { rank: r.u32()?, which: r.flag("stream")?.into(), bytes: r.rest().to_vec() },
            4 => Self::Failed { code: r.u8()?, what: r.text("text", TEXT_MAX)? },
            5 => Self::Pong(r.u32()?),
            6 => Self::Done,
            kind => return Err(WireError::Kind(kind)),
        };
        r.close(frame)
    }
}

fn encode_news(w: &mut Writer, news: &News) {
    match news {
        News::Started(pid) => _ = w.u8(1).u32(*pid),
        News::Said(message) => _ = w.u8(2).raw(&message.encode()),
        News::Broke(code, what) => _ = w.u8(3).u8(*code).text(what, TEXT_MAX),
        News::LineLost => _ = w.u8(4),
        News::Died(Death { how, resident_kib_max }) => {
            let (by_signal, number) = match how {
                Ending::Code(code) => (false, *code),
                Ending::Signal(signal) => (true, *signal),
            };
            w.u8(5).u8(by_signal.into()).u8(number).raw(&resident_kib_max.to_le_bytes());
        }
    }
}

fn decode_news(r: &mut Reader<'_>) -> Result<News, WireError> {
    Ok(match r.u8()? {
        1 => News::Started(r.u32()?),
        2 => News::Said(ToLauncher::decode(r.rest())?),
        3 => News::Broke(r.u8()?, r.text("text", TEXT_MAX)?),
        4 => News::LineLost,
        5 => {
            let (by_signal, number) = (r.flag("ending")?, r.u8()?);
            let how = match (by_signal, number) {
                // An exit status has seven bits for a signal.
                (true, 1..=127) => Ending::Signal(number),
                (true, _) => return Err(WireError::Field("signal")),
                (false, code) => Ending::Code(code),
            };
            News::Died(Death { how, resident_kib_max: u64::from_le_bytes(r.array()?) })
        }
        kind => return Err(WireError::Kind(kind)),
    })
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    //! Fuzz target: bytes of a remote host, read by a launcher, and by an agent. No input may cause a panic.

    use super::{Frame, Incoming, ToAgent, ToHome, opening};

    /// The first byte selects the reader, and whether the stream begins with the opening.
    pub fn frames(bytes: &[u8]) {
        let Some((how, bytes)) = bytes.split_first() else { return };
        if how & 1 == 0 { read::<ToAgent>(bytes, how & 2 != 0) } else { read::<ToHome>(bytes, how & 2 != 0) }
    }

    fn read<F: Frame + PartialEq + std::fmt::Debug>(bytes: &[u8], opened: bool) {
        let mut incoming = Incoming::default();
        if opened {
            incoming.take(&opening());
        }
        for piece in bytes.chunks(7) {
            incoming.take(piece);
            loop {
                match incoming.next::<F>() {
                    Ok(Some(frame)) => {
                        let (kind, body) = frame.encode();
                        assert_eq!(
                            F::decode(kind, &body).as_ref(),
                            Ok(&frame),
                            "encoding the decoded frame restores it"
                        );
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
