//! A process that a launcher started. It inherits one end of a socket pair, on which it learns its place in the job.
//!
//! A thread listens to the launcher for as long as the process lives. It passes answers to the thread that asked, passes
//! orders on, and ends the process, with all that it started, as soon as the launcher is gone. So no part of
//! a job outlives its launcher, whatever the process's other threads are doing.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::alone::{check_put, nothing_there};
use super::channel::Channel;
use super::wire::{FDS_MAX, PACKET_MAX, ToLauncher, ToProcess, VERSION, Welcome, WireError};
use super::{Bootstrap, Control, Order, sys};
use charm4rs_transport_core::auth::{JobId, Secret};
use charm4rs_transport_core::{Layout, TransportError};

/// The inherited descriptor, as `NUMBER:INODE`. The inode distinguishes it from another descriptor of that number in a
/// program that was started without the launcher's knowledge.
pub const VARIABLE: &str = "CHARM4RS_BOOT";

/// A process's place in a launcher's job.
#[derive(Debug)]
pub struct Launched {
    welcome: Box<Welcome>,
    answers: Receiver<Answer>,
    control: Control,
}

#[derive(Debug)]
enum Answer {
    Fenced,
    Value(Option<Vec<u8>>),
    Fds {
        rank: u32,
        fds: Vec<OwnedFd>,
        more: bool,
    },
    /// Descriptors came, and this process has no capacity for them.
    NoRoom,
}

impl Launched {
    /// The channel to the launcher that started this process; `None`: no launcher did. Call it once.
    ///
    /// # Errors
    /// If the descriptor is not there.
    pub(super) fn line() -> Result<Option<Channel>, TransportError> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let named = text
            .to_str()
            .and_then(|t| t.split_once(':'))
            .and_then(|(fd, ino)| Some((fd.parse().ok()?, ino.parse().ok()?)));
        let Some(socket) = named.and_then(|(fd, inode)| sys::inherited(fd, Some(inode))) else {
            return Err(TransportError::Startup(format!(
                "{VARIABLE} is {}, but there is no such descriptor: did a wrapper close it? Unset it to run alone",
                text.display()
            )));
        };
        sys::forget_variable(VARIABLE);
        Ok(Some(socket.into()))
    }

    /// Joins the job of the launcher at the other end of `line`.
    ///
    /// # Errors
    /// If the launcher is gone or sends something invalid, or a thread cannot be started. The error comes with the channel on which to report it.
    pub(super) fn join(line: Channel) -> Result<Self, (TransportError, Control)> {
        let mut buf = vec![0; PACKET_MAX];
        let welcome = match Self::be_welcomed(&line, &mut buf) {
            Ok(welcome) => welcome,
            Err(error) => return Err((error, Control::new(Some(line), false))),
        };
        let quiet = welcome.options.iter().any(|(name, _)| name == "quiet");
        let control = Control::new(Some(line), quiet);
        let (tell, answers) = channel();
        let (listener, group) = (control.clone(), welcome.group);
        match super::listener("charm4rs-control", move || listen(&listener, &tell, group, buf)) {
            Ok(()) => Ok(Self { welcome, answers, control }),
            Err(error) => Err((error, control)),
        }
    }

    fn be_welcomed(line: &Channel, buf: &mut [u8]) -> Result<Box<Welcome>, TransportError> {
        let packet = line.recv(buf).map_err(|e| TransportError::system("recvmsg", e))?;
        let first = buf.get(..packet.len).unwrap_or_default();
        let welcome = match ToProcess::decode(first) {
            Ok(ToProcess::Welcome(welcome)) => welcome,
            Ok(_) => {
                return Err(TransportError::Startup("the first message of the launcher was not a welcome".to_owned()));
            }
            Err(_) if first.is_empty() => return Err(gone()),
            Err(error) => {
                // The launcher recognizes packets of other versions too, and reports the difference for all processes.
                let _ = line.send(&ToLauncher::Join { rank: 0, pid: std::process::id() }.encode(), &[]);
                return Err(not_understood(error));
            }
        };
        // Wipes the secret that passed through this buffer.
        buf.fill(0);
        std::hint::black_box(&buf);
        let join = ToLauncher::Join { rank: welcome.rank, pid: std::process::id() };
        line.send(&join.encode(), &[]).map_err(|_| gone())?;
        Ok(welcome)
    }

    fn send(&self, message: &ToLauncher, fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        let channel = self.control.channel().expect("a launched process has a channel");
        channel.send(&message.encode(), fds).map_err(|_| gone())
    }

    fn answer(&self) -> Result<Answer, TransportError> {
        self.answers.recv().map_err(|_| gone())
    }

    fn value(&self, rank: u32, key: &str) -> Result<Vec<u8>, TransportError> {
        match self.answer()? {
            Answer::Value(Some(value)) => Ok(value),
            Answer::Value(None) => Err(nothing_there(rank, key)),
            _ => Err(out_of_turn()),
        }
    }

    fn ask(&self, rank: u32, key: &str) -> Result<(), TransportError> {
        check_put(key, &[])?;
        self.send(&ToLauncher::Get { rank, key: key.to_owned() }, &[])
    }
}

impl Bootstrap for Launched {
    fn rank(&self) -> u32 {
        self.welcome.rank
    }

    fn layout(&self) -> &Layout {
        &self.welcome.layout
    }

    fn job_id(&self) -> JobId {
        self.welcome.job
    }

    fn secret(&self) -> &Secret {
        &self.welcome.secret
    }

