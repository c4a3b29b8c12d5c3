//! Calls of all elements of a collection, and the answers.
//!
//! A broadcast goes down a tree of PEs whose root is the caller, or, for a section, its creator; every PE first forwards it and then calls its own
//! elements. If an answer is wanted, each PE waits for its elements and its children, and sends the answers up the same tree in one message (a
//! *wave*). The root gets all results, sorts them by index, and gives them to the caller. If the caller reduces the results, each PE merges those of its
//! elements and its children into one, by a reducer that the call names by its number ([`known`]).
//!
//! Payloads of arguments and results travel beside the messages: those of the arguments enter each process once, where all its elements share them
//! ([`shared`]).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;

use super::Rt;
use super::collection::{Common, Key, key};
use super::execute::{Then, guard};
use super::exit::Panicked;
use super::insertion::casts;
use super::post::{self, Pack, fail_call, send_failure, wire_error};
use super::reduction::Merging;
use super::shared::{self, Opened};
use crate::message::CallError;
use crate::message::CollectionId;
use crate::message::envelope::{CallOptions, FutureId, Header, NUMBERED, tag};
use crate::message::index::ElementIndex;
use crate::message::wire::{self, Aside, Packed, WireError};
use crate::runtime::chare::{Arguments, Chare, Entry};
use crate::runtime::known;
use crate::runtime::registry::MethodInfo;

/// What the caller of a broadcast waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    None,
    Done(FutureId),
    Values(FutureId),
    /// The results, merged by the reducer of this number.
    Reduced(FutureId, u64),
}

/// In the body of a broadcast, before the arguments: the kind of answer that is wanted.
pub(crate) const SILENT: u8 = 0;
const DONE: u8 = 1;
const VALUES: u8 = 2;
/// The reducer's number follows.
const REDUCED: u8 = 3;

/// The part of an answer that this PE collects.
pub(crate) struct Wave {
    id: FutureId,
    method: &'static MethodInfo,
    /// `None` at the root.
    parent: Option<Pe>,
    /// Own elements and children that have not answered, plus one while the elements are being called.
    missing: Cell<usize>,
    /// Indices and results, concatenated; empty if the results are not wanted.
    results: RefCell<Vec<Packed>>,
    error: RefCell<Option<CallError>>,
    wanted: Wanted,
}

/// What becomes of the elements' results.
enum Wanted {
    Nothing,
    /// A list: removes the indices from the results, and sorts the results by them.
    List(Sort),
    /// One value. Empty while it is being merged.
    Reduced(Cell<Option<Box<dyn Merging>>>),
}

type Sort = fn(Vec<Packed>) -> Result<Vec<Packed>, WireError>;

/// An element's part of a wave.
pub(super) struct WavePart {
    wave: Rc<Wave>,
    /// Its serialized index, if its result is to be in a list.
    index: Option<Vec<u8>>,
}

/// Sends a call to all elements.
pub(crate) fn call_all<E: Entry>(
    rt: Rt,
    collection: CollectionId,
    args: E::Args,
    options: CallOptions,
    answer: Answer,
) {
    let mut args = Some(args);
    let to = match answer {
        Answer::None => FutureId::NONE,
        Answer::Done(to) | Answer::Values(to) | Answer::Reduced(to, _) => to,
    };
    let header = post::header_of(rt, E::info(), collection, options, to);
    call_packed(rt, E::info(), &header, answer, &mut |bytes| post::pack_and_end(&mut args, bytes));
}

fn call_packed(rt: Rt, method: &MethodInfo, header: &Header, answer: Answer, pack: Pack<'_>) {
    let to = entrance(rt, header.collection());
    casts::post(rt, header.collection());
    let sent = shared::post_packed(rt, to, tag::BROADCAST, header, &mut |bytes| {
        match answer {
            Answer::None => bytes.push(SILENT),
            Answer::Done(_) => bytes.push(DONE),
            Answer::Values(_) => bytes.push(VALUES),
            Answer::Reduced(_, reducer) => {
                bytes.push(REDUCED);
                bytes.extend_from_slice(&reducer.to_ne_bytes());
            }
        }
        pack(bytes)
    });
    if let Err(error) = sent {
        fail_call(rt, header.reply(), wire_error(rt, method, &error));
    }
}

