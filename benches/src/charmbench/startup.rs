//! The start of programs: from their execution to the first line of their main, and to their end.
//!
//! The program is this one, which then prints the time. It does nothing else, so this measures the runtime and the launcher.

use std::time::{Duration, SystemTime};

use charm4rs::Job;

use crate::child::{Folder, command, launcher, this_program};
use crate::table::{Figure, Table};

/// The argument of the started program.
pub(crate) const STARTED: &str = "started";

fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// In the started program: prints the time at its main.
pub(crate) fn tell() {
    println!("{}", now().as_nanos());
}

/// Starts jobs with as many PEs as this one has.
///
/// # Errors
/// If a job does not start. Without a launcher there are no processes.
pub(crate) fn run(job: &Job, runs: usize) -> Result<(), String> {
    let folder = Folder::new()?;
    let (program, launcher) = (this_program()?, launcher());
    let pes = format!("+p{}", job.pes());
    let table = Table::new(format!("start of a program, {} PEs", job.pes()), "ms");
    for (name, transport) in [("threads", None), ("processes, shm", Some("shm")), ("processes, tcp", Some("tcp"))] {
        let mut started = match (transport, &launcher) {
            (None, _) => {
                let mut alone = command(&program);
                alone.args([&pes, STARTED]);
                alone
            }
            (Some(transport), Ok(launcher)) => {
                let mut launched = command(launcher);
                launched.args([&pes, "++transport", transport]).arg(&program).arg(STARTED);
                launched
            }
            (Some(_), Err(why)) => {
                println!("{name}: {why}");
                continue;
            }
        };
        let (mut to_main, mut to_end) = (Vec::new(), Vec::new());
        for _ in 0..=runs {
            let began = now();
            let said = folder.said_at_once(&mut started)?;
            let ended = now();
            let main: u64 = said.trim().parse().map_err(|_| format!("{name}: not a time: {said}"))?;
            to_main.push((main as f64 - began.as_nanos() as f64) / 1e6);
            to_end.push((ended - began).as_nanos() as f64 / 1e6);
        }
        // The first start pays for reading from the disk.
        for (until, mut times) in [("to main", to_main), ("to its end", to_end)] {
            times.remove(0);
            table.row(&format!("{name}, {until}"), &Figure::of(times));
        }
    }
    Ok(())
}
