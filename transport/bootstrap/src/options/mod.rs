//! The runtime's options on a command line: one table for `charmrun` and for every program of the runtime.
//!
//! The runtime's options begin with `+` or `++`; everything else belongs to the program and passes through unchanged. Options behind
//! the program count as those in front of it, up to `--` or a lone `++`, which end the runtime's options. Options of Charm++
//! are recognized too: they have the same effect as there, or none, or are refused with an alternative; in each case they are taken out
//! with their values. An unknown word that begins with `++` is an error that names the nearest option, so that a typing error
//! never silently changes a run (behind the program, the program has to refuse it). A word with a single `+` is an option only if it is in the table.
//! This module does not know which code acts on an option.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::time::Duration;

use super::Kind;
use charm4rs_transport_core::TransportKind;

mod error;
mod help;
mod provision;
mod words;

pub use error::OptionError;
pub use help::{charm_table, help};
pub use words::Unit;
use words::{At, Entry, IGNORED, NO_TRANSPORT, OURS, REFUSED, Takes};

/// The largest job. A larger number is assumed to be a typing error.
pub const PES_MAX: u32 = 1 << 20;

/// What the user asked for. `None`, or false: not given, so the default of the code that acts on the option applies. The table in `words.rs` describes
/// each option.
#[derive(Clone, PartialEq, Default, Debug)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the table has a text for each")]
pub struct Options {
    pub action: Action,
    pub pes: Option<u32>,
    pub ppn: Option<u32>,
    pub processes: Option<u32>,
    pub pe_for: Option<Unit>,
    pub processes_for: Option<(u32, Unit)>,
    pub transport: Option<TransportKind>,
    pub bootstrap: Option<Kind>,
    pub local: bool,
    pub nodelist: Option<String>,
    pub nodegroup: Option<String>,
    pub hosts: Option<u32>,
    pub remote_shell: Option<String>,
    pub remote_charmrun: Option<String>,
    pub runscript: Option<String>,
    pub timeout: Option<Duration>,
    pub timelimit: Option<Duration>,
    pub no_liveness: bool,
    pub credit: Option<u64>,
    pub message_max: Option<u64>,
    pub checksum: bool,
    pub server: bool,
    pub server_port: Option<u16>,
    pub server_address: Option<String>,
    pub server_auth: Option<String>,
    pub seed: Option<u64>,
    pub pemap: Option<String>,
    pub no_pin: bool,
    pub exclude: Option<String>,
    pub hang_timeout: Option<Duration>,
    pub quiet: bool,
    pub verbose: bool,
    pub prefix_output: bool,
    /// Charm++'s options that were accepted and do nothing, with their values.
    pub ignored: Vec<String>,
}

/// What a command line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Action {
    /// Run the job.
    #[default]
    Run,
    /// `++help`: print [`help()`].
    Help,
    /// `++version`: print [`version`].
    Version,
    /// `++info`: print what this machine has.
    Info,
}

/// A parsed command line.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// The runtime's options.
    pub options: Options,
    /// The program's arguments (for a launcher: the program and its arguments), in their order.
    pub rest: Vec<OsString>,
}

