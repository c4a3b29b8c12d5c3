//! Child processes of chares, which do not belong to the job.

use crate::common::charmrun;
use crate::job::{Job, marked};

const FORKS: &str = env!("CARGO_BIN_EXE_forks");

/// The end of each child, as its parent sees it.
const ENDS: &str = "returns: 0\nends the job: 3\nexits: 4\npanics: 1\naborts the job: 1\naborts: -6\nis terminated: -15\nis killed: -9\n";

#[test]
fn a_child_process_of_a_chare_does_not_affect_the_job_however_it_ends() {
    let launcher = charmrun(FORKS).display().to_string();
    for options in ["+p2", "+p2 ++transport shm", "+p2 ++transport tcp"] {
        let (mut command, mark) = marked(&launcher);
        command.args(options.split_whitespace()).args([FORKS, &launcher]).env("RUST_BACKTRACE", "0");
        let ended = Job::spawn(command, mark).end();
        assert_eq!(ended.code, 0, "{options}: {ended:?}");
        let inner = ENDS.replace(": ", "=").replace('\n', " ");
        let within = format!("exit status=0 {inner}inner\n");
        assert_eq!(ended.stdout, format!("{ENDS}{within}{within}fine\n"), "{options}: {ended:?}");
        assert!(!ended.stderr.contains("error["), "{options}: {ended:?}");
    }
}
