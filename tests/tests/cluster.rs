//! Programs over several hosts that communicate over TCP: what they compute, where they listen, and how they end when a PE or a host fails. Knows
//! nothing of how the hosts are reached.

#[path = "../../launcher/tests/common/job.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod job;

#[path = "../../launcher/tests/common/hosts.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod hosts;

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hosts::Hosts;
use job::{Ended, Job};
use rustix::process::{Signal, kill_process};

const FAULTY: &str = env!("CARGO_BIN_EXE_faulty");

/// A program of the examples.
fn example(name: &str) -> PathBuf {
    common::beside(FAULTY, "charm4rs-examples", name)
}

fn start(hosts: &Hosts, options: &str, program: &Path, args: &str) -> Job {
    hosts.start(&common::charmrun(FAULTY), &format!("{options} ++quiet {} {args}", program.display()))
}

fn run(hosts: &Hosts, options: &str, program: &Path, args: &str) -> Ended {
    let ended = start(hosts, options, program, args).end();
    hosts.assert_empty();
    ended
}

#[test]
fn programs_compute_the_same_on_two_hosts_and_on_three() {
    let Some(hosts) = Hosts::new(3) else { return };
    for options in ["+p4 ++numHosts 2", "+p4 ++numHosts 2 ++ppn 1 ++checksum", "+p6 ++ppn 2"] {
        let ended = run(&hosts, options, &example("hello"), "");
        assert!(
            ended.succeeded().stdout.contains("have answered, and one of them again: 5050"),
            "{options}: {ended:?}"
        );
        let ended = run(&hosts, options, &example("stencil3d"), "--size 32 --steps 10");
        assert!(ended.succeeded().stdout.contains("a serial run gives the same"), "{options}: {ended:?}");
    }
}

/// The addresses on which processes of a host listen, without ssh.
fn listening(hosts: &Hosts, host: usize) -> Vec<String> {
    let out = Command::new("ip").args(["netns", "exec", hosts.name(host), "ss", "-Hltn"]).output().expect("ss");
    let text = String::from_utf8(out.stdout).expect("text");
    let addresses = text.lines().filter_map(|line| line.split_whitespace().nth(3));
    addresses.filter(|address| !address.ends_with(":22")).map(str::to_owned).collect()
}

fn ip(hosts: &Hosts, host: usize, args: &str) {
    let status = Command::new("ip").args(["-n", hosts.name(host)]).args(args.split(' ')).status();
    assert!(status.expect("ip").success(), "{args}");
}

#[test]
fn processes_listen_on_the_way_to_the_others_and_on_nothing_else() {
    let Some(hosts) = Hosts::new(2) else { return };
    // A default route that is not the one to the other host.
    for host in 0..2 {
        ip(&hosts, host, "link add other type veth peer name end");
        ip(&hosts, host, "link set end up");
        ip(&hosts, host, &format!("addr add 10.99.{host}.1/24 dev other"));
        ip(&hosts, host, "link set other up");
        ip(&hosts, host, &format!("route add default via 10.99.{host}.2"));
    }
    let mut job = start(&hosts, "+p2", Path::new(FAULTY), "ready");
    job.ready(2);
    for host in 0..2 {
        let addresses = listening(&hosts, host);
        let own = format!("10.77.0.{}:", host + 1);
        assert!(
            addresses.iter().any(|address| address.starts_with(&own))
                && addresses.iter().all(|address| address.starts_with(&own) || address.starts_with("[fd77::")),
            "{addresses:?}"
        );
    }
    job.signal(Signal::INT);
    job.end();
    hosts.assert_empty();
}

#[test]
fn hosts_with_ipv6_only_work() {
    let Some(hosts) = Hosts::new(2) else { return };
    let check = |names: &str| {
        let nodelist = hosts.write("v6", names);
        let options = format!("+p4 ++ppn 1 ++nodelist {}", nodelist.display());
        let ended = run(&hosts, &options, &example("stencil3d"), "--size 32 --steps 10");
        assert!(ended.succeeded().stdout.contains("a serial run gives the same"), "{ended:?}");
    };
    ip(&hosts, 1, "-4 addr flush dev eth0");
    check(&format!("{}\nfd77::2\n", hosts.name(0)));
    ip(&hosts, 0, "-4 addr flush dev eth0");
    check("fd77::1\nfd77::2\n");
}

#[test]
fn a_pe_killed_on_another_host_ends_the_job_with_137_within_a_second() {
    let Some(hosts) = Hosts::new(3) else { return };
    let mut job = start(&hosts, "+p6 ++ppn 1", Path::new(FAULTY), "ready-and-compute");
    job.ready(6);
    let there = hosts.all(2, FAULTY);
    let since = Instant::now();
    kill_process(there[0], Signal::KILL).expect("it runs");
    job.end().failed_on(hosts.name(2), 137, "was killed by signal 9");
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    hosts.assert_empty();
}

#[test]
fn hosts_that_lose_each_other_end_the_job_with_69_within_six_seconds() {
    let Some(hosts) = Hosts::new(3) else { return };
    let mut job = start(&hosts, "+p3", Path::new(FAULTY), "ready-and-compute");
    job.ready(3);
    hosts.cut(2);
    let since = Instant::now();
    let ended = job.end();
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}: {ended:?}", since.elapsed());
    hosts::until("the other host has noticed", || hosts.processes(2).is_empty());
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    hosts.assert_empty();
}
