//! Elements that do not live at home: how their callers learn their locations.

use charm4rs::prelude::*;
use charm4rs::testing::{SimOptions, simulate};
use charm4rs::{Collection, DefaultMap, IndexMap, Places};

use crate::{law, simulated};

const LOGS: u32 = 5;

/// A PE next to the one where the tests put elements.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Beside;

impl IndexMap<u32> for Beside {
    fn pe(&self, index: &u32, places: &Places) -> Pe {
        Pe((index + 1) % places.pes)
    }
}

/// Expects the calls of each caller in the order of their numbers, each once.
#[derive(Default)]
struct Log {
    next: Vec<u64>,
}

#[chare(index = u32, map = Beside)]
impl Log {
    #[init]
    fn new() -> Self {
        Self::default()
    }
    #[entry]
    fn note(&mut self, caller: u32, number: u64) -> u64 {
        let caller = caller as usize;
        self.next.resize(self.next.len().max(caller + 1), 0);
        assert_eq!(number, self.next[caller], "of caller {caller}");
        self.next[caller] += 1;
        number
    }
    #[entry]
    fn whole(&self) -> Vec<u64> {
        self.next.clone()
    }
    #[entry]
    fn leave(&self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
}

struct Caller;

#[chare(index = u32)]
impl Caller {
    #[init]
    fn new() -> Self {
        Self
    }
    /// Calls all logs, often without waiting, at times waiting for one answer.
    #[entry]
    async fn calls(this: This<Self>, logs: Collection<Log>, rounds: u64) {
        let caller = this.index();
        for round in 0..rounds {
            for log in 0..LOGS {
                let wait = (round + u64::from(log + caller)).is_multiple_of(4);
                let answer = logs.at(log).note(caller, round);
                if wait {
                    assert_eq!(answer.await, round);
                }
            }
        }
    }

    #[entry]
    fn ping(&self) {}

    /// Calls logs twice each, with a turn of the scheduler between: their insertions may become known in it.
    #[entry]
    async fn calls_twice(this: This<Self>, logs: Collection<Log>, many: u32) {
        let own = this.proxy();
        for log in 0..many {
            let turn = own.ping().call();
            logs.at(log).note(0, 0);
            turn.await;
            logs.at(log).note(0, 1);
        }
    }

