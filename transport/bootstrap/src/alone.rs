//! A job of one process, whose PEs are its threads. No launcher started it, so there are no other processes.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::options::{OptionError, Options};
use super::{BootError, Bootstrap, Control, KEY_MAX, VALUE_MAX};
use charm4rs_transport_core::auth::{JobId, Secret, random_bytes};
use charm4rs_transport_core::{Layout, TransportError};

/// Processes that Slurm started together without telling them about each other: each would do the whole work alone.
#[derive(Debug)]
pub(super) struct Strays {
    tasks: u32,
    /// Whether this is the first of them.
    pub(super) first: bool,
}

impl Strays {
    /// Detects whether this process is one of those.
    pub(super) fn here() -> Option<Self> {
        let number = |name| std::env::var_os(name).and_then(|number| number.to_str()?.parse::<u32>().ok());
        let tasks = number("SLURM_STEP_NUM_TASKS").filter(|&tasks| tasks > 1)?;
        Some(Self { tasks, first: number("SLURM_PROCID") == Some(0) })
    }

    pub(super) fn error(&self) -> TransportError {
        TransportError::Config(format!(
            "srun started {} processes, and gave them no way to find each other: use srun --mpi=pmix or --mpi=pmi2 (++bootstrap alone makes each a job by itself)",
            self.tasks
        ))
    }
}

/// A job of this process alone.
#[derive(Debug)]
pub struct Alone {
    layout: Layout,
    job_id: JobId,
    secret: Secret,
    options: Vec<(String, String)>,
    values: HashMap<String, Vec<u8>>,
    control: Control,
}

impl Alone {
    /// A job of `options.pes` PEs (1 by default), with a secret of its own.
    ///
    /// # Errors
    /// If the options ask for several processes, or the system has no random numbers.
    pub fn new(options: &Options) -> Result<Self, BootError> {
        let mut options = options.clone();
        options.provision(None)?;
        let pes = options.pes.unwrap_or(1);
        if let Some(ppn) = options.ppn.filter(|ppn| *ppn < pes) {
            return Err(OptionError::NeedsLauncher { pes, ppn }.into());
        }
        let [a, b, c, d, e, f, g, h, ..] = random_bytes()?;
        Ok(Self {
            layout: Layout::one_host(pes, pes),
            job_id: JobId([a, b, c, d, e, f, g, h]),
            secret: Secret::random()?,
            options: options.to_pairs(),
            values: HashMap::new(),
            control: Control::new(None, options.quiet),
        })
    }
}

impl Bootstrap for Alone {
    fn rank(&self) -> u32 {
        0
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn job_id(&self) -> JobId {
        self.job_id
    }

    fn secret(&self) -> &Secret {
        &self.secret
    }

    fn options(&self) -> &[(String, String)] {
        &self.options
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), TransportError> {
        check_put(key, value)?;
        self.values.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn fence(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    fn get(&mut self, rank: u32, key: &str) -> Result<Vec<u8>, TransportError> {
        let value = if rank == 0 { self.values.get(key) } else { None };
        value.cloned().ok_or_else(|| nothing_there(rank, key))
    }

    fn share_fds(&mut self, fds: &[BorrowedFd<'_>]) -> Result<Vec<Vec<OwnedFd>>, TransportError> {
        let own = fds.iter().map(BorrowedFd::try_clone_to_owned).collect::<Result<_, _>>();
        Ok(vec![own.map_err(|e| TransportError::system("dup", e))?])
    }

    fn control(&self) -> Control {
        self.control.clone()
    }
}

/// Refuses what no launcher can carry, so that a program that runs alone also runs under a launcher.
pub(super) fn check_put(key: &str, value: &[u8]) -> Result<(), TransportError> {
    if key.len() > KEY_MAX || value.len() > VALUE_MAX {
        let (key_len, value_len) = (key.len(), value.len());
        return Err(TransportError::Startup(format!(
            "a value of {value_len} bytes under a key of {key_len} does not fit ({VALUE_MAX} and {KEY_MAX} at most)"
        )));
    }
    Ok(())
}

pub(super) fn nothing_there(rank: u32, key: &str) -> TransportError {
    TransportError::Startup(format!("process {rank} has published nothing under {key:?}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd;

    use super::*;

    fn alone(pes: u32) -> Alone {
        Alone::new(&Options { pes: Some(pes), ..Options::default() }).unwrap()
    }

    #[test]
    fn a_process_alone_is_a_whole_job() {
        let mut boot = alone(3);
        assert_eq!((boot.rank(), boot.size(), boot.layout().pes()), (0, 1, 3));
        boot.put("a", b"1").unwrap();
        boot.put("a", b"2").unwrap();
        boot.fence().unwrap();
        assert_eq!(boot.get_all("a").unwrap(), [b"2"]);
        assert!(boot.get(0, "b").is_err() && boot.get(1, "a").is_err());
        assert!(boot.put("a", &vec![0; VALUE_MAX + 1]).is_err());
    }

    #[test]
    fn two_jobs_have_two_secrets_and_neither_is_printed() {
        let (a, b) = (alone(1), alone(1));
        assert_ne!(a.secret().expose(), b.secret().expose());
        assert_ne!(a.job_id(), b.job_id());
        assert!(format!("{a:?}").contains("Secret(..)"));
    }

    #[test]
    fn shared_descriptors_are_duplicates() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let shared = alone(1).share_fds(&[writer.as_fd()]).unwrap();
        drop(writer);
        rustix::io::write(&shared[0][0], b"x").unwrap();
        drop(shared);
        let mut text = String::new();
        assert_eq!((reader.read_to_string(&mut text).unwrap(), &*text), (1, "x"));
    }

    #[test]
    fn several_processes_need_a_launcher() {
        let options = Options { pes: Some(4), ppn: Some(2), ..Options::default() };
        assert_eq!(Alone::new(&options).unwrap_err().code(), 64);
    }
}
