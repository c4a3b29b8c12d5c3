//! The lines of PMI-1, as pure functions from values to text and back. Knows nothing of sockets.
//!
//! A line is `cmd=WORD` and `name=value` pairs, separated by blanks and terminated by a newline. Values contain no blanks, so
//! bytes are sent as hexadecimal digits. A launcher may accept only short lines (Slurm cuts them at 1,024 bytes, and its job
//! hangs), so long values are sent in [pieces], the first of which begins with the length of the whole.

use std::fmt::Write as _;

/// Longest line that is sent, including its newline.
pub(super) const REQUEST_MAX: usize = 1000;
/// Longest line that is accepted from a launcher.
const REPLY_MAX: usize = 4096;
/// Most digits of a piece: this many are known to pass everywhere.
const DIGITS_MAX: usize = 800;
/// Digits of the length that precedes the first piece.
const LENGTH: usize = 8;

/// Why a line is invalid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum LineError {
    /// Too long.
    #[error("a line of more than {REPLY_MAX} bytes")]
    Long,
    /// Not text.
    #[error("a line that is not text")]
    Text,
    /// Not a known answer.
    #[error("no answer of PMI-1: {0:?}")]
    Unknown(String),
    /// A field is missing or impossible.
    #[error("{0} is missing or impossible in {1:?}")]
    Field(&'static str, String),
}

/// A request of a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request<'a> {
    /// The first request.
    Init,
    /// Asks for the limits.
    Maxes,
    /// Asks for the name of the job's key space.
    Space,
    /// Stores a value.
    Put { space: &'a str, key: &'a str, value: &'a str },
    /// Asks for a value.
    Get { space: &'a str, key: &'a str },
    /// Waits for all processes.
    Barrier,
    /// The process is about to end normally.
    Finalize,
    /// The job must end.
    Abort { code: u8 },
}

impl Request<'_> {
    /// Encodes it as a line.
    pub(super) fn encode(self) -> String {
        match self {
            Self::Init => "cmd=init pmi_version=1 pmi_subversion=1\n".to_owned(),
            Self::Maxes => "cmd=get_maxes\n".to_owned(),
            Self::Space => "cmd=get_my_kvsname\n".to_owned(),
            Self::Put { space, key, value } => format!("cmd=put kvsname={space} key={key} value={value}\n"),
            Self::Get { space, key } => format!("cmd=get kvsname={space} key={key}\n"),
            Self::Barrier => "cmd=barrier_in\n".to_owned(),
            Self::Finalize => "cmd=finalize\n".to_owned(),
            Self::Abort { code } => format!("cmd=abort exitcode={code}\n"),
        }
    }
}

/// An answer of a launcher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// Its version, and whether it accepts ours.
    Init { version: String, taken: bool },
    /// Limits of keys and values, in bytes.
    Maxes { key: usize, value: usize },
    /// The name of the job's key space.
    Space(String),
    /// Whether a value was stored.
    Put { kept: bool },
    /// A value; `None`: there is none.
    Get(Option<String>),
    /// All processes have arrived.
    Barrier,
    /// The process may go.
    Finalize,
}

impl Reply {
    /// Parses a line without its newline.
    pub(super) fn parse(line: &[u8]) -> Result<Self, LineError> {
        let text = std::str::from_utf8(line).map_err(|_| LineError::Text)?;
        let shown = || text.chars().take(100).collect::<String>();
        let field = |name: &'static str| {
            let mut pairs = text.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.find(|(found, _)| *found == name).map(|(_, value)| value).ok_or(LineError::Field(name, shown()))
        };
        let number = |name| field(name)?.parse::<usize>().map_err(|_| LineError::Field(name, shown()));
        // Any other number is an error.
        let success = || Ok(field("rc")?.parse::<i64>().map_err(|_| LineError::Field("rc", shown()))? == 0);
        Ok(match field("cmd")? {
            "response_to_init" => {
                let version = format!("{}.{}", number("pmi_version")?, number("pmi_subversion")?);
                Self::Init { taken: version == "1.1" && success()?, version }
            }
            "maxes" => Self::Maxes { key: number("keylen_max")?, value: number("vallen_max")? },
            "my_kvsname" => Self::Space(field("kvsname")?.to_owned()),
            "put_result" => Self::Put { kept: success()? },
            "get_result" if success()? => Self::Get(Some(field("value")?.to_owned())),
            "get_result" => Self::Get(None),
            "barrier_out" => Self::Barrier,
            "finalize_ack" => Self::Finalize,
            _ => return Err(LineError::Unknown(shown())),
        })
    }
}

/// Splits bytes into lines as they arrive.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Appends received bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next complete line, without its newline.
    ///
    /// # Errors
    /// If it is too long.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        match self.0.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < REPLY_MAX => {
                let line = self.0.drain(..=end).take(end).collect();
                Ok(Some(line))
            }
            None if self.0.len() < REPLY_MAX => Ok(None),
            _ => Err(LineError::Long),
        }
    }
}

/// Splits a value into pieces of at most `digits` digits (an even number, more than the length's). There is always one piece.
pub(super) fn pieces(value: &[u8], digits: usize) -> Vec<String> {
    let len = u32::try_from(value.len()).expect("a value is far shorter than 4 GiB");
    let mut text = format!("{len:08x}");
    value.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string accepts every write"));
    text.as_bytes().chunks(digits).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}

/// How many digits of a piece fit, for a launcher with these limits; `None`: too few.
pub(super) fn digits(space: &str, key_max: usize, value_max: usize) -> Option<usize> {
    let around = Request::Put { space, key: "", value: "" }.encode().len() + key_max;
    let room = REQUEST_MAX.checked_sub(around)?.min(value_max.saturating_sub(1)).min(DIGITS_MAX);
    (room > LENGTH).then_some(room & !1)
}

/// Joins the pieces of a value. Its length and the number of pieces are unknown until the first has come.
#[derive(Debug, Default)]
pub(super) struct Joined {
    text: String,
    /// Digits of the whole value, once known.
    wanted: Option<usize>,
}

impl Joined {
    /// Takes the next piece. Returns the value if it was the last one. `max` is the longest value that is accepted.
    ///
    /// # Errors
    /// If it is not a valid piece.
    pub(super) fn push(&mut self, piece: &str, max: usize) -> Result<Option<Vec<u8>>, LineError> {
        let wrong = || LineError::Field("value", piece.chars().take(100).collect());
        if piece.is_empty() || !piece.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        self.text.push_str(piece);
        let wanted = match self.wanted {
            Some(wanted) => wanted,
            None => {
                let len = self.text.get(..LENGTH).and_then(|digits| usize::from_str_radix(digits, 16).ok());
                let len = len.filter(|len| *len <= max).ok_or_else(wrong)?;
                *self.wanted.insert(LENGTH + 2 * len)
            }
        };
        if self.text.len() < wanted {
            return Ok(None);
        }
        let digits =
            self.text.as_bytes().get(LENGTH..wanted).filter(|_| self.text.len() == wanted).ok_or_else(wrong)?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(byte).collect::<Option<_>>().map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
