//! A job of PEs with one handler each, for the tests of this crate: as threads, or all on one thread.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part; a failed test panics")]

use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use charm4rs_scheduler::{Class, Config, Handler, Scheduler, Step};
use charm4rs_transport::TransportOptions;
use charm4rs_transport::port::{Incoming, Offer, Tag};
use charm4rs_transport::wireup;
use charm4rs_transport::{Layout, Pe, RegBuf};

/// A test that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Calls a closure for each message. The second byte of a message is its class.
pub(crate) struct Each<F>(pub(crate) Rc<Scheduler>, pub(crate) F);

/// A system message.
pub(crate) const SYSTEM: Tag = Tag(0xE8);
/// A call of default priority.
pub(crate) const CALL: Tag = Tag(2);
/// A call that precedes all others.
pub(crate) const EXPEDITED: Tag = Tag(3);

impl<F: Fn(&Rc<Scheduler>, Incoming)> Handler for Each<F> {
    fn class(&self, msg: &Incoming) -> Class {
        match msg.tag {
            EXPEDITED => Class::Expedited,
            _ => Class::Default,
        }
    }

    fn deliver(&self, msg: Incoming) {
        (self.1)(&self.0, msg);
    }

    fn offer(&self, offer: &Offer) -> Vec<Option<RegBuf>> {
        offer.sizes.iter().map(|_| None).collect()
    }
}

/// Sends one number.
pub(crate) fn send(pe: &Scheduler, to: Pe, tag: Tag, number: u64) {
    pe.send(to, tag, 8, |out| out.iter_mut().zip(number.to_le_bytes()).for_each(|(o, b)| _ = o.write(b)));
}

/// The number that [`send`] sent.
pub(crate) fn number(msg: &Incoming) -> u64 {
    u64::from_le_bytes(msg.msg[..8].try_into().unwrap())
}

/// Runs a job of `pes` threads; `start` creates each PE's handler. Returns the exit codes.
pub(crate) fn threads<F, H>(pes: u32, config: &Config, start: F) -> Vec<i32>
where
    F: Fn(&Rc<Scheduler>) -> H + Send + Clone + 'static,
    H: Fn(&Rc<Scheduler>, Incoming),
{
    threads_with(pes, &TransportOptions::default(), config, start)
}

/// As [`threads`], with options for the ports.
pub(crate) fn threads_with<F, H>(pes: u32, options: &TransportOptions, config: &Config, start: F) -> Vec<i32>
where
    F: Fn(&Rc<Scheduler>) -> H + Send + Clone + 'static,
    H: Fn(&Rc<Scheduler>, Incoming),
{
    let builders = wireup::local(Layout::one_host(pes, pes), options).unwrap();
    let (done, all_done) = mpsc::channel();
    let joins: Vec<_> = builders
        .into_iter()
        .map(|builder| {
            let (start, config, done) = (start.clone(), config.clone(), done.clone());
            thread::spawn(move || {
                let pe = Scheduler::new(builder.open().unwrap(), config);
                let handler = Each(pe.clone(), start(&pe));
                let code = pe.run(&handler).unwrap();
                drop(handler);
                pe.close().unwrap();
                done.send(()).unwrap();
                code
            })
        })
        .collect();
    for _ in &joins {
        assert!(all_done.recv_timeout(WATCHDOG).is_ok(), "the job hangs, or a PE panicked");
    }
    joins.into_iter().map(|j| j.join().unwrap()).collect()
}

/// All PEs of a job on this thread.
pub(crate) fn together(pes: u32, config: &Config) -> Vec<Rc<Scheduler>> {
    let options = TransportOptions { may_block: false, ..TransportOptions::default() };
    let builders = wireup::local(Layout::one_host(pes, pes), &options).unwrap();
    builders.into_iter().map(|b| Scheduler::new(b.open().unwrap(), config.clone())).collect()
}

/// Steps all PEs in turn until none has work. Returns the number of rounds.
pub(crate) fn settle<H: Handler>(pes: &[(Rc<Scheduler>, H)]) -> usize {
    for round in 0..1_000_000 {
        let mut busy = false;
        for (pe, handler) in pes {
            match pe.step(handler) {
                Step::Busy => busy = true,
                Step::Idle { .. } | Step::Stopped(_) => {}
                Step::Failed(error) => panic!("{error}"),
            }
        }
        if !busy {
            return round;
        }
    }
    panic!("the job does not settle");
}