/// The PE where a broadcast begins.
pub(super) fn entrance(rt: Rt, collection: CollectionId) -> Pe {
    let here = rt.sched.pe();
    let creator = collection.creator().filter(|pe| collection.is_section() && pe.0 < rt.sched.pes());
    creator.unwrap_or(here)
}

/// The root of the tree through which a broadcast comes.
pub(super) fn root(id: CollectionId, header: &Header) -> Pe {
    id.creator().filter(|_| id.is_section()).unwrap_or(Pe(header.source))
}

/// A broadcast to a chare type has arrived: forwards it, then calls the elements that live here.
pub(crate) fn broadcast<T: Chare>(rt: Rt, method: &'static MethodInfo, header: &Header, msg: Incoming) {
    let id = header.collection();
    let members = match rt.collection::<T>(id) {
        Some(members) if members.takes_calls(header.source == rt.sched.pe().0) => members,
        Some(_) => return rt.hold(id, msg),
        None => return rt.keep(id, msg),
    };
    let Some(mut arrived) = pass_on(rt, method, header, msg, members, sort::<T::Index>) else { return };
    let mut local = members.local();
    if !arrived.spared.is_empty() {
        local.retain(|element| !arrived.spared.contains(&key(&element.index)));
    }
    let mut local = local.into_iter();
    while let Some(element) = local.next() {
        let (payloads, then) = arrived.next(local.len() == 0, &|bytes| wire::pack(&element.index, bytes));
        method.start.start_packed(rt, element, arrived.args(), payloads, then);
    }
    if let Some(wave) = arrived.wave {
        wave.one_less(rt, rt.sched.pe());
    }
}

/// A broadcast that has been forwarded.
struct Arrived {
    msg: Opened,
    /// Where the arguments begin.
    args: usize,
    payloads: Aside,
    wave: Option<Rc<Wave>>,
    /// Elements that must not get it.
    spared: HashSet<Key>,
}

/// Forwards a broadcast, and begins its wave.
fn pass_on(
    rt: Rt,
    method: &'static MethodInfo,
    header: &Header,
    msg: Incoming,
    members: &Common,
    sort: Sort,
) -> Option<Arrived> {
    let (id, here) = (header.collection(), rt.sched.pe());
    let mut msg = Opened::new(header, msg);
    let payloads = std::mem::take(&mut msg.beside);
    let root = root(id, header);
    let number = if header.flags & NUMBERED != 0 {
        msg.split_front::<u64>()
    } else {
        (members.sparse && root == here).then(|| members.casts.begin())
    };
    let asked = asked(msg.bytes(), sort).filter(|_| root.0 < rt.sched.pes());
    let Some((wanted, args)) = asked else {
        rt.violation(msg.from, "a broadcast without a root or a body", u64::from(root.0));
        return None;
    };
    let place = members.reductions.span.place(rt.sched.layout(), root, here);
    pass(rt, &place.children, header, number, msg.bytes(), &payloads);
    let spared = number.map(|number| members.casts.come(root, number)).unwrap_or_default();
    let wave = wanted.map(|wanted| {
        let wave = Rc::new(Wave {
            id: header.reply(),
            method,
            parent: place.parent,
            missing: Cell::new(place.children.len() + 1),
            results: RefCell::default(),
            error: RefCell::default(),
            wanted,
        });
        rt.waves.borrow_mut().insert(wave.id, wave.clone());
        wave
    });
    Some(Arrived { msg, args, payloads, wave, spared })
}

/// The answer that a broadcast wants, if any, and where its arguments begin.
fn asked(bytes: &[u8], sort: Sort) -> Option<(Option<Wanted>, usize)> {
    let (kind, rest) = bytes.split_first()?;
    let wanted = match *kind {
        SILENT => None,
        DONE => Some(Wanted::Nothing),
        VALUES => Some(Wanted::List(sort)),
        REDUCED => {
            let merging = known::merging(u64::from_ne_bytes(*rest.first_chunk()?))?;
            return Some((Some(Wanted::Reduced(Cell::new(Some(merging)))), 1 + size_of::<u64>()));
        }
        _ => return None,
    };
    Some((wanted, 1))
}

