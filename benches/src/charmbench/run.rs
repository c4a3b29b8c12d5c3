//! A run of charmbench as data: every row that was printed, and the machine. `--json` and `--csv` write it.

use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::table::{Figure, Tail};

/// The version of the file format.
const FORMAT: u32 = 1;

/// The rows of this run so far. PE 0's thread prints them, and before the program its process's first thread.
static NOTED: Mutex<Vec<Record>> = Mutex::new(Vec::new());

/// A row of a table.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) bytes: Option<u64>,
    pub(crate) unit: String,
    /// One figure for each time that it was measured.
    pub(crate) runs: Vec<f64>,
    pub(crate) tail: Option<Tail>,
    /// The median of the limit, measured in turn.
    pub(crate) limit: Option<f64>,
    pub(crate) limit_name: Option<String>,
}

impl Record {
    /// The full name.
    pub(crate) fn title(&self) -> String {
        format!("{}: {}", self.table, self.name)
    }

    pub(crate) fn figure(&self) -> Figure {
        Figure::of(self.runs.clone())
    }

    /// Whether more is better.
    pub(crate) fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }
}

/// A run.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    format: u32,
    pub(crate) version: String,
    pub(crate) commit: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) pes: u32,
    pub(crate) processes: u32,
    pub(crate) hosts: u32,
    pub(crate) transport: Option<String>,
    pub(crate) arguments: Vec<String>,
    /// Seconds since 1970.
    pub(crate) time: u64,
    pub(crate) records: Vec<Record>,
}

/// The machine of PE 0.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) host: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let name = rustix::system::uname();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            host: name.nodename().to_string_lossy().into_owned(),
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            // Not the CPUs on which this thread may run, because it is pinned.
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: name.release().to_string_lossy().into_owned(),
        }
    }
}

fn noted() -> std::sync::MutexGuard<'static, Vec<Record>> {
    NOTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps a row.
pub(crate) fn note(record: Record) {
    noted().push(record);
}

impl Run {
    /// The recorded rows, of a job of this shape.
    pub(crate) fn of(pes: u32, processes: u32, hosts: u32, transport: Option<&str>) -> Self {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("CHARM4RS_COMMIT").map(str::to_owned),
            machine: Machine::here(),
            pes,
            processes,
            hosts,
            transport: transport.map(str::to_owned),
            arguments: std::env::args().skip(1).collect(),
            time: since.as_secs(),
            records: noted().clone(),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("{} is not a charmbench run: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let run: Self = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        if run.format != FORMAT {
            return Err(wrong(&format_args!("it has form {}, this version reads {FORMAT}", run.format)));
        }
        if run.records.iter().any(|record| record.runs.is_empty() || record.runs.iter().any(|run| !run.is_finite())) {
            return Err(wrong(&"it has rows without figures"));
        }
        Ok(run)
    }

    pub(crate) fn write_json(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn write_csv(&self, path: &Path) -> Result<(), String> {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let mut text = "table,name,bytes,unit,min,median,max,p99,p99.9,limit\n".to_owned();
        for record in &self.records {
            let figure = record.figure();
            let row = [
                quoted(&record.table),
                quoted(&record.name),
                record.bytes.map_or(String::new(), |bytes| bytes.to_string()),
                record.unit.clone(),
                figure.min().to_string(),
                figure.median().to_string(),
                figure.max().to_string(),
                number(record.tail.map(|tail| tail.p99)),
                number(record.tail.map(|tail| tail.p999)),
                number(record.limit),
            ];
            text += &(row.join(",") + "\n");
        }
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}
