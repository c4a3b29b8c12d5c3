//! `charmbench` runs to its end on threads, and says what it measures. Figures are not looked at.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

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
}

#[test]
fn a_wrong_question_is_answered_with_the_reason() {
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
