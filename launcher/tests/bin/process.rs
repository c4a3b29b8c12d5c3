//! The program that the tests start as the processes of a job: it joins, and does what its first argument says.

#![allow(clippy::print_stdout, reason = "it is a program, and what it prints is what the tests read")]

use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use charm4rs_bootstrap as bootstrap;
use charm4rs_bootstrap::{Bootstrap, Control, Found, Order, Report, crash};
use charm4rs_transport_core::Pe;

fn main() -> ExitCode {
    let environment = std::env::vars_os().map(|(name, _)| name).collect::<Vec<_>>();
    let found = match bootstrap::find(std::env::args_os().skip(1)) {
        Ok(found) => found,
        Err(error) => return ExitCode::from(error.code()),
    };
    crash::this_thread_is(Pe(found.boot.layout().pes_of(found.boot.rank()).start));
    let args: Vec<String> = found.args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let Some((what, args)) = args.split_first() else { return ExitCode::from(64) };
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<u32>().ok()).unwrap_or(0);
    let Found { mut boot, options, .. } = found;
    let control = boot.control();
    let boot = &mut *boot;
    let (rank, size) = (boot.rank(), boot.size());
    match &**what {
        // Prints its place in the job.
        "where" => {
            let pes = boot.layout().pes_of(rank);
            println!("{rank}/{size} {pes:?} {}", options.seed.unwrap_or(0));
            println!("args {args:?}");
        }
        "exchange" => exchange(boot),
        "share" => share(boot, number(0)),
        // All processes fence; then the process whose rank is the first argument fails, and the others wait forever.
        "exit" => return end_all(boot, &control, number(0)),
        "hard-exit" => one(boot, number(0), || std::process::exit(args[1].parse().expect("a code"))),
        "kill" => one(boot, number(0), || signal(rustix::process::Signal::KILL)),
        "stop" => one(boot, number(0), || signal(rustix::process::Signal::STOP)),
        "segv" => one(boot, number(0), read_nowhere),
        "overflow" => one(boot, number(0), || println!("{}", overflow(1))),
        "abort" => one(boot, number(0), || control.abort(1, Some(Pe(rank)), "it broke: here\n  at a\n  at b")),
        // Two processes fail at once, in the two ways in which one failure becomes visible.
        "lost-peer" => lost_peer(boot, &control),
        "lines" => lines(rank, number(0), number(1)),
        "endless" => loop {
            println!("{rank} is still here");
        },
        "warn" => control.report(Report::Warning("mind this".to_owned())),
        "never-joins-the-fence" if rank == 1 => forever(),
        "never-joins-the-fence" => boot.fence().expect("a fence"),
        // Leaves children behind: one in its group, and one with a session of its own.
        "children" => {
            child("sleep", &["1000.25"]);
            child("setsid", &["sleep", "1000.25"]);
            boot.fence().expect("a fence");
        }
        "children-in-group" => {
            child("sleep", &["1000.25"]);
            println!("ready");
            forever();
        }
        "children-in-session" => {
            child("setsid", &["sleep", "1000.25"]);
            println!("ready");
            forever();
        }
        "ready" => {
            println!("ready {}", std::process::id());
            forever();
        }
        // Takes an interrupt, and another one when it has handled the first.
        "interruptible" if rank == 1 => take_interrupts(&control),
        "interruptible" => {
            println!("ready");
            forever();
        }
        // Ignores the request to end.
        "stubborn" => {
            control.on_order(move |order| println!("{rank} heard {order:?}"));
            for signal in [libc::SIGINT, libc::SIGTERM] {
                // SAFETY: ignoring a signal has no precondition.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            println!("ready {}", std::process::id());
            forever();
        }
        "obeys" => {
            control.on_order(|order| {
                if let Order::Stop { signal } = order {
                    println!("stops by {signal}");
                    std::process::exit(0);
                }
            });
            // SAFETY: ignoring a signal has no precondition.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
            println!("ready");
            forever();
        }
        "read" => {
            let text = std::io::read_to_string(std::io::stdin()).expect("standard input");
            println!("{rank} read {}", text.trim_end());
        }
        "prompt" => {
            print!("name? ");
            std::io::stdout().flush().expect("a pipe");
            let mut name = String::new();
            std::io::stdin().read_line(&mut name).expect("standard input");
            println!("hello {}", name.trim_end());
        }
        "fds" => {
            for fd in std::fs::read_dir("/proc/self/fd").expect("proc") {
                let path = fd.expect("an entry").path();
                let to = std::fs::read_link(&path).expect("a link");
                println!("{} {}", path.file_name().expect("a number").display(), to.display());
            }
        }
        "secret" => secret(boot, &environment),
        _ => return ExitCode::from(64),
    }
    control.report(Report::Exit { code: 0 });
    ExitCode::SUCCESS
}

