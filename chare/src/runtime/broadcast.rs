//! Calls of all elements of a collection, and their answers.
//!
//! A broadcast goes down a tree of PEs whose root is the caller, or, for a section, its creator; every PE passes it on first and then calls its own
//! elements. If an answer is wanted, each PE waits for its elements and its children, and sends what came up
//! the same tree in one message (a *wave*). The root ends with all results, sorted by index, and gives them to the caller.
//!
//! Payloads, of arguments and of results, travel beside the messages: those of the arguments enter each process once,
//! where all its elements share them ([`shared`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;

use super::Rt;
use super::calls::{self, send_failure};
use super::collection::CollectionId;
use super::exit::Failure;
use super::shared::{self, Opened};
use crate::call::Options;
use crate::envelope::{FutureId, Header, tag};
use crate::wire::{self, Packed};
use crate::{CallError, Chare, Entry, Many, Target};

/// What the caller of a broadcast waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    None,
    Done(FutureId),
    Values(FutureId),
}

/// In the body of a broadcast, before the arguments: what is to come back.
pub(super) const SILENT: u8 = 0;
const DONE: u8 = 1;
const VALUES: u8 = 2;

/// The part of an answer that this PE collects.
pub(crate) struct Wave {
    id: FutureId,
    /// `None` at the root.
    parent: Option<Pe>,
    /// Own elements and children that have not answered, plus one while the elements are being called.
    missing: Cell<usize>,
    /// Pairs of index and result.
    results: RefCell<Vec<Packed>>,
    error: RefCell<Option<CallError>>,
    /// At the root: what makes the final value of the results.
    finish: fn(Rt, FutureId, Vec<Packed>),
}

/// Sends a call to all elements.
pub(crate) fn call_all<E: Entry>(
    rt: Rt,
    target: &Target<E::Chare, Many>,
    args: E::Args,
    options: Options,
    answer: Answer,
) {
    let (kind, to) = match answer {
        Answer::None => (SILENT, FutureId::NONE),
        Answer::Done(to) => (DONE, to),
        Answer::Values(to) => (VALUES, to),
    };
    let here = rt.sched.pe();
    let mut header = Header::new(target.collection.0, here).with_reply(to);
    (header.method, header.flags, header.priority) = (E::info().id(), options.flags, options.priority);
    if let Err(error) = shared::post(rt, entrance(rt, target.collection), tag::BROADCAST, &header, (kind, args)) {
        let error = CallError::Wire { entry: E::NAME.into(), pe: here, why: error.to_string() };
        calls::fail_call(rt, to, error);
    }
}

/// Where a broadcast begins.
pub(super) fn entrance(rt: Rt, collection: CollectionId) -> Pe {
    let here = rt.sched.pe();
    let creator = collection.creator().filter(|pe| collection.is_section() && pe.0 < rt.sched.pes());
    creator.unwrap_or(here)
}

/// A broadcast has arrived: passes it on, then calls the elements that live here.
pub(crate) fn broadcast<E: Entry>(rt: Rt, header: &Header, msg: Incoming) {
    let (id, here) = (CollectionId(header.collection), rt.sched.pe());
    let members = match rt.collection::<E::Chare>(id) {
        Some(members) if members.complete.get() => members,
        Some(_) => return rt.hold(id, msg),
        None => return rt.keep(id, msg),
    };
    let mut msg = Opened::new(header, msg);
    let mut payloads = std::mem::take(&mut msg.beside);
    let root = id.creator().filter(|_| id.is_section()).unwrap_or(Pe(header.source));
    let body = msg.bytes().split_first().filter(|_| root.0 < rt.sched.pes());
    let Some((&kind, args)) = body.filter(|(kind, _)| **kind <= VALUES) else {
        return rt.violation(msg.from, "a broadcast without a root or a body", u64::from(root.0));
    };
    let place = members.reductions.span.place(rt.sched.layout(), root, here);
    for &child in &place.children {
        shared::send(rt, child, tag::BROADCAST, header, msg.bytes(), payloads.clone());
    }
    let wave = (kind != SILENT).then(|| {
        let finish = if kind == VALUES { finish_values::<E> } else { finish_done };
        let wave = Rc::new(Wave {
            id: header.reply(),
            parent: place.parent,
            missing: Cell::new(place.children.len() + 1),
            results: RefCell::default(),
            error: RefCell::default(),
            finish,
        });
        rt.waves.borrow_mut().insert(wave.id, wave.clone());
        wave
    });
    let mut local = members.local().into_iter();
    while let Some(element) = local.next() {
        // The last one gets our share, and may have the memory to itself.
        let payloads = if local.len() == 0 { std::mem::take(&mut payloads) } else { payloads.clone() };
        let args = match wire::unpack::<E::Args>(args, payloads) {
            Ok(args) => args,
            Err(error) => {
                let why = error.to_string();
                let error = CallError::Wire { entry: E::NAME.into(), pe: rt.sched.pe(), why };
                match &wave {
                    Some(wave) => *wave.error.borrow_mut() = Some(error),
                    None => rt.fail(Failure::call(&error)),
                }
                break;
            }
        };
        let Some(wave) = wave.clone() else {
            calls::run::<E>(rt, element, args, FutureId::NONE);
            continue;
        };
        wave.missing.set(wave.missing.get() + 1);
        let index = element.index;
        calls::run_then::<E>(rt, element, args, move |result| {
            match result {
                Ok(value) if kind == VALUES => wave.keep::<E>(rt, index, &value),
                Ok(_) => {}
                Err(error) => *wave.error.borrow_mut() = Some(error),
            }
            wave.one_less(rt, here);
        });
    }
    if let Some(wave) = wave {
        wave.one_less(rt, here);
    }
}

