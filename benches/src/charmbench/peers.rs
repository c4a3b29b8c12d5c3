//! Other systems on this machine, in the same run and with the same work: two ends that send to each other, each its own data.
//!
//! Each system is a program of its own, run in turn with the others: this one over threads, shared memory and TCP; Open MPI (in C, and pickled by
//! mpi4py) over shared memory and TCP; the tests of UCX and libfabric; and one program of charm4py's model in Python, with charm4py's own package and
//! with this project's. Systems that are not installed are omitted, and named. The programs are in `benches/peers` and `benches/python`; `ci/peers`
//! installs the systems.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use charm4rs::Job;
use clap::Args;

use crate::child::{Folder, Running, command, launcher, this_program};
use crate::progress::Progress;
use crate::python;
use crate::run::{Machine, Run};
use crate::table::text;

#[derive(Args, Clone, PartialEq, Eq)]
pub(crate) struct Peers {
    /// The folder where ci/peers has put the packages from PyPI.
    #[arg(long, default_value = "target/peers")]
    folder: PathBuf,
    /// An interpreter that has this project's Python package.
    #[arg(long)]
    python: Option<PathBuf>,
    /// The number of rounds, in each of which every system has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Also write the table to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// The measured figures, in the order of the table, with their units.
const FIGURES: [(&str, &str); 5] = [
    ("one way, 8 B", "us"),
    ("one way, 64 KiB", "us"),
    ("one way, 1 MiB", "us"),
    ("small messages", "1/s"),
    ("allreduce, 8 B", "us"),
];
const SIZES: [(usize, &str); 3] = [(8, FIGURES[0].0), (64 << 10, FIGURES[1].0), (1 << 20, FIGURES[2].0)];

/// By name; microseconds, or operations a second.
type Figures = BTreeMap<String, f64>;

#[derive(Clone, Copy)]
enum System {
    /// This system, over a transport; `None`: between threads.
    Ours(Option<&'static str>),
    /// Open MPI, over one of its byte transfer layers, in C or in Python.
    Mpi { layer: &'static str, python: bool },
    /// UCX's test, over its transports.
    Ucx(&'static str),
    /// libfabric's test, over a provider.
    Ofi(&'static str),
    /// Chares in Python: with this project's package, or with charm4py's own.
    Chares { ours: bool },
}

const SYSTEMS: [(&str, System); 12] = [
    ("charm4rs, threads", System::Ours(None)),
    ("charm4rs, shm", System::Ours(Some("shm"))),
    ("Open MPI, shm", System::Mpi { layer: "sm", python: false }),
    ("mpi4py pickled, shm", System::Mpi { layer: "sm", python: true }),
    ("UCX, shm", System::Ucx("posix,self,cma")),
    ("libfabric, shm", System::Ofi("shm")),
    ("charm4rs, tcp", System::Ours(Some("tcp"))),
    ("Open MPI, tcp", System::Mpi { layer: "tcp", python: false }),
    ("UCX, tcp", System::Ucx("tcp,self")),
    ("libfabric, tcp", System::Ofi("tcp;ofi_rxm")),
    ("Python: charm4rs, shm", System::Chares { ours: true }),
    ("Python: charm4py, shm", System::Chares { ours: false }),
];

/// The ports of the tests' servers: each server has its own, because the kernel keeps those of ended servers for a while. The kernel does not assign
/// ports of this range to connections.
const PORTS: Range<u16> = 20_000..30_000;
/// Enough for all servers of one run.
const PORTS_OF_A_RUN: u16 = 500;
/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures all systems that are installed, and prints the table.
///
/// # Errors
/// If not even this system can be measured, or the table cannot be written.
pub(crate) async fn run(job: &Job, what: &Peers) -> Result<(), String> {
    let mut measuring = Measuring { job, folder: Folder::new()?, what, mpi_program: None, ports: own_ports() };
    let mut columns: Vec<(&str, Vec<Figures>)> = Vec::new();
    let mut absent = Vec::new();
    let progress = Progress::of(SYSTEMS.len() * what.rounds.max(1) as usize);
    for (name, system) in SYSTEMS {
        progress.next(name);
        match measuring.figures(system).await {
            Ok(first) => columns.push((name, vec![first])),
            Err(why) if matches!(system, System::Ours(None)) => return Err(why),
            Err(why) => absent.push(format!("{name}: {why}")),
        }
        progress.step();
    }
    for _ in 1..what.rounds {
        for (name, rounds) in &mut columns {
            progress.next(name);
            let system = SYSTEMS.into_iter().find(|(known, _)| known == name).expect("it is one of them").1;
            match measuring.figures(system).await {
                Ok(figures) => rounds.push(figures),
                Err(why) => absent.push(format!("{name}, in one of the rounds: {why}")),
            }
            progress.step();
        }
    }
    drop(progress);
    let table = markdown(&columns, what.rounds, &absent);
    print!("{table}");
    match &what.markdown {
        Some(path) => std::fs::write(path, table).map_err(|error| format!("{}: {error}", path.display())),
        None => Ok(()),
    }
}

/// A row for each system, a column for each figure: medians of the rounds.
fn markdown(columns: &[(&str, Vec<Figures>)], rounds: u32, absent: &[String]) -> String {
    let machine = Machine::here();
    let mut table = format!(
        "# Figures\n\nWritten by `charmbench peers --markdown`, not by hand.\n\nTwo ends on one machine, medians of {rounds} rounds in one run: {}, {} cores, Linux {}, {}.\n\n| |",
        machine.processor,
        machine.cores,
        machine.kernel,
        date(),
    );
    let written = |_| "a string accepts every write";
    FIGURES.iter().for_each(|(name, unit)| write!(table, " {name} ({unit}) |").map_err(written).expect("memory"));
    table += &format!("\n|---|{}\n", "---:|".repeat(FIGURES.len()));
    for (name, rounds) in columns {
        table += &format!("| {name} |");
        for (figure, _) in FIGURES {
            let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.get(figure).copied()).collect();
            values.sort_by(f64::total_cmp);
            table += &match values.get(values.len() / 2) {
                Some(&value) if value >= 1e6 => format!(" {:.1} M |", value / 1e6),
                Some(&value) => format!(" {} |", text(value)),
                None => " |".to_owned(),
            };
        }
        table += "\n";
    }
    table += "\nThe ends do not read the bytes. Inside a host charm4rs hands over the memory that contains them; all others copy them.\n";
    if !absent.is_empty() {
        table += &format!("\nNot measured: {}.\n", absent.join("; "));
    }
    table
}

/// The current date, from the operating system's own program.
fn date() -> String {
    let said = Command::new("date").arg("+%Y-%m-%d").output();
    said.map_or_else(|_| "date unknown".to_owned(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

struct Measuring<'a> {
    job: &'a Job,
    folder: Folder,
    what: &'a Peers,
    /// The C program, once it is compiled.
    mpi_program: Option<PathBuf>,
    ports: Range<u16>,
}

impl Measuring<'_> {
    async fn figures(&mut self, system: System) -> Result<Figures, String> {
        match system {
            System::Ours(transport) => self.ours(transport).await,
            System::Mpi { layer, python } => self.mpi(layer, python).await,
            System::Ucx(transports) => self.ucx(transports).await,
            System::Ofi(provider) => self.ofi(provider).await,
            System::Chares { ours } => self.chares(ours).await,
        }
    }

    /// This program, under the launcher that was built with it.
    async fn ours(&self, transport: Option<&str>) -> Result<Figures, String> {
        let (program, launcher) = (this_program()?, launcher()?);
        let json = self.folder.path().join("run.json");
        let mut figures = Figures::new();
        for what in ["latency", "rate", "allreduce"] {
            let mut run = command(&launcher);
            run.arg("+p2").args(transport.iter().flat_map(|transport| ["++transport", transport])).arg(&program);
            run.args([what, "--layer", "entry", "--runs", "3"]).arg("--json").arg(&json);
            if what != "rate" {
                run.args(["--size", if what == "latency" { "8,64K,1M" } else { "8" }]);
            }
            self.folder.said(self.job, &mut run).await?;
            for record in Run::read(&json)?.records {
                let ns = record.figure().median();
                match (what, record.bytes) {
                    ("latency", Some(bytes)) => {
                        let known = SIZES.iter().find(|(size, _)| *size as u64 == bytes);
                        figures.extend(known.map(|(_, name)| ((*name).to_owned(), ns / 1e3)));
                    }
                    ("rate", _) if record.name == "to another PE" => {
                        figures.insert(FIGURES[3].0.to_owned(), 1e9 / ns);
                    }
                    ("allreduce", _) => {
                        figures.insert(FIGURES[4].0.to_owned(), ns / 1e3);
                    }
                    _ => {}
                }
            }
        }
        Ok(figures)
    }

    async fn mpi(&mut self, layer: &str, python: bool) -> Result<Figures, String> {
        let bin = self.bin()?;
        let tool = |name: &str| {
            let mut tool = command(bin.join(name));
            tool.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()));
            tool
        };
        let mut mpirun = tool("mpirun");
        mpirun.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "core", "-n", "2"]);
        mpirun.args(["--mca", "pml", "ob1", "--mca", "btl"]).arg(format!("self,{layer}"));
        if python {
            let program = self.folder.write("mpi.py", include_str!("../../peers/mpi.py"))?;
            mpirun.arg(bin.join("python")).arg(program);
        } else {
            mpirun.arg(self.compiled(tool("mpicc")).await?);
        }
        said_figures(&self.folder.said(self.job, &mut mpirun).await?)
    }

