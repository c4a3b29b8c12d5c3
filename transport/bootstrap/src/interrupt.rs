//! Asks a thread of this process what it is doing, even if it is in an endless loop or waits for a lock that is never released.
//!
//! # How
//! A thread that may be asked takes a [`Seat`]. The asker sends a signal to that thread and waits, for a bounded time. The
//! thread's signal handler writes the answer into the seat, and returns to what the thread did. So the thread itself reads its own
//! state, which cannot change meanwhile, and nothing on its normal path costs anything.
//!
//! The handler uses no memory and no lock, and returns. System calls of the thread continue afterwards, except for the few that always end with `EINTR`. It
//! calls only the owner's `look`, which must be as careful. On request it also walks the stack, with the unwinder that panics use. The unwinder does not
//! allocate, but if the C library is older than 2.35 it takes the dynamic linker's lock, which the thread may hold. That is why a stack is requested only
//! when the job ends anyway, and why the asker does not wait indefinitely. The asker resolves the addresses to names on its own thread.
//!
//! # Who may access the seat
//! The asker moves `state` from `FREE` to `ASKED` (one asker at a time: it holds `asking`), the handler moves it to `ANSWERED`, and the
//! asker moves it back to `FREE`. The answer belongs to the handler while `ASKED`, and to the asker while `ANSWERED`; each passes it on by a
//! release that the other acquires. A thread that has not answered in time may still answer later: until then it is not asked again.

use std::cell::{Cell, UnsafeCell};
use std::fmt::{self, Write as _};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Capacity for what the owner's `look` writes, in bytes.
pub const NOTE: usize = 64;
/// The number of innermost frames that are recorded; the others are left out.
const FRAMES: usize = 128;
/// The time between two checks for an answer.
const PAUSE: Duration = Duration::from_millis(1);

const FREE: u8 = 0;
const ASKED: u8 = 1;
const ANSWERED: u8 = 2;

/// What the owner's `look` writes: a word and bytes. The owner defines their meaning.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// 0 if there is nothing to report.
    pub word: usize,
    /// Bytes that belong to the word.
    pub bytes: [MaybeUninit<u8>; NOTE],
}

impl Note {
    const EMPTY: Self = Self { word: 0, bytes: [MaybeUninit::uninit(); NOTE] };
}

struct Slot {
    thread: libc::pid_t,
    look: fn(&mut Note),
    state: AtomicU8,
    wants_stack: AtomicBool,
    answer: UnsafeCell<Answer>,
    asking: Mutex<()>,
}

// SAFETY: all but `answer` is `Sync`, and that has one owner at a time; see the module's text.
unsafe impl Sync for Slot {}

struct Answer {
    note: Note,
    frames: [usize; FRAMES],
    count: usize,
    /// The address of the interrupted instruction.
    at: usize,
}

thread_local! {
    /// The handler finds its thread's seat here. There is no destructor, so it can be read whenever a signal comes.
    static SLOT: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

/// A thread that can be asked, shared by all threads that may ask. Its memory is never freed: it is meant for threads that run long.
#[derive(Clone, Copy)]
pub struct Seat(&'static Slot);

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Seat").field(&self.0.thread).finish()
    }
}

/// The answer of a thread.
#[derive(Clone, Debug)]
pub struct Told {
    /// What its `look` wrote.
    pub note: Note,
    /// Its stack, innermost first.
    frames: Vec<usize>,
}

/// Makes a seat for this thread.
///
/// # Safety
/// `look` is called in a signal handler, between any two instructions of this thread: it must do nothing that is not safe there. In
/// particular it must not allocate, lock or panic, and must read only what this thread may read at any time.
pub unsafe fn sit(look: fn(&mut Note)) -> Seat {
    static ONCE: Once = Once::new();
    ONCE.call_once(install);
    let slot: &'static Slot = Box::leak(Box::new(Slot {
        thread: rustix::thread::gettid().as_raw_nonzero().get(),
        look,
        state: AtomicU8::new(FREE),
        wants_stack: AtomicBool::new(false),
        answer: UnsafeCell::new(Answer { note: Note::EMPTY, frames: [0; FRAMES], count: 0, at: 0 }),
        asking: Mutex::new(()),
    }));
    SLOT.set(Some(slot));
    Seat(slot)
}

/// A signal that has no other use: neither one that the C library reserves, nor one of the first ones, which programs use.
fn signal() -> libc::c_int {
    libc::SIGRTMAX() - 3
}

fn install() {
    // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_question;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `action` is initialized, and `on_question` has the signature that SA_SIGINFO requires and calls only what is
    // safe in a signal handler; the owner of `look` promises the same.
    unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
}

