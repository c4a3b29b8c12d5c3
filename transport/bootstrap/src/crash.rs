//! Reports which PE received a fatal signal (an access outside memory, a stack overflow, an abort). Then the signal takes its normal course, so that the exit
//! status and the core file are the same as without this handler. There is one exception: a process that crashes because it has reached its limit on
//! addresses (`ulimit -v`). A necessary allocation failed, here or in a library, so it ends with 71 and names the limit.
//!
//! The handler runs in a broken process: it uses no memory, no lock and no buffer, only a message of fixed size on the
//! launcher's channel, or, without a launcher, a line written directly to standard error. A stack overflow leaves no stack to run
//! on: the standard library gives its own threads an alternative one, and the handler requests it.

use std::cell::Cell;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use super::channel::Channel;
use super::wire::{Fault, ToLauncher};
use super::{Control, host_name};
use charm4rs_transport_core::Pe;

thread_local! {
    /// A label for the handler only: no code of the runtime depends on it.
    static THREAD_PE: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// What the handler needs, made before anything is broken. The first job of a process keeps it.
static LINE: OnceLock<Line> = OnceLock::new();

struct Line {
    /// Keeps the channel open.
    control: Control,
    host: String,
    /// The process for which it reports: a forked child of it is not part of the job.
    pid: u32,
    /// If there is a limit on addresses: the report about a process that has reached it.
    starved: Option<Starved>,
}

/// A process that crashes for lack of memory ends with this code, and not by a signal.
const STARVED: u8 = 71;
/// A process that cannot map this many more bytes has reached its limit: libraries ask for pieces of this size.
const PIECE: usize = 64 << 20;

struct Starved {
    what: String,
    /// The same report as a packet for the launcher, without the PE.
    packet: Vec<u8>,
}

impl Starved {
    fn new() -> Option<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
        let what = format!(
            "out of memory: it crashed with less than {} MiB left of its addresses (ulimit -v is {} KiB; raise it)",
            PIECE >> 20,
            limit >> 10
        );
        let packet = ToLauncher::Abort { code: STARVED, pe: None, what: what.clone() }.encode();
        Some(Self { what, packet })
    }
}

/// Whether this process has reached its limit on addresses. Safe in a signal handler.
fn is_starved() -> bool {
    // SAFETY: a mapping at an address that the kernel chooses, which is not accessed; it is unmapped at once.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let at = libc::mmap(std::ptr::null_mut(), PIECE, libc::PROT_NONE, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return true;
        }
        libc::munmap(at, PIECE);
    }
    false
}

/// Records that this thread runs a PE, for the crash message.
pub fn this_thread_is(pe: Pe) {
    THREAD_PE.set(pe.0);
}