/// Sends a broadcast to the next PEs, with its number if it has one.
fn pass(rt: Rt, children: &[Pe], header: &Header, number: Option<u64>, bytes: &[u8], payloads: &Aside) {
    let numbered = number.map(|number| [&number.to_ne_bytes(), bytes].concat());
    let mut header = *header;
    header.flags |= if number.is_some() { NUMBERED } else { 0 };
    for &child in children {
        shared::send(rt, child, tag::BROADCAST, &header, numbered.as_deref().unwrap_or(bytes), payloads.clone());
    }
}

impl Arrived {
    /// The serialized arguments.
    fn args(&self) -> &[u8] {
        &self.msg.bytes()[self.args..]
    }

    /// For the next element: the arguments' payloads, and the receiver of the entry method's end. The last element gets our share, and may have the
    /// memory to itself.
    fn next(&mut self, is_last: bool, index: &dyn Fn(&mut Vec<u8>) -> Result<Aside, WireError>) -> (Aside, Then) {
        let payloads = if is_last { std::mem::take(&mut self.payloads) } else { self.payloads.clone() };
        let Some(wave) = &self.wave else { return (payloads, Then::reply(FutureId::NONE)) };
        wave.missing.set(wave.missing.get() + 1);
        let index = matches!(wave.wanted, Wanted::List(_)).then(|| {
            let mut bytes = Vec::with_capacity(64); // most need no more
            index(&mut bytes).expect("an index can be packed");
            bytes
        });
        (payloads, Then::wave(WavePart { wave: wave.clone(), index }))
    }
}

impl WavePart {
    pub(super) fn done<O: Arguments>(mut self, rt: Rt, value: O) {
        if let Wanted::Reduced(_) = self.wave.wanted {
            return self.merge(rt, &mut Some(value));
        }
        let packed = self.index.as_mut().map(|bytes| wire::pack(&value, bytes));
        drop(value); // so that the payloads' memory need not be copied
        self.packed(rt, packed);
    }

    fn merge(self, rt: Rt, result: &mut dyn Any) {
        self.wave.merging(rt, |merging| {
            merging.add(result);
            Ok(())
        });
        self.wave.one_less(rt, rt.sched.pe());
    }

    fn packed(self, rt: Rt, packed: Option<Result<Aside, WireError>>) {
        let Self { wave, index } = self;
        match (packed, index) {
            (Some(Ok(aside)), Some(bytes)) => wave.results.borrow_mut().push(Packed::taken(bytes, aside)),
            (Some(Err(error)), _) => *wave.error.borrow_mut() = Some(wire_error(rt, wave.method, &error)),
            _ => {}
        }
        wave.one_less(rt, rt.sched.pe());
    }

    pub(super) fn failed(self, rt: Rt, error: CallError) {
        *self.wave.error.borrow_mut() = Some(error);
        self.wave.one_less(rt, rt.sched.pe());
    }
}

impl Wave {
    fn one_less(&self, rt: Rt, from: Pe) {
        let Some(missing) = self.missing.get().checked_sub(1) else {
            return rt.violation(from, "an unexpected answer", u64::from(self.id.slot));
        };
        self.missing.set(missing);
        if missing > 0 {
            return;
        }
        rt.waves.borrow_mut().remove(&self.id);
        if self.parent.is_some() {
            self.merging(rt, |merging| {
                let merged = merging.pack()?;
                self.results.borrow_mut().extend(merged);
                Ok(())
            });
        }
        let results = self.results.take();
        let error = self.error.take();
        match self.parent {
            Some(parent) => send_part(rt, parent, self.id, (results, error)),
            None => match error {
                Some(error) => send_failure(rt, self.id, error),
                None => self.finish(rt, results),
            },
        }
    }

    /// Calls `f`, which may run user code, with the results merged so far, if they are merged.
    fn merging(&self, rt: Rt, f: impl FnOnce(&mut dyn Merging) -> Result<(), WireError>) {
        let Wanted::Reduced(merging) = &self.wanted else { return };
        let Some(mut merged) = merging.take() else { return };
        match guard(|| f(&mut *merged)) {
            Ok(Ok(())) => merging.set(Some(merged)),
            Ok(Err(error)) => *self.error.borrow_mut() = Some(wire_error(rt, self.method, &error)),
            Err(panic) => {
                *self.error.borrow_mut() = Some(reducer_panicked(rt, self.method, &panic));
            }
        }
    }