extern "C" fn on_question(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Ok(Some(slot)) = SLOT.try_with(Cell::get) else { return };
    if slot.state.load(Ordering::Acquire) != ASKED {
        return;
    }
    // SAFETY: `errno` belongs to this thread; the interrupted code must find it unchanged.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: while ASKED the answer belongs to this handler, which the same signal does not interrupt.
    let answer = unsafe { &mut *slot.answer.get() };
    answer.note = Note::EMPTY;
    (slot.look)(&mut answer.note);
    answer.count = 0;
    // SAFETY: the kernel passes the interrupted thread's context.
    answer.at = unsafe { super::crash::program_counter(context) };
    if slot.wants_stack.load(Ordering::Relaxed) {
        // SAFETY: this is not synchronized with other walks through the same library, but the parts of it that are used here keep no state.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                answer.frames[answer.count] = frame.ip().addr();
                answer.count += 1;
                answer.count < FRAMES
            });
        }
    }
    slot.state.store(ANSWERED, Ordering::Release);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

impl Seat {
    /// Asks, and waits for the answer, but no longer than `limit`. `None`: the thread has ended, blocks the signal, or has
    /// not answered an earlier question.
    #[must_use]
    pub fn ask(&self, stack: bool, limit: Duration) -> Option<Told> {
        let slot = self.0;
        let _one = slot.asking.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.state.load(Ordering::Acquire) {
            ASKED => return None,
            ANSWERED => slot.state.store(FREE, Ordering::Relaxed), // to an earlier question whose asker has given up
            _ => {}
        }
        slot.wants_stack.store(stack, Ordering::Relaxed);
        slot.state.store(ASKED, Ordering::Release);
        // SAFETY: `tgkill` takes three numbers, and fails if there is no such thread. (By now another thread of
        // this process may have the number: its seat is not in state ASKED, so its handler does nothing.)
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), slot.thread, signal()) };
        if sent != 0 {
            slot.state.store(FREE, Ordering::Relaxed);
            return None;
        }
        let since = Instant::now();
        while slot.state.load(Ordering::Acquire) != ANSWERED {
            if since.elapsed() > limit {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
        // SAFETY: while ANSWERED the answer belongs to the asker, which is the holder of `asking`.
        let answer = unsafe { &*slot.answer.get() };
        let mut frames = answer.frames[..answer.count].to_vec();
        // Skips the frames of the handler.
        if let Some(first) = frames.iter().position(|frame| *frame == answer.at) {
            frames.drain(..first);
        }
        let told = Told { note: answer.note, frames };
        slot.state.store(FREE, Ordering::Relaxed);
        Some(told)
    }
}

impl Told {
    /// The stack as text, innermost frame first, down to the first function whose name `ends` it.
    #[must_use]
    pub fn stack(&self, ends: &dyn Fn(&str) -> bool) -> String {
        let mut text = String::new();
        let mut ended = false;
        for (at, &frame) in self.frames.iter().enumerate() {
            // The innermost address is that of an instruction; all others are return addresses behind a call.
            let address = std::ptr::without_provenance_mut(frame + usize::from(at == 0));
            let mut known = false;
            backtrace::resolve(address, |symbol| {
                let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
                ended |= ends(&name);
                if ended {
                    return;
                }
                known = true;
                let _ = writeln!(text, "    {name}");
                if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
                    let _ = writeln!(text, "        at {}:{line}", file.display());
                }
            });
            if ended {
                break;
            }
            if !known {
                let _ = writeln!(text, "    {frame:#x}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    thread_local! {
        static WORD: Cell<usize> = const { Cell::new(0) };
    }

    fn look(note: &mut Note) {
        note.word = WORD.get();
        note.bytes[0].write(7);
    }

    #[inline(never)]
    fn spins(until: &AtomicBool) {
        while !until.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }

    /// A thread that runs `work` after it has sent its seat.
    fn seated(work: impl FnOnce() + Send + 'static) -> (Seat, std::thread::JoinHandle<()>) {
        let (say, said) = channel();
        let thread = std::thread::spawn(move || {
            WORD.set(42);
            // SAFETY: `look` only reads a thread-local number.
            say.send(unsafe { sit(look) }).unwrap();
            work();
        });
        (said.recv().unwrap(), thread)
    }

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_spinning_thread_reports_what_it_does_and_where_and_continues() {
        let until = Arc::new(AtomicBool::new(false));
        let (seat, thread) = seated({
            let until = until.clone();
            move || spins(&until)
        });
        let stack = loop {
            let told = seat.ask(true, LIMIT).unwrap();
            // SAFETY: `look` has written it.
            assert_eq!((told.note.word, unsafe { told.note.bytes[0].assume_init() }), (42, 7));
            // The thread may not have come there yet.
            let stack = told.stack(&|_| false);
            if stack.contains("spins\n") {
                break stack;
            }
        };
        assert!(stack.contains("interrupt.rs:"), "{stack}");
        assert_eq!(seat.ask(false, LIMIT).unwrap().stack(&|_| false), "", "there is no stack unless it is requested");
        until.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert!(seat.ask(true, LIMIT).is_none(), "it has ended");
    }

    #[test]
    fn a_thread_that_sleeps_in_the_kernel_answers_and_continues_to_sleep() {
        let (wake, woken) = channel::<()>();
        let (seat, thread) = seated(move || woken.recv().unwrap());
        for _ in 0..100 {
            assert_eq!(seat.ask(true, LIMIT).unwrap().note.word, 42);
        }
        wake.send(()).unwrap();
        thread.join().unwrap();
    }
}
