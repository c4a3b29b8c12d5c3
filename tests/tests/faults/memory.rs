//! Memory that lacks.

use crate::run;

#[test]
fn a_payload_too_large_for_its_receiver_is_an_error_of_the_call_and_both_live_on() {
    let ended = run("+p2 ++transport tcp - too-large-to-take");
    let lines: Vec<_> = ended.succeeded().stdout.lines().collect();
    let [error, after] = lines[..] else { panic!("{ended:?}") };
    assert!(
        error.starts_with("there is no memory for the 5368")
            && error.ends_with("of a call of length between PE 0 and PE 1"),
        "{error}"
    );
    assert_eq!(after, "100000");
}

#[test]
fn a_result_too_large_for_its_caller_is_an_error_of_the_call_and_both_live_on() {
    let ended = run("+p2 ++transport tcp - too-large-for-the-caller");
    let lines: Vec<_> = ended.succeeded().stdout.lines().collect();
    let [error, after] = lines[..] else { panic!("{ended:?}") };
    assert!(error.ends_with("of a result between PE 1 and PE 0"), "{error}");
    assert_eq!(after, "100000");
}

#[test]
fn a_payload_too_large_in_a_call_that_nobody_awaits_ends_the_job_with_71() {
    let ended = run("+p2 ++transport tcp - too-large-for-nobody");
    ended.failed(71, "there is no memory for the 5368");
}
