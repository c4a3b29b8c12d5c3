//! The number of PEs and processes of a job, if it is given in other ways than by `+p` and `++ppn`: as a number of processes (`++n`), or as
//! a number for each part of the machine.

use std::collections::BTreeSet;
use std::path::Path;

use super::{OptionError, Options, PES_MAX, Unit};

impl Options {
    /// Distributes the PEs over the processes, if the number of processes was given. Afterwards [`ppn`](Self::ppn) says the same.
    pub(super) fn deal(&mut self) -> Result<(), OptionError> {
        let Some(processes) = self.processes else { return Ok(()) };
        match (self.pes, self.ppn) {
            _ if self.pe_for.is_some() => {}
            (Some(pes), None) if pes.is_multiple_of(processes) => self.ppn = Some(pes / processes),
            (Some(pes), None) => return Err(OptionError::Uneven { pes, processes }),
            (None, ppn) => {
                let ppn = ppn.unwrap_or(1);
                let pes = processes.checked_mul(ppn).filter(|pes| *pes <= PES_MAX);
                let second = || format!("++ppn {ppn}");
                self.pes =
                    Some(pes.ok_or_else(|| OptionError::Conflict {
                        first: format!("++n {processes}"),
                        second: second(),
                    })?);
                self.ppn = Some(ppn);
            }
            (Some(pes), Some(ppn)) if pes.div_ceil(ppn) == processes => {}
            (Some(pes), Some(ppn)) => {
                let first = format!("+p {pes} with ++ppn {ppn}");
                return Err(OptionError::Conflict { first, second: format!("++n {processes}") });
            }
        }
        Ok(())
    }

    /// Counts the parts of the machine for which PEs and processes were asked. `hosts`: the hosts of the job, if there may be others than
    /// this one; then only hosts can be counted.
    ///
    /// # Errors
    /// If they cannot be counted, or contradict other options.
    pub fn provision(&mut self, hosts: Option<u32>) -> Result<(), OptionError> {
        let count = |unit: Unit| match (unit, hosts) {
            (Unit::Host, hosts) => Ok(hosts.unwrap_or(1)),
            (unit, None) => Ok(here(unit)),
            (unit, Some(_)) => Err(OptionError::Elsewhere(unit)),
        };
        let same = |name: &str, given: Option<u32>, counted: u32, by: Unit| match given {
            Some(given) if given != counted => Err(OptionError::Conflict {
                first: format!("{name} {given}"),
                second: format!("{name} {counted}, by {by}s"),
            }),
            _ => Ok(Some(counted)),
        };
        if let Some((each, unit)) = self.processes_for.take() {
            let processes = count(unit)?.saturating_mul(each);
            self.processes = same("++n", self.processes, processes, unit)?;
        }
        if let Some(unit) = self.pe_for.take() {
            self.pes = same("+p", self.pes, count(unit)?, unit)?;
        }
        self.deal()
    }
}

/// The parts of this host that this process may use.
fn here(unit: Unit) -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(PES_MAX));
    let parts = match unit {
        Unit::Host => 1,
        Unit::Thread => threads,
        Unit::Core => distinct(&["physical_package_id", "core_id"], threads),
        Unit::Socket => distinct(&["physical_package_id"], threads),
    };
    parts.clamp(1, threads)
}

/// How many different values the files of this name have, over the hardware threads; `otherwise` if the kernel does not provide them.
fn distinct(names: &[&str], otherwise: u32) -> u32 {
    let Ok(threads) = std::fs::read_dir("/sys/devices/system/cpu") else { return otherwise };
    let values = |folder: &Path| {
        let read = |name: &&str| std::fs::read_to_string(folder.join("topology").join(name)).ok();
        names.iter().map(read).collect::<Option<Vec<_>>>()
    };
    let parts: BTreeSet<_> = threads.flatten().filter_map(|thread| values(&thread.path())).collect();
    if parts.is_empty() { otherwise } else { u32::try_from(parts.len()).unwrap_or(otherwise) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, hosts: Option<u32>, want: Result<(Option<u32>, Option<u32>), &str>) {
        let parsed = super::super::parse_launcher(given.split_whitespace().map(Into::into));
        let dealt = parsed.and_then(|mut parsed| {
            parsed.options.provision(hosts)?;
            Ok((parsed.options.pes, parsed.options.ppn))
        });
        assert_eq!(dealt.map_err(|error| error.to_string()), want.map_err(str::to_owned), "{given}");
    }

    #[test]
    fn the_given_number_of_processes_share_the_pes_evenly() {
        check("++n 3", None, Ok((Some(3), Some(1))));
        check("++np 3 ++ppn 2", None, Ok((Some(6), Some(2))));
        check("++n 2 +p 6", None, Ok((Some(6), Some(3))));
        check("++n 2 +p 6 ++ppn 3", None, Ok((Some(6), Some(3))));
        check("++n 2 +p 5", None, Err("5 PEs cannot be distributed evenly over 2 processes: give a multiple of 2"));
        let what = "+p 6 with ++ppn 3 and ++n 3 contradict each other: give one of them";
        check("++n 3 +p 6 ++ppn 3", None, Err(what));
        let what = "++n 1048576 and ++ppn 2 contradict each other: give one of them";
        check("++n 1048576 ++ppn 2", None, Err(what));
    }

    #[test]
    fn pes_and_processes_are_counted_by_parts_of_the_machine() {
        check("++processPerHost 2", None, Ok((Some(2), Some(1))));
        check("++processPerHost 2 ++ppn 4", None, Ok((Some(8), Some(4))));
        check("++processPerHost 2 +p 12", Some(3), Ok((Some(12), Some(2))));
        check("++oneWthPerHost ++processPerHost 1", Some(3), Ok((Some(3), Some(1))));
        let threads = here(Unit::Thread);
        check("++auto-provision", None, Ok((Some(threads), None)));
        check("+autoProvision ++processPerPU 1", None, Ok((Some(threads), Some(1))));
        check("++no-auto-provision", None, Ok((None, None)));
        let what = "+p 5 and +p 1, by hosts contradict each other: give one of them";
        check("++oneWthPerHost +p 5", None, Err(what));
        let what = "PEs or processes for each core are counted on this host, and the job has other hosts or another launcher: give +p N and ++ppn K";
        check("++oneWthPerCore", Some(2), Err(what));
    }

    #[test]
    fn a_machine_has_no_more_sockets_than_cores_and_no_more_cores_than_threads() {
        let counted = [Unit::Host, Unit::Socket, Unit::Core, Unit::Thread].map(here);
        assert!(counted.is_sorted() && counted[0] == 1, "{counted:?}");
    }
}