fn end_all(boot: &mut dyn Bootstrap, control: &Control, code: u32) -> ExitCode {
    boot.fence().expect("a fence");
    let code = i32::try_from(code).expect("small");
    if boot.rank() == 0 {
        control.report(Report::Exit { code });
    }
    // When one process reports the end, all have heard of it by the time that they end.
    boot.fence().expect("a fence");
    ExitCode::from(u8::try_from(code & 0xff).expect("masked"))
}

/// Calls `act` on `rank` only, after all have joined; the others wait.
fn one(boot: &mut dyn Bootstrap, rank: u32, act: impl FnOnce()) {
    boot.fence().expect("a fence");
    if boot.rank() == rank {
        act();
    }
    forever();
}

/// Handles two interrupts, and ignores later ones.
fn take_interrupts(control: &Control) -> ! {
    static COME: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handle(_: libc::c_int) {
        COME.fetch_add(1, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = handle;
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
    control.report(Report::TakesInterrupt);
    println!("ready");
    for come in 1.. {
        while COME.load(Ordering::Relaxed) < come {
            std::thread::yield_now();
        }
        if come <= 2 {
            control.report(Report::TakesInterrupt);
        }
        println!("interrupt {come}");
    }
    unreachable!("interrupts are few")
}

fn forever() {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn signal(signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
}

fn read_nowhere() {
    let nowhere = std::hint::black_box(0x1000 as *const u8);
    // SAFETY: none: this is the crash that the test is about.
    println!("{}", unsafe { nowhere.read_volatile() });
}

#[allow(unconditional_recursion, reason = "this is the crash that the test is about")]
fn overflow(n: u64) -> u64 {
    let block = std::hint::black_box([n; 64]);
    overflow(block[3] + 1) + block[7]
}

/// Process 0 dies, and process 1 reports it before the launcher can know of it: the launcher is its parent, but its pipe closes first.
fn lost_peer(boot: &mut dyn Bootstrap, control: &Control) {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let shared = boot.share_fds(&[reader.as_fd(), writer.as_fd()]).expect("shared");
    drop((reader, writer));
    let rank = boot.rank();
    let mut keep = Vec::new();
    for (r, mut fds) in (0..).zip(shared) {
        let writer = fds.pop().expect("two");
        let reader = fds.pop().expect("two");
        // Only process 0 keeps the writing end of its pipe.
        if r == 0 && rank == 0 {
            keep.push(writer);
        } else if r == 0 {
            keep.push(reader);
        }
    }
    boot.fence().expect("a fence");
    if rank == 0 {
        signal(rustix::process::Signal::KILL);
    }
    let _ = rustix::io::read(&keep[0], &mut [0; 1]);
    control.abort(69, Some(Pe(rank)), "lost contact with PE 0");
}

fn exchange(boot: &mut dyn Bootstrap) {
    let (rank, size) = (boot.rank(), boot.size());
    for round in 0..3 {
        let key = format!("key{round}");
        boot.put(&key, format!("value {rank}.{round}").as_bytes()).expect("put");
        boot.fence().expect("a fence");
        let all: Vec<_> = (0..size).map(|r| format!("value {r}.{round}").into_bytes()).collect();
        assert_eq!(boot.get_all(&key).expect("get_all"), all);
        assert_eq!(boot.get((rank + 1) % size, &key).expect("get"), all[((rank + 1) % size) as usize]);
    }
    boot.put("big", &vec![7; bootstrap::VALUE_MAX]).expect("put");
    boot.fence().expect("a fence");
    assert_eq!(boot.get_all("big").expect("get_all"), vec![vec![7; bootstrap::VALUE_MAX]; size as usize]);
    assert!(boot.get(0, "nothing").is_err());
    println!("{rank} exchanged");
}

/// Every process shares its rank + `base` pipes with those of its host, and reads what the others wrote into theirs.
fn share(boot: &mut dyn Bootstrap, base: u32) {
    let (rank, size) = (boot.rank(), boot.size());
    let host = boot.layout().processes_of(boot.layout().host_of(rank));
    for _ in 0..2 {
        let pipes: Vec<_> = (0..rank + base).map(|_| rustix::pipe::pipe().expect("a pipe")).collect();
        for (i, (_, writer)) in (0u32..).zip(&pipes) {
            let text = [rank, i].map(|n| u8::try_from(n & 0xff).expect("masked")).repeat(size as usize);
            rustix::io::write(writer, &text).expect("room");
        }
        let fds: Vec<_> = pipes.iter().map(|(reader, _)| reader.as_fd()).collect();
        let shared = boot.share_fds(&fds).expect("shared");
        assert_eq!(
            shared.iter().map(Vec::len).collect::<Vec<_>>(),
            host.clone().map(|r| (r + base) as usize).collect::<Vec<_>>()
        );
        for (r, fds) in host.clone().zip(&shared) {
            for (i, fd) in (0u32..).zip(fds) {
                let mut text = [0; 2];
                assert_eq!(rustix::io::read(fd, &mut text), Ok(2));
                assert_eq!(text.map(u32::from), [r & 0xff, i & 0xff]);
                assert!(rustix::io::fcntl_getfd(fd).expect("open").contains(rustix::io::FdFlags::CLOEXEC));
            }
        }
        boot.fence().expect("a fence");
    }
    println!("{rank} shared");
}

/// Lines of all lengths, some of them written in pieces.
fn lines(rank: u32, count: u32, seed: u32) {
    let mut random = seed ^ (rank << 16) | 1;
    let mut out = std::io::stdout().lock();
    for i in 0..count {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = (random >> 8) % 9000;
        let text = format!("<{rank}:{i}:{}>\n", "x".repeat(len as usize));
        let (a, b) = text.split_at(text.len() / 2);
        for part in [a, b] {
            out.write_all(part.as_bytes()).and_then(|()| out.flush()).expect("a pipe");
        }
    }
}

#[allow(clippy::zombie_processes, reason = "to leave it behind is what the test is about")]
fn child(program: &str, args: &[&str]) {
    Command::new(program).args(args).stdin(Stdio::null()).spawn().expect("a child");
}

/// Prints where the secret or the channel's name can be seen from outside.
fn secret(boot: &mut dyn Bootstrap, environment: &[std::ffi::OsString]) {
    let hex: String = boot.secret().expose().iter().map(|b| format!("{b:02x}")).collect();
    let own = *boot.secret().expose();
    boot.put("secret", &own).expect("put");
    boot.fence().expect("a fence");
    let all = boot.get_all("secret").expect("get_all");
    assert!(all.iter().all(|secret| secret == &all[0]), "one secret for all");
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/self/{file}")).expect("proc");
        let text = String::from_utf8_lossy(&bytes);
        let raw = bytes.windows(8).any(|w| boot.secret().expose().starts_with(w));
        assert!(!raw && !text.contains(&hex[..8]), "the secret is in {file}");
    }
    assert!(environment.iter().any(|name| name == bootstrap::VARIABLE), "this process was launched");
    assert!(std::env::var_os(bootstrap::VARIABLE).is_none(), "a child would see {}", bootstrap::VARIABLE);
    println!("secret");
}
