//! Removes what network libraries leave behind in a killed process: named shared memory, which outlives its processes unless it is
//! removed. This project's own shared memory has no names.
//!
//! - libfabric's provider `shm` keeps files in `/dev/shm` that are called `PID:UID:NUMBER`, until their owner closes them.
//! - UCX makes System V segments and marks them at once for removal with their last user; a process that is killed in between does not. The kernel
//!   records the creator of a segment.
//!
//! Both name the process, so its parent knows what belongs to it. Call [`remove`] while no other process can have the number: before the process is
//! reaped, or when no process has it.

use rustix::fs::{AtFlags, CWD, unlinkat};
use rustix::process::{Pid, geteuid};

/// Removes what an ended process of this user has left behind.
pub fn remove(process: Pid) {
    let number = process.as_raw_nonzero().get();
    files(number);
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    for id in segments(&table, number, geteuid().as_raw()) {
        super::sys::remove_segment(id);
    }
}

fn files(number: i32) {
    const FOLDER: &str = "/dev/shm";
    let start = format!("{number}:{}:", geteuid().as_raw());
    for entry in std::fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(&start));
        if rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())) {
            // If it belongs to another user, the sticky bit of the folder prevents the removal.
            let _ = unlinkat(CWD, entry.path(), AtFlags::empty());
        }
    }
}

/// The System V segments in the kernel's `table` that `process` of `user` created, without a key, and that no process uses.
fn segments(table: &str, process: i32, user: u32) -> Vec<i32> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let place = |name: &str| names.iter().position(|found| *found == name);
    let [Some(key), Some(id), Some(maker), Some(users), Some(owner)] =
        ["key", "shmid", "cpid", "nattch", "cuid"].map(place)
    else {
        return Vec::new();
    };
    let of = |line: &str| {
        let fields: Vec<i64> = line.split_whitespace().map(|field| field.parse().unwrap_or(-1)).collect();
        let has = |at: usize, value: i64| fields.get(at) == Some(&value);
        let its = has(key, 0) && has(maker, process.into()) && has(users, 0) && has(owner, user.into());
        fields.get(id).filter(|_| its).and_then(|id| i32::try_from(*id).ok())
    };
    lines.filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_unused_segments_of_the_process_without_a_key_are_found() {
        let table = "\
       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
         0          1   600                  4096   100     0      0  1000  1000  1000  1000          0          0 1795903230                     0                     0
         0          2   600                  4096   101     0      0  1000  1000  1000  1000          0          0 1795903230                     0                     0
         0          3   600                  4096   100     0      2  1000  1000  1000  1000          0          0 1795903230                     0                     0
     12345          4   600                  4096   100     0      0  1000  1000  1000  1000          0          0 1795903230                     0                     0
         0          5   600                  4096   100     0      0  1001  1001  1001  1001          0          0 1795903230                     0                     0
         0          6   600                  4096   100     0      0  1000  1000  1000  1000          0          0 1795903230                     0                     0
";
        assert_eq!(segments(table, 100, 1000), [1, 6]);
        assert!(segments(table, 102, 1000).is_empty());
        for broken in ["", "key shmid\n0 1\n", "garbage"] {
            assert!(segments(broken, 100, 1000).is_empty());
        }
    }

    #[test]
    fn only_files_of_an_ended_process_are_removed() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        child.wait().unwrap();
        let number = pid.as_raw_nonzero().get();
        let user = geteuid().as_raw();
        let file = |name: String| std::path::Path::new("/dev/shm").join(name);
        let gone = [file(format!("{number}:{user}:0")), file(format!("{number}:{user}:17"))];
        let stays = [file(format!("{number}:{user}:x{number}")), file(format!("1{number}:{user}:0"))];
        for path in gone.iter().chain(&stays) {
            std::fs::write(path, b"").unwrap();
        }
        remove(pid);
        assert!(!gone.iter().any(|path| path.exists()));
        assert!(stays.iter().all(|path| path.exists()));
        stays.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}