    /// Calls a log that is destroyed in the meantime, two calls at a time: returns how many were answered before the first that was not.
    #[entry]
    async fn calls_until_gone(this: This<Self>, logs: Collection<Log>) -> u64 {
        let (caller, mut answered) = (this.index(), 0);
        loop {
            let two = [answered, answered + 1].map(|number| logs.at(1).note(caller, number).checked());
            for answer in two {
                match answer.await {
                    Ok(_) => answered += 1,
                    Err(CallError::NoSuchElement { .. }) => return answered,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

fn make(job: &Job, logs: Collection<Log>, shift: u32) {
    for log in 0..LOGS {
        logs.insert_on(Pe((log + shift) % job.pes()), log, ());
    }
}

async fn all_called(job: &Job, logs: Collection<Log>, callers: Group<Caller>, rounds: u64) {
    callers.all().calls(logs, rounds).done().await;
    for log in 0..LOGS {
        assert_eq!(logs.at(log).whole().await, vec![rounds; job.pes() as usize]);
    }
}

#[test]
fn calls_keep_their_order_while_callers_learn_locations() {
    law(|job| async move {
        let (logs, callers) = (job.sparse::<Log>(), job.group::<Caller>(()));
        make(&job, logs, 0);
        all_called(&job, logs, callers, 12).await;
    });
    simulated(300, |job| async move {
        let (logs, callers) = (job.sparse::<Log>(), job.group::<Caller>(()));
        // Some are created while they are called already.
        let called = callers.all().calls(logs, 12).done();
        make(&job, logs, 3);
        called.await;
    });
}

#[test]
fn a_home_that_learns_a_location_keeps_the_order_of_its_own_calls() {
    law(|job| async move {
        const MANY: u32 = 2000;
        // The home of those with odd numbers is PE 0, which also calls them, in a job of two PEs.
        let (logs, callers) = (job.sparse::<Log>(), job.group::<Caller>(()));
        job.quiescence().await;
        let called = callers.on(Pe(0)).calls_twice(logs, MANY).done();
        (0..MANY).for_each(|log| logs.insert_on(Pe(1 % job.pes()), log, ()));
        called.await;
        logs.done_inserting().await;
    });
}

/// Records its calls.
#[derive(Default)]
struct Told(Vec<char>);

#[chare(index = u32)]
impl Told {
    #[init]
    fn new() -> Self {
        Self::default()
    }
    #[entry]
    fn tell(&mut self, what: char) {
        self.0.push(what);
    }
    #[entry]
    fn told(&self) -> Vec<char> {
        self.0.clone()
    }
}

#[test]
fn a_home_keeps_the_order_of_its_own_calls_and_broadcasts_for_an_element_that_does_not_exist_yet() {
    law(|job| async move {
        let told = job.array::<Told>(2, ());
        told.all().tell('a');
        told.at(0).tell('b');
        told.all().tell('c');
        told.at(0).tell('d');
        assert_eq!(told.at(0).told().await, ['a', 'b', 'c', 'd']);
        let filled = job.sparse::<Told>();
        filled.insert_on(job.pe(), 0, ());
        filled.done_inserting().await;
        let places = Places { pes: job.pes(), position: None };
        let home = (1..).find(|index| DefaultMap.pe(index, &places) == job.pe()).unwrap();
        filled.insert_on(job.pe(), home, ());
        filled.all().tell('a');
        filled.at(home).tell('b');
        assert_eq!(filled.at(home).told().await, ['a', 'b']);
    });
}

#[test]
fn elements_that_are_inserted_again_elsewhere_are_found_by_callers_that_knew_the_old_location() {
    simulated(150, |job| async move {
        let (logs, callers) = (job.sparse::<Log>(), job.group::<Caller>(()));
        for shift in 0..4 {
            make(&job, logs, shift);
            // Until then their homes know that they are gone.
            job.quiescence().await;
            all_called(&job, logs, callers, 6).await;
            for log in 0..LOGS {
                logs.at(log).leave().done().await;
            }
            job.quiescence().await;
        }
        logs.done_inserting().await;
        let error = logs.at(2).whole().checked().await.unwrap_err();
        assert!(matches!(error, CallError::NoSuchElement { .. }), "{error}");
    });
}

#[test]
fn the_caller_of_an_element_that_is_destroyed_gets_an_error() {
    simulated(200, |job| async move {
        let (logs, callers) = (job.sparse::<Log>(), job.group::<Caller>(()));
        make(&job, logs, 0);
        logs.done_inserting().await;
        // Not from where it lives: there a call takes no time, and simulated time advances only when all PEs wait.
        let away = (0..job.pes()).filter(|&pe| pe != 1 % job.pes());
        let called: Vec<_> = away.map(|pe| callers.on(Pe(pe)).calls_until_gone(logs).call()).collect();
        for number in 0..3 {
            logs.at(1).note(job.pes(), number).await;
        }
        logs.at(1).leave();
        for answered in called {
            answered.await;
        }
        let error = logs.at(1).whole().checked().await.unwrap_err();
        assert!(matches!(error, CallError::NoSuchElement { .. }), "{error}");
    });
}

#[test]
fn a_caller_that_knows_a_location_calls_directly() {
    let messages = |calls: u64| {
        let outcome = simulate(&SimOptions::new(3, 7), move |job| async move {
            // Its home is PE 2, and it is called from PE 0; it lives on neither.
            let logs = job.sparse::<Log>();
            logs.insert_on(Pe(1), 1, ());
            for number in 0..calls {
                logs.at(1).note(0, number).await;
            }
        });
        assert_eq!(outcome.unwrap(), 0);
        outcome.messages
    };
    assert_eq!(messages(40) - messages(20), 20 * 2, "there and back");
}

#[test]
fn a_caller_forgets_the_location_of_a_destroyed_element() {
    let messages = |calls: u64| {
        let outcome = simulate(&SimOptions::new(3, 7), move |job| async move {
            let logs = job.sparse::<Log>();
            logs.insert_on(Pe(1), 1, ());
            for number in 0..5 {
                logs.at(1).note(0, number).await;
            }
            logs.at(1).leave().done().await;
            logs.insert_on(Pe(2), 1, ());
            job.quiescence().await;
            for number in 0..calls {
                logs.at(1).note(0, number).await;
            }
        });
        assert_eq!(outcome.unwrap(), 0);
        outcome.messages
    };
    assert_eq!(messages(1) - messages(0), 2, "it is at home now");
}
