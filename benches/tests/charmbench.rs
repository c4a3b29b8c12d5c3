//! `charmbench` runs to its end on threads, and prints its tables. The figures are not checked.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn charmbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_charmbench")).args(args).output().unwrap()
}

/// The first words of the tables that it prints.
fn tables(args: &[&str]) -> Vec<String> {
    let output = charmbench(args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let heads = text.split("\n\n").filter_map(|table| table.trim_start().split_once(':'));
    heads.map(|(layer, _)| layer.to_owned()).collect()
}

#[test]
fn each_layer_is_measured_in_one_launch_and_can_be_picked() {
    assert_eq!(tables(&["+p2", "rate", "--runs", "1"]), ["raw local", "port, local", "entry method"]);
    assert_eq!(tables(&["+p2", "rate", "--runs", "1", "--layer", "raw"]), ["raw local"]);
    assert_eq!(tables(&["+p3", "rate", "--runs", "1", "--layer", "port"]), ["port, local"]);
    assert_eq!(tables(&["rate", "--runs", "1"]), ["entry method"], "one PE has no partner");
    assert_eq!(tables(&["+p2", "put", "--runs", "1", "--size", "8,64K"]), ["raw local"; 2]);
}

#[test]
fn operations_of_all_pes_are_measured_on_any_number_of_them() {
    let rows = |pes: &str, what: &str, size: &str| {
        let (code, said) = run(&[pes, what, "--runs", "1", "--size", size], &[]);
        assert_eq!(code, Some(0), "{said}");
        said.lines().filter(|line| line.starts_with("8 B ") || line.starts_with("2 KiB ")).count()
    };
    for what in ["broadcast", "allreduce", "alltoall"] {
        assert_eq!([rows("+p1", what, "8,2K"), rows("+p3", what, "8,2K")], [2, 2], "{what}");
    }
    for what in ["bibw", "overlap", "put-window"] {
        assert_eq!([rows("+p1", what, "2K"), rows("+p3", what, "2K")], [0, 1], "{what} is between two");
    }
    for (what, row) in [
        ("barrier", "one after another"),
        ("idle-wake", "after 5 ms"),
        ("rate", "1 pairs at once"),
        ("stencil", "2 KiB"),
        ("messages", &format!("{:<34} {:>8} {:>12}", "allreduce", 32, "160.0")),
    ] {
        let (code, said) = run(&["+p2", what, "--runs", "1"], &[]);
        assert!(code == Some(0) && said.lines().any(|line| line.starts_with(row)), "{said}");
    }
}

#[test]
fn a_program_starts_before_it_ends() {
    let json = file("startup.json");
    let (code, said) = run(&["+p2", "startup", "--runs", "1", "--json"], &[&json]);
    assert_eq!(code, Some(0), "{said}");
    let run: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let rows: Vec<(&str, f64)> = run["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["name"].as_str().unwrap(), row["runs"][0].as_f64().unwrap()))
        .collect();
    // The launcher starts processes, if it has been built.
    let launcher = Path::new(env!("CARGO_BIN_EXE_charmbench")).with_file_name("charmrun");
    assert_eq!(rows.len(), if launcher.exists() { 6 } else { 2 }, "{rows:?}");
    for pair in rows.chunks(2) {
        assert!(0.0 < pair[0].1 && pair[0].1 < pair[1].1, "{pair:?}");
    }
}

#[test]
fn a_wrong_command_line_is_refused_with_the_reason() {
    for (args, code, what) in [
        (&["+p2", "--layer", "cake"][..], 64, "'cake'"),
        (&["rate", "--layer", "raw"], 1, "between two PEs"),
        (&["++help-me"], 64, "++help"),
        (&["python", "no-such-python"], 1, "no-such-python cannot be run"),
    ] {
        let output = charmbench(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(what), "{said}");
    }
}

/// A file of this test.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn run(args: &[&str], files: &[&Path]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_charmbench")).args(args).args(files).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), said)
}

#[test]
fn a_run_is_kept_compared_and_drawn() {
    let [json, csv, page, svg] = ["run.json", "run.csv", "run.html", "run.svg"].map(file);
    let args =
        ["+p2", "latency", "--runs", "5", "--layer", "port", "--size", "8,64K", "--json", json.to_str().unwrap()];
    let (code, said) = run(&[&args[..], &["--csv", csv.to_str().unwrap(), "--plot"]].concat(), &[&page]);
    assert_eq!(code, Some(0), "{said}");

    let rows = std::fs::read_to_string(csv).unwrap();
    let rows: Vec<Vec<&str>> = rows.lines().map(|row| row.rsplitn(9, ',').collect()).collect();
    assert_eq!(rows.iter().map(|row| row[7]).collect::<Vec<_>>(), ["bytes", "8", "65536"]);
    for row in &rows[1..] {
        let [p999, p99, max, median, min] = [1, 2, 3, 4, 5].map(|at| row[at].parse::<f64>().unwrap());
        assert!(min > 0.0 && min <= median && median <= max && p99 <= p999, "{row:?}");
    }

    let (code, said) = run(&["plot", "--out"], &[&svg, &json, &json]);
    assert_eq!(code, Some(0), "{said}");
    for (picture, begins) in [(&page, "<!doctype html>"), (&svg, "<svg ")] {
        let text = std::fs::read_to_string(picture).unwrap();
        assert!(text.starts_with(begins) && text.contains("KiB") && text.contains("polyline"), "{text}");
    }

    let (code, said) = run(&["compare"], &[&json, &json]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 rows in both runs, 0 slower"), "{said}");

    // A build that is much slower is detected, and named.
    let slow = file("slow.json");
    let mut text: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    for time in text["records"][1]["runs"].as_array_mut().unwrap() {
        *time = (time.as_f64().unwrap() * 10.0).into();
    }
    std::fs::write(&slow, text.to_string()).unwrap();
    let (code, said) = run(&["compare"], &[&json, &slow]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.lines().any(|line| line.contains("64 KiB") && line.ends_with("SLOWER")), "{said}");
    assert!(said.contains("1 of 2 rows are slower than before"), "{said}");
    let (code, said) = run(&["compare"], &[&slow, &json]);
    assert_eq!(code, Some(0), "faster is not a failure: {said}");
}

#[test]
fn a_file_that_is_not_a_run_is_refused_with_the_reason() {
    let [empty, other] = ["empty.json", "other.json"].map(file);
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&other, r#"{"format": 1}"#).unwrap();
    for (path, why) in
        [(&empty, "is not a charmbench run"), (&other, "missing field"), (&file("none.json"), "No such file")]
    {
        let (code, said) = run(&["compare"], &[path, path]);
        assert!(code == Some(1) && said.contains(why), "{said}");
    }
}