/// Installs the handler. Signals that already have a handler are left alone, except for the standard library's
/// handler that reports stack overflows, which this one replaces.
pub(super) fn watch(control: &Control) {
    let line = Line { control: control.clone(), host: host_name(), pid: std::process::id(), starved: Starved::new() };
    if LINE.set(line).is_err() {
        return;
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
        // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: `action` is initialized, and `on_fault` has the signature that SA_SIGINFO requires and calls only
        // what is safe in a signal handler.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// Makes a write fail, instead of ending the process, if the reader of the pipe is gone or the file has reached its maximum length. A handler
/// that does nothing achieves that, and programs that this process starts do not inherit it. A handler that is already installed
/// stays.
pub(super) fn survive_writes() {
    extern "C" fn nothing(_: libc::c_int) {}
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: all-zero is a valid `sigaction`, for the call to fill and for a handler without flags; the pointers are to live locals;
        // the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_DFL {
                let handler: extern "C" fn(libc::c_int) = nothing;
                action.sa_sigaction = handler as libc::sighandler_t;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// SA_RESETHAND has restored the default action before this runs: a second fault in here ends the process.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // Sent by a process, not raised by an instruction.
    let sent = info.si_code <= 0;
    let address = match signal {
        // SAFETY: for these signals, when raised by an instruction, the kernel fills this field.
        libc::SIGSEGV | libc::SIGBUS if !sent => unsafe { info.si_addr() as u64 },
        _ => 0,
    };
    // SAFETY: the kernel passes the interrupted thread's context.
    let sp = unsafe { stack_pointer(context) };
    let stack = signal == libc::SIGSEGV && !sent && address.abs_diff(sp) < 64 << 10;
    let pe = THREAD_PE.try_with(Cell::get).ok().filter(|pe| *pe != u32::MAX);
    // SAFETY: the kernel fills this field for signals that a process sends.
    let own = !sent || unsafe { info.si_pid() }.cast_unsigned() == std::process::id();
    if let Some(line) = LINE.get().filter(|line| line.pid == std::process::id())
        && let Some(starved) = &line.starved
        && own
        && !stack
        && is_starved()
    {
        tell_starved(line, starved, pe);
        // SAFETY: `_exit` is safe in a signal handler.
        unsafe { libc::_exit(STARVED.into()) }
    }
    tell(&Fault { signal: u8::try_from(signal).unwrap_or(0), pe, address, stack });
    charm4rs_transport_core::library_log::show_rest();
    if sent {
        // Returning would continue as if nothing had happened. The raised signal has its default action as soon as this handler returns.
        // SAFETY: `raise` is safe in a signal handler.
        unsafe { libc::raise(signal) };
    }
}

fn tell(fault: &Fault) {
    let Some(line) = LINE.get().filter(|line| line.pid == std::process::id()) else { return };
    if let Some(channel) = line.control.channel() {
        return send(channel, &fault.encode());
    }
    let code = 128u32 + u32::from(fault.signal);
    say(line, code, fault.pe, format_args!("killed by signal {}{}", fault.signal, fault.why()));
}

fn tell_starved(line: &Line, starved: &Starved, pe: Option<u32>) {
    let Some(channel) = line.control.channel() else {
        return say(line, STARVED.into(), pe, format_args!("{}", starved.what));
    };
    let mut packet = [0; 512];
    let len = starved.packet.len().min(packet.len());
    packet[..len].copy_from_slice(&starved.packet[..len]);
    if let Some(pe) = pe {
        packet[ToLauncher::ABORTS_PE].copy_from_slice(&pe.to_le_bytes());
    }
    send(channel, &packet[..len]);
}

fn send(channel: &Channel, packet: &[u8]) {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the buffer is valid for its length; `send` is safe in a signal handler.
    unsafe { libc::send(channel.as_fd().as_raw_fd(), packet.as_ptr().cast(), packet.len(), flags) };
}

/// Prints why the job ends, if no launcher of ours prints it.
fn say(line: &Line, code: u32, pe: Option<u32>, what: std::fmt::Arguments<'_>) {
    if let Some(token) = line.control.site().and_then(super::site::Line::token) {
        let mut count = 0u64;
        // SAFETY: the buffer has the eight bytes that are read; `read` is safe in a signal handler.
        if unsafe { libc::read(token, (&raw mut count).cast(), size_of_val(&count)) } < 0 {
            // Another process of this host has already reported why the job ends.
            return;
        }
    }
    let mut text = Fixed { bytes: [0; 512], len: 0 };
    let _ = write!(text, "charmrun: error[{code}]: {what}, pe=");
    let _ = match pe {
        Some(pe) => write!(text, "{pe}"),
        None => text.write_str("-"),
    };
    let _ = writeln!(text, " host={} pid={}", line.host, std::process::id());
    // SAFETY: the buffer is valid for its length; `write` is safe in a signal handler.
    unsafe { libc::write(libc::STDERR_FILENO, text.bytes.as_ptr().cast(), text.len) };
}

impl Fault {
    /// The meaning of the signal, as an addition to its number.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match i32::from(self.signal) {
            _ if self.stack => " (stack overflow)",
            libc::SIGSEGV => " (access outside memory)",
            libc::SIGBUS => " (bus error: a mapped file ended, or memory is full)",
            libc::SIGILL => " (illegal instruction)",
            libc::SIGFPE => " (arithmetic)",
            libc::SIGABRT => " (aborted)",
            _ => "",
        }
    }
}

/// # Safety
/// `context` is what the kernel passed to a signal handler.
unsafe fn stack_pointer(context: *mut libc::c_void) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: by the caller's promise it points to a `ucontext_t`.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        context.uc_mcontext.gregs[libc::REG_RSP as usize].cast_unsigned()
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: by the caller's promise it points to a `ucontext_t`.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        context.uc_mcontext.sp
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        // On this architecture a stack overflow is reported as any other bad access.
        let _ = context;
        0
    }
}

/// # Safety
/// As for [`stack_pointer`].
pub(super) unsafe fn program_counter(context: *mut libc::c_void) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: by the caller's promise it points to a `ucontext_t`.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        usize::try_from(context.uc_mcontext.gregs[libc::REG_RIP as usize].cast_unsigned()).unwrap_or(0)
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: by the caller's promise it points to a `ucontext_t`.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        usize::try_from(context.uc_mcontext.pc).unwrap_or(0)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        0
    }
}

/// A text of fixed capacity: it needs no allocation, and cuts what does not fit.
struct Fixed {
    bytes: [u8; 512],
    len: usize,
}

impl std::fmt::Write for Fixed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}