    /// The folder of the programs from PyPI.
    fn bin(&self) -> Result<PathBuf, String> {
        self.what.folder.join("bin").canonicalize().map_err(|_| "it is not installed (ci/peers)".to_owned())
    }

    /// `benches/python`, whose figures have names of their own.
    async fn chares(&self, ours: bool) -> Result<Figures, String> {
        let python = match &self.what.python {
            Some(python) if ours => python.clone(),
            None if ours => return Err("no interpreter that has it was named (--python)".to_owned()),
            _ => self.bin()?.join("python"),
        };
        let program = self.folder.write("charmbench.py", python::PROGRAM)?;
        let mut run = command(&python);
        // A launcher may search the interpreter by its name.
        let folder = python.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
        run.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()));
        run.args(["-m", "charmrun.start", "+p2"]).arg(program).args(["--plain", "--largest", "1"]);
        let said = said_figures(&self.folder.said(self.job, &mut run).await?)?;
        let figure = |(name, known, times): (&str, &str, f64)| Some((known.to_owned(), said.get(name)? * times));
        let names = [
            ("round trip of a call, other PE", FIGURES[0].0, 0.5),
            ("array of 64 KiB, one way", FIGURES[1].0, 1.0),
            ("array of 1 MiB, one way", FIGURES[2].0, 1.0),
            ("calls one way, other PE", FIGURES[3].0, 1.0),
            // Milliseconds for a thousand.
            ("1,000 allreduces", FIGURES[4].0, 1.0),
        ];
        Ok(names.into_iter().filter_map(figure).collect())
    }

    /// The C program.
    async fn compiled(&mut self, mut compiler: Command) -> Result<PathBuf, String> {
        if let Some(program) = &self.mpi_program {
            return Ok(program.clone());
        }
        let source = self.folder.write("mpi.c", include_str!("../../peers/mpi.c"))?;
        let program = self.folder.path().join("mpi");
        self.folder.said(self.job, compiler.arg("-O2").arg("-o").arg(&program).arg(source)).await?;
        self.mpi_program = Some(program.clone());
        Ok(program)
    }

    fn port(&mut self) -> Result<String, String> {
        self.ports.next().map(|port| port.to_string()).ok_or_else(|| "there are no more ports".to_owned())
    }

    /// A test of two ends: a server, and a client that prints.
    async fn test(&self, port: &str, mut server: Command, mut client: Command) -> Result<String, String> {
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Running::new(&mut server)?;
        let began = Instant::now();
        while !is_listening(port) {
            if began.elapsed() > PATIENCE {
                return Err(format!("its server does not listen at port {port}"));
            }
            self.job.sleep(Duration::from_millis(10)).await;
        }
        let said = self.folder.said(self.job, &mut client).await?;
        server.end(self.job).await?;
        Ok(said)
    }

    async fn ucx(&mut self, transports: &str) -> Result<Figures, String> {
        let mut figures = Figures::new();
        let tests = SIZES.map(|(size, name)| (name, "tag_lat", size)).into_iter().chain([(FIGURES[3].0, "tag_bw", 8)]);
        for (name, test, size) in tests {
            let port = self.port()?;
            let end = || {
                let mut end = command("ucx_perftest");
                end.env("UCX_TLS", transports).args(["-p", &port]);
                end
            };
            let mut client = end();
            let rounds = if size > 1 << 16 { "500" } else { "20000" };
            client.args(["127.0.0.1", "-t", test, "-s", &size.to_string(), "-n", rounds, "-f", "-v"]);
            let said = self.test(&port, end(), client).await?;
            // Iterations, then latencies (the third is that of the whole run), bandwidths, and rates.
            let column = if test == "tag_lat" { 3 } else { 7 };
            figures.insert(name.to_owned(), last_line(&said, ',', column)?);
        }
        Ok(figures)
    }

    async fn ofi(&mut self, provider: &str) -> Result<Figures, String> {
        let mut figures = Figures::new();
        for (size, name) in SIZES {
            let end = || {
                let mut end = command("fi_pingpong");
                let rounds = if size > 1 << 16 { "300" } else { "10000" };
                end.args(["-p", provider, "-e", "rdm", "-S", &size.to_string(), "-I", rounds]);
                end
            };
            let (mut server, mut client) = (end(), end());
            let port = self.port()?;
            server.args(["-B", &port]);
            client.args(["-P", &port, "127.0.0.1"]);
            let said = self.test(&port, server, client).await?;
            figures.insert(name.to_owned(), last_line(&said, ' ', 6)?);
        }
        Ok(figures)
    }
}