impl Wave {
    fn keep<E: Entry>(&self, rt: Rt, index: <E::Chare as Chare>::Index, value: &E::Output) {
        match Packed::of(&(index, value)) {
            Ok(result) => self.results.borrow_mut().push(result),
            Err(error) => {
                let error = CallError::Wire { entry: E::NAME.into(), pe: rt.sched.pe(), why: error.to_string() };
                *self.error.borrow_mut() = Some(error);
            }
        }
    }

    fn one_less(&self, rt: Rt, from: Pe) {
        let Some(missing) = self.missing.get().checked_sub(1) else {
            return rt.violation(from, "an answer too many", u64::from(self.id.slot));
        };
        self.missing.set(missing);
        if missing > 0 {
            return;
        }
        rt.waves.borrow_mut().remove(&self.id);
        let results = self.results.take();
        let error = self.error.take();
        match self.parent {
            Some(parent) => {
                let header = Header::new(0, rt.sched.pe()).with_reply(self.id);
                rt.with_scratch(|bytes| {
                    let part = (results, error);
                    let beside = wire::pack(&part, bytes).expect("bytes and an error can be packed");
                    drop(part); // so that the payloads' memory need not be copied
                    shared::send(rt, parent, tag::WAVE, &header, bytes, beside);
                });
            }
            None => match error {
                Some(error) => send_failure(rt, self.id, error),
                None => (self.finish)(rt, self.id, results),
            },
        }
    }
}

/// A child's part of an answer has arrived.
pub(super) fn answer(rt: Rt, header: &Header, msg: Incoming) {
    let wave = rt.waves.borrow().get(&header.reply()).cloned();
    let mut msg = Opened::new(header, msg);
    let part = msg.read::<(Vec<Packed>, Option<CallError>)>();
    match (wave, part) {
        (Some(wave), Ok((results, error))) => {
            wave.results.borrow_mut().extend(results);
            if error.is_some() {
                *wave.error.borrow_mut() = error;
            }
            wave.one_less(rt, msg.from);
        }
        _ => rt.violation(msg.from, "an answer to no broadcast", u64::from(header.reply_slot)),
    }
}

fn finish_done(rt: Rt, to: FutureId, _: Vec<Packed>) {
    calls::reply(rt, to, ());
}

fn finish_values<E: Entry>(rt: Rt, to: FutureId, results: Vec<Packed>) {
    let read = Packed::read::<(<E::Chare as Chare>::Index, E::Output)>;
    match results.into_iter().map(read).collect::<Result<Vec<_>, _>>() {
        Ok(mut pairs) => {
            pairs.sort_by_key(|(index, _)| *index);
            calls::reply(rt, to, pairs.into_iter().map(|(_, value)| value).collect::<Vec<_>>());
        }
        Err(error) => {
            let pe = rt.sched.pe();
            send_failure(rt, to, CallError::Wire { entry: E::NAME.into(), pe, why: error.to_string() });
        }
    }
}
