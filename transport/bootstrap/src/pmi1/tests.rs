//! The key space keeps its values. A launcher that sends nonsense, or does not answer, is an error and not a hang.

#[path = "launcher.rs"]
mod launcher;

use std::io::{BufRead as _, BufReader};

use super::*;
use crate::options::PES_MAX;
use launcher::launcher;

/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Joins a job of that launcher, each process on a thread of its own.
pub(crate) fn job<T: Send>(size: u32, run: impl Fn(Pmi1) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let spawn = |(rank, socket)| {
            let run = &run;
            scope.spawn(move || run(Pmi1::join(socket, rank, size, PATIENCE).unwrap()))
        };
        let threads: Vec<_> = (0u32..).zip(launcher(size as usize)).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn values_of_every_length_reach_all() {
    job(3, |mut pmi| {
        let lengths = [0, 1, 395, 396, 397, 5000, VALUE_MAX];
        let value =
            |rank: u32, len: usize| (0..len).map(|i| (i * 7 + rank as usize).to_le_bytes()[0]).collect::<Vec<_>>();
        for len in lengths {
            pmi.put(&format!("v{len}"), &value(pmi.rank, len)).unwrap();
        }
        pmi.fence().unwrap();
        for rank in 0..3 {
            for len in lengths {
                assert_eq!(pmi.get(rank, &format!("v{len}")).unwrap(), Some(value(rank, len)));
            }
        }
        assert_eq!(pmi.get(1, "nothing").unwrap(), None);
        assert!(pmi.put("long", &vec![0; VALUE_MAX + 1]).is_err());
        for key in ["a b", "a=b", "a\nb", &"k".repeat(64)] {
            assert!(pmi.put(key, b"").is_err() && pmi.get(0, key).is_err(), "{key:?}");
        }
        pmi.ending().finish();
    });
}

/// The result of a process whose launcher gives these answers, one to each question.
fn answered(answers: &'static [&'static str]) -> Result<Option<Vec<u8>>, TransportError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Open as long as the tests run: a process ends with its launcher.
    let ours: &'static UnixStream = Box::leak(Box::new(ours));
    std::thread::spawn(move || {
        let mut questions = BufReader::new(ours.try_clone().unwrap()).lines();
        for answer in answers {
            let Some(Ok(_)) = questions.next() else { break };
            // An answer that was refused has not closed anything.
            let _ = (&*ours).write_all(answer.as_bytes());
        }
    });
    let patience = if answers == ["no end"] { Duration::from_millis(200) } else { PATIENCE };
    let pmi = Pmi1::join(theirs, 0, 1, patience);
    pmi.and_then(|mut pmi| pmi.get(0, "k"))
}

const INIT: &str = "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n";
const MAXES: &str = "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024\n";
const SPACE: &str = "cmd=my_kvsname kvsname=k\n";

#[test]
fn a_launcher_that_answers_nonsense_is_an_error() {
    let check = |answers: &'static [&'static str], code: u8, want: &str| {
        let error = answered(answers).unwrap_err();
        assert!(error.code() == code && error.to_string().contains(want), "{answers:?}: {error}");
    };
    check(&["hello\n"], 69, "cannot be understood");
    check(&["cmd=barrier_out\n"], 69, "unexpected answer");
    check(
        &["cmd=response_to_init pmi_version=2 pmi_subversion=0 rc=-1\n"],
        76,
        "version of PMI differs: here 1.1, there 2.0",
    );
    check(&["no end"], 69, "not answered within 0.2 s");
    check(&[INIT, "cmd=maxes kvsname_max=1 keylen_max=64 vallen_max=8\n", SPACE], 69, "is too small");
    check(&[INIT, "cmd=maxes kvsname_max=1 keylen_max=-2 vallen_max=8\n"], 69, "keylen_max is missing or impossible");
    check(&[INIT, MAXES, "cmd=my_kvsname\n"], 69, "kvsname is missing");
    check(&[INIT, MAXES, SPACE, "cmd=get_result rc=0 value=ffffffff\n"], 69, "is damaged");
    check(&[INIT, MAXES, SPACE, "cmd=get_result rc=0 value=unknown\n"], 69, "is damaged");
    check(
        &[INIT, MAXES, SPACE, "cmd=get_result rc=0 value=000000020\n", "cmd=get_result rc=0 value=00000\n"],
        69,
        "damaged",
    );
    assert_eq!(answered(&[INIT, MAXES, SPACE, "cmd=get_result rc=0 value=00000001ab\n"]).unwrap(), Some(vec![0xab]));
}

#[test]
fn a_process_that_never_joins_is_an_error_after_the_timeout() {
    let mut sockets = launcher(2);
    let socket = sockets.remove(0);
    let mut pmi = Pmi1::join(socket, 0, 2, Duration::from_millis(100)).unwrap();
    let error = pmi.fence().unwrap_err();
    assert_eq!(error.code(), 69);
    assert!(error.to_string().contains("not all 2 processes have joined within 0.1 s"), "{error}");
}

#[test]
fn an_impossible_rank_is_refused() {
    for (rank, size) in [(1, 1), (0, 0), (0, PES_MAX + 1)] {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(Pmi1::join(ours, rank, size, PATIENCE).is_err());
    }
}