/// The version, which `++info`, `++help` and all other output must show.
#[must_use]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Parses a program's own arguments (without its name).
///
/// # Errors
/// If a word looks like an option of the runtime and is invalid, or is an option of launchers.
pub fn parse_program(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, OptionError> {
    let mut reader = Reader::default();
    let rest = reader.anywhere(args.into_iter().collect(), Side::Program)?;
    Ok(Parsed { options: reader.finish()?, rest })
}

/// Parses a launcher's command line (without its own name).
///
/// # Errors
/// If a word looks like an option of the runtime and is invalid, or is an option of programs.
pub fn parse_launcher(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, OptionError> {
    let mut reader = Reader::default();
    let mut words: VecDeque<OsString> = args.into_iter().collect();
    let end = reader.in_front(&mut words)?;
    reader.with_program(words, end)
}

/// What has been read of a command line.
#[derive(Default, Debug)]
pub struct Reader {
    options: Options,
    /// The options that define the size of the job, as they were written.
    shape: Vec<(&'static str, String)>,
}

/// Why the options in front of a program end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// At a word that is not an option of the runtime.
    Word,
    /// At `--`: what follows belongs to the program alone.
    Dashes,
}

/// Whose arguments are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Launcher,
    Program,
}

/// The meaning of a word.
enum Meaning {
    Ours(&'static Entry),
    Ignored(&'static str, Takes),
    Refused {
        name: &'static str,
        takes: Takes,
        instead: &'static str,
    },
    /// `++no-` and a flag of the runtime, or an option without effect.
    TakenBack(Option<&'static Entry>),
}

/// A word of the table, and the value that is part of the word (`+p4`, `++ppn=2`).
struct MatchedWord {
    meaning: Meaning,
    inline: Option<String>,
}

impl Reader {
    /// Takes the launcher's options off the front of `words`, up to the program.
    ///
    /// # Errors
    /// As for [`parse_launcher`].
    pub fn in_front(&mut self, words: &mut VecDeque<OsString>) -> Result<End, OptionError> {
        while let Some(word) = words.front() {
            if ends_ours(word) {
                words.pop_front();
                return Ok(End::Dashes);
            }
            // A word that is not text cannot be an option.
            let text = word.to_str().unwrap_or_default().to_owned();
            let Some(found) = find(&text)? else {
                return if text.starts_with('+') { Err(unknown(&text)) } else { Ok(End::Word) };
            };
            words.pop_front();
            if let Meaning::Ours(entry) = found.meaning
                && entry.at == At::Program
            {
                return Err(OptionError::Programs(entry.name));
            }
            self.take(&text, found, words)?;
        }
        Ok(End::Word)
    }

    /// Takes the options out of `words`, the program and its arguments, unless `--` precedes them.
    ///
    /// # Errors
    /// As for [`parse_launcher`].
    pub fn with_program(mut self, mut words: VecDeque<OsString>, end: End) -> Result<Parsed, OptionError> {
        let mut rest: Vec<OsString> = words.pop_front().into_iter().collect();
        match end {
            End::Dashes => rest.extend(words),
            End::Word => rest.extend(self.anywhere(words, Side::Launcher)?),
        }
        Ok(Parsed { options: self.finish()?, rest })
    }

    /// Takes options out of a program's arguments, up to `--`. A launcher leaves words that it cannot judge.
    fn anywhere(&mut self, mut words: VecDeque<OsString>, side: Side) -> Result<Vec<OsString>, OptionError> {
        let mut rest = Vec::new();
        while let Some(word) = words.pop_front() {
            if ends_ours(&word) {
                if side == Side::Launcher {
                    rest.push(word);
                }
                rest.extend(words);
                return Ok(rest);
            }
            let text = word.to_str().unwrap_or_default().to_owned();
            let found = match find(&text) {
                Ok(found) => found,
                Err(OptionError::Unknown { .. }) if side == Side::Launcher => None,
                Err(error) => return Err(error),
            };
            match found {
                None => rest.push(word),
                Some(MatchedWord { meaning: Meaning::Ours(entry), inline })
                    if side == Side::Launcher && entry.at == At::Program =>
                {
                    rest.push(word);
                    rest.extend(if inline.is_none() { words.pop_front() } else { None });
                }
                Some(MatchedWord { meaning: Meaning::Ours(entry), .. })
                    if side == Side::Program && entry.at == At::Launcher =>
                {
                    return Err(OptionError::Launchers(entry.name));
                }
                Some(found) => self.take(&text, found, &mut words)?,
            }
        }
        Ok(rest)
    }

    /// Acts on a word of the table, with its value, which is part of it or the next of `words`.
    fn take(&mut self, word: &str, found: MatchedWord, words: &mut VecDeque<OsString>) -> Result<(), OptionError> {
        let MatchedWord { meaning, inline } = found;
        match meaning {
            Meaning::TakenBack(entry) => {
                entry.into_iter().for_each(|entry| entry.field.unset(&mut self.options));
                Ok(())
            }
            Meaning::Refused { name, instead, .. } => Err(OptionError::Refused { name, instead }),
            Meaning::Ours(entry) => {
                let value = match inline {
                    Some(_) if entry.value.is_empty() => return Err(unknown(word)),
                    Some(value) => value,
                    None if entry.value.is_empty() => String::new(),
                    None => next(words).ok_or(OptionError::NoValue { name: entry.name, value: entry.value })?,
                };
                self.store(entry, &value)
            }
            Meaning::Ignored(name, takes) => {
                let value = match (inline, takes) {
                    (Some(value), _) => Some(value),
                    (None, Takes::Nothing) => None,
                    (None, Takes::PerhapsNumber) => {
                        let number = words.front().and_then(|w| w.to_str()).is_some_and(|w| w.parse::<i64>().is_ok());
                        if number { next(words) } else { None }
                    }
                    // Charm++ accepts a missing value at the end of the line, too.
                    (None, Takes::Number | Takes::Text) => next(words),
                };
                self.options.ignored.push(value.map_or_else(|| name.to_owned(), |value| format!("{name} {value}")));
                Ok(())
            }
        }
    }

    fn store(&mut self, entry: &'static Entry, value: &str) -> Result<(), OptionError> {
        store(&mut self.options, entry, value)?;
        if entry.is_shape() {
            let text = entry.field.text(&self.options).unwrap_or_default();
            if let Some((name, before)) =
                self.shape.iter().find(|(name, before)| *name == entry.name && *before != text)
            {
                return Err(OptionError::Conflict {
                    first: format!("{name} {before}"),
                    second: format!("{} {text}", entry.name),
                });
            }
            self.shape.push((entry.name, text));
        }
        Ok(())
    }

    /// Ends parsing: everything has been read.
    ///
    /// # Errors
    /// If two options contradict each other.
    pub fn finish(mut self) -> Result<Options, OptionError> {
        if let (Some(map), true) = (&self.options.pemap, self.options.no_pin) {
            return Err(OptionError::Conflict { first: format!("+pemap {map}"), second: "+no-pin".to_owned() });
        }
        self.options.deal()?;
        Ok(self.options)
    }
}

fn ends_ours(word: &OsString) -> bool {
    word == "--" || word == "++"
}

fn next(words: &mut VecDeque<OsString>) -> Option<String> {
    words.pop_front().map(|word| word.to_string_lossy().into_owned())
}

fn store(options: &mut Options, entry: &Entry, value: &str) -> Result<(), OptionError> {
    entry.field.read(options, value).map_err(|want| match want {
        NO_TRANSPORT => OptionError::Transport(value.to_owned()),
        _ => OptionError::BadValue { name: entry.name, given: value.to_owned(), want },
    })
}

/// Looks `word` up in the table; `None`: it belongs to the program.
fn find(word: &str) -> Result<Option<MatchedWord>, OptionError> {
    if !word.starts_with('+') {
        return Ok(None);
    }
    let (name, inline) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    if let Some(meaning) = named(name) {
        return meaning.accepted().map(|meaning| Some(MatchedWord { meaning, inline }));
    }
    // `+p4`: a name followed by digits.
    let name_only = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let name_only = name_only.strip_suffix('-').unwrap_or(name_only);
    if let Some(meaning) = named(name_only).filter(Meaning::takes_digits) {
        let inline = Some(word[name_only.len()..].to_owned());
        return meaning.accepted().map(|meaning| Some(MatchedWord { meaning, inline }));
    }
    if let Some(flag) = name.strip_prefix("++no-")
        && let Some(meaning) = named(&format!("++{flag}")).and_then(Meaning::taken_back)
    {
        return Ok(Some(MatchedWord { meaning, inline }));
    }
    if name.starts_with("++") { Err(unknown(word)) } else { Ok(None) }
}

fn named(name: &str) -> Option<Meaning> {
    if let Some(entry) = OURS.iter().find(|entry| entry.name == name || entry.also.contains(&name)) {
        return Some(Meaning::Ours(entry));
    }
    let among = |rows: &'static [words::Row]| {
        let mut words = rows.iter().flat_map(|row| row.words().map(move |(word, _, takes)| (word, takes, row.says)));
        words.find(|(word, ..)| *word == name)
    };
    among(IGNORED)
        .map(|(name, takes, _)| Meaning::Ignored(name, takes))
        .or_else(|| among(REFUSED).map(|(name, takes, instead)| Meaning::Refused { name, takes, instead }))
}

impl Meaning {
    fn accepted(self) -> Result<Self, OptionError> {
        match self {
            Self::Refused { name, instead, .. } => Err(OptionError::Refused { name, instead }),
            other => Ok(other),
        }
    }

    fn takes_digits(&self) -> bool {
        match self {
            Self::Ours(entry) => entry.field.takes_digits(),
            Self::Ignored(_, takes) | Self::Refused { takes, .. } => {
                matches!(takes, Takes::Number | Takes::PerhapsNumber)
            }
            Self::TakenBack(_) => false,
        }
    }

    /// The meaning of the word with `++no-` in front, if it is a flag.
    fn taken_back(self) -> Option<Self> {
        match self {
            Self::Ours(entry) => entry.field.is_flag().then_some(Self::TakenBack(Some(entry))),
            Self::Ignored(_, takes) | Self::Refused { takes, .. } => {
                (takes == Takes::Nothing).then_some(Self::TakenBack(None))
            }
            Self::TakenBack(_) => None,
        }
    }
}

fn unknown(word: &str) -> OptionError {
    let name = word.split('=').next().unwrap_or(word);
    let ours = OURS.iter().flat_map(|entry| std::iter::once(&entry.name).chain(entry.also)).copied();
    let others = IGNORED.iter().chain(REFUSED).flat_map(words::Row::words).map(|(name, ..)| name);
    OptionError::Unknown { given: word.chars().take(200).collect(), nearest: nearest(name, ours.chain(others)) }
}

/// The name that `word` is probably a misspelling of; the first, if there are several.
#[must_use]
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(word, name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(d, name)| *d <= (name.len() / 3).max(1))
        .map(|(_, name)| name)
}

/// The number of letters to insert, delete or replace (Levenshtein).
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

impl Options {
    /// Whether to answer CCS requests.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.server || self.server_port.is_some() || self.server_address.is_some() || self.server_auth.is_some()
    }

    /// How long start-up may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(60))
    }

    /// The options that the processes of a job need (not where it runs), as they are sent: names as on the command line, without the pluses.
    #[must_use]
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let pair = |entry: &Entry| Some((entry.travels_as()?.to_owned(), entry.field.text(self)?));
        OURS.iter().filter_map(pair).collect()
    }

    /// The inverse of [`Options::to_pairs`]. Unknown names are skipped: they come from a newer launcher.
    ///
    /// # Errors
    /// If a value is invalid.
    pub fn from_pairs(pairs: &[(String, String)]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for (name, value) in pairs {
            if let Some(entry) = OURS.iter().find(|entry| entry.travels_as() == Some(name)) {
                store(&mut options, entry, value)?;
            }
        }
        Ok(options)
    }

    /// The launcher's options, overridden by those of the program's own arguments: words that the launcher has not seen,
    /// since the program or a script added them. The launcher defines the shape of the job: the program may repeat it, not change it.
    ///
    /// # Errors
    /// [`OptionError::Conflict`].
    pub fn overlaid(&self, program: &Self) -> Result<Self, OptionError> {
        let mut both = Self { action: program.action, bootstrap: program.bootstrap, ..self.clone() };
        both.ignored.extend(program.ignored.iter().cloned());
        for entry in OURS.iter().filter(|entry| entry.travels_as().is_some()) {
            let Some(value) = entry.field.text(program) else { continue };
            if entry.is_shape()
                && let Some(given) = entry.field.text(self)
                && given != value
            {
                let name = entry.name;
                return Err(OptionError::Conflict {
                    first: format!("{name} {given} for charmrun"),
                    second: format!("{name} {value} for the program"),
                });
            }
            store(&mut both, entry, &value)?;
        }
        Ok(both)
    }

    /// What `++verbose` prints about options that do nothing.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        (self.verbose && !self.ignored.is_empty())
            .then(|| format!("options of Charm++ that do nothing here: {}", self.ignored.join(", ")))
    }
}

#[cfg(test)]
mod tests;