    /// At the root: gives the results to the caller.
    fn finish(&self, rt: Rt, results: Vec<Packed>) {
        let sort = match &self.wanted {
            Wanted::Nothing => return post::reply(rt, self.id, ()),
            Wanted::Reduced(_) => {
                let (chare, entry) = (self.method.chare.into(), self.method.name.into());
                let none = CallError::NoResults { chare, entry };
                self.merging(rt, |merging| {
                    merging.answer(rt, self.id, none);
                    Ok(())
                });
                let error = self.error.take();
                return error.into_iter().for_each(|error| send_failure(rt, self.id, error));
            }
            Wanted::List(sort) => sort,
        };
        match sort(results) {
            Ok(results) if self.id.pe == rt.sched.pe() => rt.futures.fulfil_list(self.id, results),
            Ok(results) => post::reply(rt, self.id, results),
            Err(error) => send_failure(rt, self.id, wire_error(rt, self.method, &error)),
        }
    }
}

/// The answer of a PE's subtree: results, and an error.
type Answered = (Vec<Packed>, Option<CallError>);

fn send_part(rt: Rt, parent: Pe, wave: FutureId, part: Answered) {
    let header = Header::of_job(rt.sched.pe()).with_reply(wave);
    rt.with_scratch(|bytes| {
        let beside = wire::pack(&part, bytes).expect("bytes and an error can be packed");
        drop(part); // so that the payloads' memory need not be copied
        shared::send(rt, parent, tag::WAVE, &header, bytes, beside);
    });
}

/// A child's part of an answer has arrived.
pub(super) fn answer(rt: Rt, header: &Header, msg: Incoming) {
    let wave = rt.waves.borrow().get(&header.reply()).cloned();
    let mut msg = Opened::new(header, msg);
    let part = msg.read::<Answered>();
    match (wave, part) {
        (Some(wave), Ok((results, error))) => {
            if let Wanted::Reduced(_) = wave.wanted {
                wave.merging(rt, |merging| results.into_iter().try_for_each(|other| merging.merge(other)));
            } else {
                wave.results.borrow_mut().extend(results);
            }
            if error.is_some() {
                *wave.error.borrow_mut() = error;
            }
            wave.one_less(rt, msg.from);
        }
        _ => rt.violation(msg.from, "an answer without a broadcast", u64::from(header.reply().slot)),
    }
}

/// A broadcast of a collection that was destroyed here: it does not go below this PE; if the caller waits for an answer it gets the error.
pub(super) fn refuse(rt: Rt, id: CollectionId, header: &Header, msg: Incoming, error: CallError) {
    let from = msg.from;
    let mut msg = Opened::new(header, msg);
    if header.flags & NUMBERED != 0 {
        msg.split_front::<u64>();
    }
    if root(id, header) == rt.sched.pe() || msg.bytes().first() == Some(&SILENT) {
        return post::fail_call(rt, header.reply(), error);
    }
    send_part(rt, from, header.reply(), (Vec::new(), Some(error)));
}

/// A reducer has panicked, so there is no result to answer with.
#[cold]
fn reducer_panicked(rt: Rt, method: &MethodInfo, panic: &Panicked) -> CallError {
    let (chare, entry, message) = (method.chare.into(), method.name.into(), panic.message.clone());
    CallError::Panicked { chare, index: "a reduction of all".into(), entry, pe: rt.sched.pe(), message }
}

/// Removes the indices from results, and sorts the results by them.
fn sort<I: ElementIndex>(mut results: Vec<Packed>) -> Result<Vec<Packed>, WireError> {
    let mut indices = Vec::with_capacity(results.len());
    for result in &mut results {
        indices.push(result.split_first::<I>()?);
    }
    Ok(sort_by(results, &|a, b| indices[a].cmp(&indices[b])))
}

fn sort_by(results: Vec<Packed>, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<Packed> {
    let mut results: Vec<_> = results.into_iter().enumerate().collect();
    results.sort_by(|(a, _), (b, _)| compare(*a, *b));
    results.into_iter().map(|(_, result)| result).collect()
}