    fn toward(&self) -> &[String] {
        &self.welcome.toward
    }

    fn options(&self) -> &[(String, String)] {
        &self.welcome.options
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError> {
        check_put(key, value)?;
        self.send(&ToLauncher::Put { key: key.to_owned(), value: value.to_owned() }, &[])
    }

    fn fence(&mut self) -> Result<(), TransportError> {
        self.send(&ToLauncher::Fence, &[])?;
        match self.answer()? {
            Answer::Fenced => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    fn get(&mut self, rank: u32, key: &str) -> Result<Vec<u8>, TransportError> {
        self.ask(rank, key)?;
        self.value(rank, key)
    }

    fn get_all(&mut self, key: &str) -> Result<Vec<Vec<u8>>, TransportError> {
        // Asks ahead, so that the launcher never waits for this process, but not so far that the answers fill the socket.
        const AHEAD: u32 = 16;
        let size = self.size();
        (0..AHEAD.min(size)).try_for_each(|rank| self.ask(rank, key))?;
        // All answers are received even after an error, or the next question would get one of these.
        let values: Vec<_> = (0..size)
            .map(|rank| {
                let value = self.value(rank, key);
                if rank + AHEAD < size {
                    self.ask(rank + AHEAD, key)?;
                }
                value
            })
            .collect();
        values.into_iter().collect()
    }

    fn share_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError> {
        let mut chunks = fds.chunks(FDS_MAX).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let count = u16::try_from(chunk.len()).expect("at most FDS_MAX");
            let more = chunks.peek().is_some();
            self.send(&ToLauncher::Share { count, more }, chunk)?;
            if !more {
                break;
            }
        }
        let host = self.welcome.layout.processes_of(self.welcome.layout.host_of(self.welcome.rank));
        let mut shared: Vec<Vec<OwnedFd>> = host.clone().map(|_| Vec::new()).collect();
        let mut missing = host.len() - 1;
        while missing > 0 {
            match self.answer()? {
                Answer::Fds { rank, fds, more } if host.contains(&rank) => {
                    shared[(rank - host.start) as usize].extend(fds);
                    missing -= usize::from(!more);
                }
                Answer::NoRoom => return Err(no_descriptors(fds.len() * host.len())),
                _ => return Err(out_of_turn()),
            }
        }
        let own = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<Result<_, _>>();
        shared[(self.welcome.rank - host.start) as usize] = own.map_err(|_| no_descriptors(fds.len() * host.len()))?;
        Ok(shared)
    }

    fn control(&self) -> Control {
        self.control.clone()
    }
}

/// The main loop of the listening thread.
fn listen(control: &Control, tell: &Sender<Answer>, group: u32, mut buf: Vec<u8>) {
    let channel = control.channel().expect("a launched process has a channel");
    loop {
        let packet = match channel.recv(&mut buf) {
            Ok(packet) if packet.len > 0 => packet,
            _ => end_with_the_launcher(group),
        };
        let message = match buf.get(..packet.len).map(ToProcess::decode) {
            Some(Ok(message)) if !packet.cut || matches!(message, ToProcess::Fds { .. }) => message,
            Some(Err(error)) => control.abort(76, None, &not_understood(error).to_string()),
            _ => control.abort(76, None, "a packet of the launcher was cut"),
        };
        let answer = match message {
            ToProcess::Fenced => Answer::Fenced,
            ToProcess::Value(value) => Answer::Value(value),
            ToProcess::Fds { rank, count, more } if packet.fds.len() == usize::from(count) => {
                Answer::Fds { rank, fds: packet.fds, more }
            }
            ToProcess::Fds { .. } => Answer::NoRoom,
            ToProcess::Stop(signal) => {
                control.order(Order::Stop { signal });
                continue;
            }
            ToProcess::Kill => {
                control.order(Order::Kill);
                continue;
            }
            ToProcess::Stacks => {
                control.order(Order::Stacks);
                continue;
            }
            ToProcess::Ping(n) => {
                // If it cannot be sent, the next receive gives the reason.
                let _ = channel.send(&ToLauncher::Pong(n).encode(), &[]);
                continue;
            }
            ToProcess::Welcome(_) => control.abort(76, None, "the launcher sent two welcomes"),
        };
        // There may be no receiver any more.
        let _ = tell.send(answer);
    }
}

/// Ends this process and, if the launcher made a process group for it, all that it started.
fn end_with_the_launcher(group: u32) -> ! {
    let own = rustix::process::getpgrp();
    if u32::try_from(own.as_raw_nonzero().get()).is_ok_and(|own| own == group) {
        let _ = rustix::process::kill_process_group(own, rustix::process::Signal::KILL);
    }
    sys::end_process(69)
}

fn gone() -> TransportError {
    TransportError::Startup("the launcher is gone".to_owned())
}

fn out_of_turn() -> TransportError {
    TransportError::Startup("the launcher sent an unexpected answer".to_owned())
}

fn not_understood(error: WireError) -> TransportError {
    match error {
        WireError::Version(theirs) => TransportError::Version {
            what: "the version of the launcher's protocol",
            ours: VERSION.to_string(),
            theirs: theirs.to_string(),
        },
        error => TransportError::Startup(format!("the launcher cannot be understood: {error}")),
    }
}

fn no_descriptors(need: usize) -> TransportError {
    TransportError::Resource {
        what: "file descriptors",
        need: format!("{need} more"),
        advice: "raise the limit with ulimit -n",
    }
}