/// The ports of this run, which differ from those of the previous run.
fn own_ports() -> Range<u16> {
    let runs = u32::from((PORTS.end - PORTS.start) / PORTS_OF_A_RUN);
    let run = u16::try_from(std::process::id() % runs).expect("there are fewer runs than ports");
    let first = PORTS.start + run * PORTS_OF_A_RUN;
    first..first + PORTS_OF_A_RUN
}

/// Whether a process on this host listens on a port.
fn is_listening(port: &str) -> bool {
    let Ok(port) = port.parse::<u16>() else { return false };
    let (port, listens) = (format!(":{port:04X}"), Some("0A"));
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().any(|table| {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|own| own.ends_with(&port)) && words.nth(1) == listens
        })
    })
}

/// Figures in machine-readable output: if a name appears several times, the first one.
fn said_figures(said: &str) -> Result<Figures, String> {
    let mut figures = Figures::new();
    for line in said.lines() {
        if let ["figure", name, _, value] = line.split('\t').collect::<Vec<_>>()[..] {
            let value = value.parse().map_err(|_| format!("no figure: {line}"))?;
            figures.entry(name.to_owned()).or_insert(value);
        }
    }
    Ok(figures)
}

/// A number of the last line of a test.
fn last_line(said: &str, between: char, column: usize) -> Result<f64, String> {
    let line = said.trim_end().lines().next_back().unwrap_or_default();
    let words = line.split(between).filter(|word| !word.is_empty());
    words.map(str::trim).nth(column).and_then(|word| word.parse().ok()).ok_or_else(|| format!("no figure: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_listens_from_when_a_listener_is_there_until_it_is_gone() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        assert!(is_listening(&port));
        drop(listener);
        assert!(!is_listening(&port) && !is_listening("none"));
    }
}
