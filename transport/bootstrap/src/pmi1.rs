//! The key space of a launcher that speaks PMI-1 on an inherited descriptor: MPICH's `mpiexec` (hydra), and Slurm's `srun --mpi=pmi2`.
//!
//! It needs no library. Questions and answers are lines and alternate. A thread reads the answers, and ends the process
//! as soon as the launcher is gone. This module does not know what the key space holds.

mod line;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use self::line::{Joined, LineError, Lines, Reply, Request, digits, pieces};
use super::VALUE_MAX;
use super::alone::check_put;
use super::site::{Ending, KeySpace, LEAVE, check_place, not_all, silent};
use super::sys;
use charm4rs_transport_core::TransportError;

/// The variable that names the inherited descriptor.
pub(super) const VARIABLE: &str = "PMI_FD";
/// Whether this process has the descriptor that such a launcher gives to its processes.
pub(super) fn is_near() -> bool {
    let fd = std::env::var_os(VARIABLE).and_then(|fd| fd.to_str()?.parse().ok());
    fd.is_some_and(sys::is_socket)
}

/// A process's connection to such a launcher.
#[derive(Debug)]
pub(super) struct Pmi1 {
    wire: Arc<Wire>,
    replies: Receiver<Result<Reply, LineError>>,
    rank: u32,
    size: u32,
    space: String,
    key_max: usize,
    digits: usize,
    patience: Duration,
}

#[derive(Debug)]
struct Wire {
    socket: UnixStream,
    /// The launcher may go: the job has ended.
    over: AtomicBool,
    /// The launcher has answered the last question.
    leave: Mutex<bool>,
    left: Condvar,
}

impl Pmi1 {
    /// Takes the place that the launcher made for this process. No answer may take longer than `patience`.
    ///
    /// # Errors
    /// If the descriptor is not there, or the launcher sends something invalid.
    pub(super) fn find(patience: Duration) -> Result<Self, TransportError> {
        let number = |name: &'static str| {
            let text = std::env::var_os(name).unwrap_or_default();
            let number = text.to_str().and_then(|text| text.parse::<u32>().ok());
            number
                .ok_or_else(|| TransportError::Startup(format!("{name} is {}, which is not a number", text.display())))
        };
        let (fd, rank, size) = (number(VARIABLE)?, number("PMI_RANK")?, number("PMI_SIZE")?);
        let socket = i32::try_from(fd).ok().and_then(|fd| sys::inherited(fd, None)).ok_or_else(|| {
            TransportError::Startup(format!(
                "{VARIABLE} is {fd}, but there is no such descriptor: did a wrapper close it? ++bootstrap alone runs without the launcher"
            ))
        })?;
        // Processes that this process starts do not belong to the launcher.
        [VARIABLE, "PMI_RANK", "PMI_SIZE"].into_iter().for_each(sys::forget_variable);
        Self::join(socket.into(), rank, size, patience)
    }

    /// Joins the job of the launcher at the other end of `socket`.
    fn join(socket: UnixStream, rank: u32, size: u32, patience: Duration) -> Result<Self, TransportError> {
        check_place(rank, size)?;
        let reader = socket.try_clone().map_err(|e| TransportError::system("dup", e))?;
        let wire =
            Arc::new(Wire { socket, over: AtomicBool::new(false), leave: Mutex::new(false), left: Condvar::new() });
        let (tell, replies) = channel();
        let shared = wire.clone();
        super::listener("charm4rs-pmi", move || shared.listen(reader, &tell))?;
        let mut pmi = Self { wire, replies, rank, size, space: String::new(), key_max: 0, digits: 0, patience };
        match pmi.ask(Request::Init)? {
            Reply::Init { taken: true, .. } => {}
            Reply::Init { version, .. } => {
                let ours = "1.1".to_owned();
                return Err(TransportError::Version { what: "the version of PMI", ours, theirs: version });
            }
            other => return Err(out_of_turn(&other)),
        }
        let (key_max, value_max) = match pmi.ask(Request::Maxes)? {
            Reply::Maxes { key, value } => (key.min(super::KEY_MAX), value),
            other => return Err(out_of_turn(&other)),
        };
        pmi.space = match pmi.ask(Request::Space)? {
            Reply::Space(space) => space,
            other => return Err(out_of_turn(&other)),
        };
        pmi.key_max = key_max;
        pmi.digits = digits(&pmi.space, key_max, value_max).ok_or_else(|| {
            TransportError::Startup(format!(
                "the launcher's key space is too small: keys of {key_max} bytes, values of {value_max}"
            ))
        })?;
        Ok(pmi)
    }

    fn ask(&self, request: Request<'_>) -> Result<Reply, TransportError> {
        self.wire.say(request)?;
        match self.replies.recv_timeout(self.patience) {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(TransportError::Startup(format!("the launcher cannot be understood: {error}"))),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) if matches!(request, Request::Barrier) => {
                Err(not_all(self.size, self.patience))
            }
            Err(RecvTimeoutError::Timeout) => Err(silent(self.patience)),
        }
    }

    /// The key of a piece in the job's key space.
    fn key(&self, rank: u32, key: &str, piece: usize) -> Result<String, TransportError> {
        let name = format!("c4r-{rank}-{key}-{piece}");
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        // Some launchers count the terminating zero.
        if plain && name.len() < self.key_max {
            return Ok(name);
        }
        Err(TransportError::Startup(format!(
            "the launcher's key space takes letters and digits, fewer than {}, and not {key:?}",
            self.key_max
        )))
    }
}

/// Parses the lines of a launcher, in pieces as they arrive.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz<'a>(said: impl Iterator<Item = &'a [u8]>) {
    let (mut lines, mut joined, mut key_max, mut value_max) = (Lines::default(), Joined::default(), 64, 256);
    for bytes in said {
        lines.push(bytes);
        loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(_) => return,
            };
            match Reply::parse(&line) {
                Ok(Reply::Maxes { key, value }) => (key_max, value_max) = (key.min(super::KEY_MAX), value),
                Ok(Reply::Space(space)) => {
                    let Some(digits) = digits(&space, key_max, value_max) else { continue };
                    let (mut again, value) = (Joined::default(), &line[..line.len().min(VALUE_MAX)]);
                    let whole = pieces(value, digits).iter().map(|piece| again.push(piece, VALUE_MAX)).last();
                    assert_eq!(whole, Some(Ok(Some(value.to_vec()))), "the pieces give the value again");
                }
                Ok(Reply::Get(Some(text))) => match joined.push(&text, VALUE_MAX) {
                    Ok(None) => {}
                    _ => joined = Joined::default(),
                },
                _ => {}
            }
        }
    }
}

impl KeySpace for Pmi1 {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError> {
        check_put(key, value)?;
        for (piece, value) in pieces(value, self.digits).iter().enumerate() {
            let key = self.key(self.rank, key, piece)?;
            match self.ask(Request::Put { space: &self.space, key: &key, value })? {
                Reply::Put { kept: true } => {}
                Reply::Put { kept: false } => {
                    return Err(TransportError::Startup(format!("the launcher's key space does not take {key}")));
                }
                other => return Err(out_of_turn(&other)),
            }
        }
        Ok(())
    }

    fn fence(&mut self) -> Result<(), TransportError> {
        match self.ask(Request::Barrier)? {
            Reply::Barrier => Ok(()),
            other => Err(out_of_turn(&other)),
        }
    }

    fn get(&mut self, rank: u32, key: &str) -> Result<Option<Vec<u8>>, TransportError> {
        check_put(key, &[])?;
        let mut joined = Joined::default();
        for piece in 0.. {
            let name = self.key(rank, key, piece)?;
            let text = match self.ask(Request::Get { space: &self.space, key: &name })? {
                Reply::Get(Some(text)) => text,
                Reply::Get(None) => return Ok(None),
                other => return Err(out_of_turn(&other)),
            };
            let value = joined.push(&text, VALUE_MAX).map_err(|error| {
                TransportError::Startup(format!("what process {rank} has published under {key:?} is damaged: {error}"))
            })?;
            if value.is_some() {
                return Ok(value);
            }
        }
        Ok(None)
    }

    fn ending(&self) -> Arc<dyn Ending> {
        self.wire.clone()
    }
}

impl Wire {
    fn say(&self, request: Request<'_>) -> Result<(), TransportError> {
        // A line that is written in one piece is not interleaved with a line of another thread.
        (&self.socket).write_all(request.encode().as_bytes()).map_err(|_| gone())
    }

    /// The main loop of the thread that reads answers.
    fn listen(&self, mut socket: UnixStream, tell: &Sender<Result<Reply, LineError>>) {
        let mut lines = Lines::default();
        let mut buf = [0; 2048];
        loop {
            match socket.read(&mut buf) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(n) if n > 0 => lines.push(&buf[..n]),
                _ if self.over.load(Ordering::Acquire) => return self.may_leave(),
                _ => sys::end_process(69),
            }
            loop {
                let reply = match lines.next() {
                    Ok(None) => break,
                    Ok(Some(line)) => Reply::parse(&line),
                    Err(error) => {
                        lines = Lines::default();
                        Err(error)
                    }
                };
                if self.over.load(Ordering::Acquire) && matches!(reply, Ok(Reply::Finalize | Reply::Maxes { .. })) {
                    self.may_leave();
                } else {
                    // There may be no receiver any more.
                    let _ = tell.send(reply);
                }
            }
        }
    }

    /// Asks the last question, beside other threads, and waits for the answer.
    fn ask_at_last(&self, request: Request<'_>) {
        self.over.store(true, Ordering::Release);
        if self.say(request).is_ok() {
            let leave = self.leave.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.left.wait_timeout_while(leave, LEAVE, |leave| !*leave));
        }
    }

    fn may_leave(&self) {
        *self.leave.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.left.notify_all();
    }
}

impl Ending for Wire {
    /// The launcher may end the job before it has read what was printed. It reads the output of its processes in order: once
    /// it has answered a question that was sent afterwards, it has read that output too.
    fn abort(&self, code: u8) {
        self.ask_at_last(Request::Maxes);
        // If the launcher is gone, this process ends anyway.
        let _ = self.say(Request::Abort { code });
    }

    fn finish(&self) {
        self.ask_at_last(Request::Finalize);
    }
}

fn gone() -> TransportError {
    TransportError::Startup("the launcher is gone".to_owned())
}

fn out_of_turn(reply: &Reply) -> TransportError {
    TransportError::Startup(format!("the launcher sent an unexpected answer: {reply:?}"))
}

#[cfg(test)]
#[path = "pmi1/tests.rs"]
pub(super) mod tests;
