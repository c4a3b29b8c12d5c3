//! Sections: some elements of a collection, under a name of their own.
//!
//! A section is a collection whose table holds the same elements as the whole's, so that broadcasts and reductions need not
//! know the difference. It exists on the PEs that have elements of it, its *span*, and on its creator, which is always one of
//! them: the creator roots the section's tree, and is known from the section's name. So whoever calls the section sends to its
//! creator, needs to know nothing of it, and its calls arrive in the order in which they were made.
//!
//! *Creation.* The creator finds out where the elements are: at home, except those of sparse arrays, whose homes are asked. Then the
//! description goes down the section's tree; each PE gets the list of the span's PEs, and of the indices only what its subtree
//! needs. Every step waits on its PE until the whole collection is complete there. An element that is destroyed
//! meanwhile is none of the section's.
//!
//! *Contributions.* An element counts its contributions to each of its sections. One that contributes to a section of which its PE has
//! not heard yet gets its number at once; the contribution waits. The creator is asked whether the
//! PE will ever hear of it, since otherwise nobody would notice.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use serde::{Deserialize, Serialize};

use super::calls::{reply_serialized, send_wire, spawn};
use super::collection::{CollectionId, Members, Place};
use super::create::{Shape, opening};
use super::exit::Failure;
use super::reduction::To;
use super::span::Span;
use super::{Rt, reduction};
use crate::cx::Element;
use crate::envelope::{HEADER, Header, tag};
use crate::reduce::{Reducer, Sink};
use crate::reply::Awaited;
use crate::{Arguments, Chare, Reply, wire};

/// That an element is in a section, or has contributed to it.
pub(crate) struct Membership<T: Chare> {
    id: CollectionId,
    /// The number of the section's reductions that it has contributed to.
    contributed: u64,
    /// `None` until this PE has heard of the section.
    section: Option<&'static Members<T>>,
}

impl<T: Chare> Clone for Membership<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Chare> Copy for Membership<T> {}

/// A section's indices, by the PE that has or knows the elements.
type Parts<I> = BTreeMap<Pe, Vec<I>>;

#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "I: Serialize", deserialize = "I: Deserialize<'de> + Ord"))]
enum Step<I> {
    /// To the creator itself.
    Begin { whole: CollectionId, indices: BTreeSet<I> },
    /// To a home: where are these? It answers with a PE for each: itself, if the element is gone.
    Locate { whole: CollectionId, indices: Vec<I> },
    /// The description, for the PEs of a subtree.
    Make { whole: CollectionId, root: Pe, pes: Vec<Pe>, parts: Parts<I> },
    /// To the creator: an element of the sender's PE has contributed.
    Expect,
}

fn send<I: Serialize>(rt: Rt, to: Pe, header: &Header, step: &Step<I>) {
    send_wire(rt, to, tag::SECTION, header, step, false).expect("indices and PEs can be packed");
}

/// Makes a section; returns its name at once.
#[track_caller]
pub(crate) fn section<T: Chare>(rt: Rt, whole: CollectionId, indices: BTreeSet<T::Index>) -> CollectionId {
    assert!(whole.creator().is_some(), "{} is a single chare, which has no sections", T::NAME);
    if let Some(members) = rt.collection::<T>(whole)
        && let Some(index) = indices.iter().find(|index| !members.may_exist(index))
    {
        panic!("{} has no element {index:?}: {}", T::NAME, members.extent_text());
    }
    let id = rt.new_id().section();
    send(rt, rt.sched.pe(), &opening::<T>(rt, id), &Step::Begin { whole, indices });
    id
}

/// The same, of indices that are not known yet.
pub(crate) fn section_of<T: Chare>(
    rt: Rt,
    whole: CollectionId,
    indices: impl Future<Output = BTreeSet<T::Index>> + 'static,
) -> CollectionId {
    let id = rt.new_id().section();
    spawn(rt, async move {
        let indices = indices.await;
        send(rt, rt.sched.pe(), &opening::<T>(rt, id), &Step::Begin { whole, indices });
    });
    id
}

/// A step of a section's creation has arrived.
pub(crate) fn step<T: Chare>(rt: Rt, header: &Header, msg: Incoming) {
    let id = CollectionId(header.collection);
    let (Ok(step), true) = (wire::unpack::<Step<T::Index>>(&msg.msg[HEADER..], Vec::new()), id.is_section()) else {
        return rt.violation(msg.from, "a section that cannot be", header.collection);
    };
    let whole = match step {
        Step::Begin { whole, .. } | Step::Locate { whole, .. } | Step::Make { whole, .. } => whole,
        Step::Expect => return expected::<T>(rt, id, msg),
    };
    let members = match rt.collection::<T>(whole) {
        Some(members) if members.complete.get() => members,
        Some(_) => return rt.hold(whole, msg),
        None => return rt.keep(whole, msg),
    };
    let known = rt.any_collection(id).is_some();
    match step {
        _ if matches!(members.shape, Shape::Solo | Shape::Section(_)) => {
            rt.violation(msg.from, "a section of what has none", id.0);
        }
        Step::Begin { indices, .. } if !known && id.creator() == Some(rt.sched.pe()) => {
            begin(rt, header, members, indices);
        }
        Step::Locate { indices, .. } => locate(rt, header, members, &indices),
        Step::Make { root, pes, parts, .. } if !known => {
            if make(rt, header, members, root, pes, parts).is_none() {
                rt.violation(msg.from, "a section of PEs that cannot be its", id.0);
            }
        }
        _ => rt.violation(msg.from, "a section that is there already", id.0),
    }
}

fn missing<T: Chare>(rt: Rt, index: &T::Index) {
    let what = format!("a section of {} shall have element {index:?}, which does not exist", T::NAME);
    rt.fail(Failure { code: 1, what });
}

/// At the creator: finds out where the elements are.
fn begin<T: Chare>(rt: Rt, header: &Header, whole: &'static Members<T>, indices: BTreeSet<T::Index>) {
    let mut homes: Parts<T::Index> = BTreeMap::new();
    for index in indices {
        // Its caller may not have known the collection.
        if !whole.may_exist(&index) {
            return missing::<T>(rt, &index);
        }
        homes.entry(whole.home(rt, &index)).or_default().push(index);
    }
    if !matches!(whole.shape, Shape::Sparse) {
        return describe(rt, header, whole, homes);
    }
    let asked: Vec<_> = homes.into_iter().map(|(home, indices)| ask(rt, header, whole, home, indices)).collect();
    let header = *header;
    spawn(rt, async move {
        let mut parts: Parts<T::Index> = BTreeMap::new();
        for (indices, places) in asked {
            for (index, place) in indices.into_iter().zip(places.await) {
                parts.entry(place).or_default().push(index);
            }
        }
        describe(rt, &header, whole, parts);
    });
}

/// Indices, and the places that a home will tell.
type Asked<I> = (Vec<I>, Reply<Vec<Pe>>);

fn ask<T: Chare>(rt: Rt, header: &Header, whole: &Members<T>, home: Pe, indices: Vec<T::Index>) -> Asked<T::Index> {
    let places = Reply::new(rt, Awaited::CREATION);
    let step = Step::Locate { whole: whole.id(), indices: indices.clone() };
    send(rt, home, &header.with_reply(places.id()), &step);
    (indices, places)
}

/// At a home: says where elements are.
fn locate<T: Chare>(rt: Rt, header: &Header, whole: &Members<T>, indices: &[T::Index]) {
    let mut places = Vec::with_capacity(indices.len());
    for index in indices {
        places.push(match whole.place(index) {
            Some(Place::At(pe)) => pe,
            Some(Place::Gone | Place::Asked) => rt.sched.pe(),
            None if whole.find(index).is_some() => rt.sched.pe(),
            None => return missing::<T>(rt, index),
        });
    }
    reply_serialized(rt, header.reply(), places);
}

/// At the creator: the elements have been found.
fn describe<T: Chare>(rt: Rt, header: &Header, whole: &Members<T>, parts: Parts<T::Index>) {
    let here = rt.sched.pe();
    // Of the reductions: with elements, so that it can merge.
    let root = if parts.contains_key(&here) { here } else { parts.keys().next().copied().unwrap_or(here) };
    let pes: BTreeSet<Pe> = parts.keys().copied().chain([here]).collect();
    let step = Step::Make { whole: whole.id(), root, pes: pes.into_iter().collect(), parts };
    send(rt, here, header, &step);
}

/// A section's description has arrived: passes it on, and collects the elements that are here. `None` if it cannot be.
fn make<T: Chare>(
    rt: Rt,
    header: &Header,
    whole: &'static Members<T>,
    root: Pe,
    pes: Vec<Pe>,
    parts: Parts<T::Index>,
) -> Option<()> {
    let (id, here) = (CollectionId(header.collection), rt.sched.pe());
    let creator = id.creator()?;
    let span = Span::of(rt.sched.layout(), pes.clone())?;
    if ![creator, root, here].into_iter().all(|pe| span.contains(pe)) {
        return None;
    }
    let tree = span.tree(rt.sched.layout(), creator);
    let mut below: BTreeMap<Pe, Parts<T::Index>> = tree.children(here).map(|child| (child, Parts::new())).collect();
    let mut own = Vec::new();
    for (pe, indices) in parts {
        if pe == here {
            own = indices;
        } else {
            below.get_mut(&tree.toward(here, pe)?)?.insert(pe, indices);
        }
    }
    for (child, parts) in below {
        send(rt, child, header, &Step::Make { whole: whole.id(), root, pes: pes.clone(), parts });
    }
    let section = Members::section(id, whole, root, span);
    rt.register(section);
    for element in own.iter().filter_map(|index| whole.find(index)) {
        if section.add(element.clone()).is_some() {
            element.membership(id, |membership| membership.section = Some(section));
        }
    }
    rt.begin_waiting(id);
    section.complete.set(true);
    reduction::tell_when_counted(rt, &section.reductions, header.reply());
    reduction::count(rt, section, section.count());
    rt.release(id);
    Some(())
}

/// At the creator: an element has contributed on a PE that had not heard of the section.
fn expected<T: Chare>(rt: Rt, id: CollectionId, msg: Incoming) {
    match rt.collection::<T>(id) {
        Some(section) if !section.reductions.span.contains(msg.from) => rt.fail(stranger::<T>()),
        Some(_) => {}
        None => rt.keep(id, msg),
    }
}

fn stranger<T: Chare>() -> Failure {
    Failure { code: 1, what: format!("an element of {} contributes to a section that it is not in", T::NAME) }
}

impl<T: Chare> Element<T> {
    /// How often it has contributed to a section.
    pub(super) fn contributed_in(&self, id: CollectionId) -> u64 {
        self.membership(id, |membership| membership.contributed)
    }

    /// Looks at its part in a section.
    fn membership<R>(&self, id: CollectionId, look: impl FnOnce(&mut Membership<T>) -> R) -> R {
        let mut all = self.sections.borrow_mut();
        let at = all.iter().position(|membership| membership.id == id).unwrap_or_else(|| {
            all.push(Membership { id, contributed: 0, section: None });
            all.len() - 1
        });
        look(&mut all[at])
    }
}

/// Where a contribution goes, and its number.
enum Turn<T: Chare> {
    Known(&'static Members<T>, u64),
    /// To a section that this PE will hear of.
    Later(u64),
}

/// An element's next contribution to a collection: its own, or a section of that.
#[track_caller]
fn next<T: Chare>(element: &Element<T>, id: CollectionId) -> Turn<T> {
    if id == element.members.id() {
        return Turn::Known(element.members, element.contributed.replace(element.contributed.get() + 1));
    }
    let rt = element.rt;
    let known = rt.collection::<T>(id);
    let is_in = element.sections.borrow().iter().any(|membership| membership.id == id && membership.section.is_some());
    assert!(
        id.is_section() && (is_in || known.is_none()),
        "{}[{:?}] contributes to a section that it is not in",
        T::NAME,
        element.index
    );
    let number = element.membership(id, |membership| {
        membership.contributed += 1;
        membership.contributed - 1
    });
    known.map_or(Turn::Later(number), |section| Turn::Known(section, number))
}

/// An element gives its part of a reduction.
#[track_caller]
pub(crate) fn contribute<T: Chare, V: Arguments, R: Reducer<V>>(
    element: &Rc<Element<T>>,
    to: CollectionId,
    value: V,
    reducer: R,
    sink: Sink<R::Output>,
) {
    match next(element, to) {
        Turn::Known(members, number) => {
            reduction::give::<V, R>(element.rt, &members.reductions, number, value, reducer, To::Route(sink.route));
        }
        Turn::Later(number) => later(element, to, move |rt, members| {
            reduction::give::<V, R>(rt, &members.reductions, number, value, reducer, To::Route(sink.route));
        }),
    }
}

/// Like [`contribute`], for a result that comes back to every contributor.
#[track_caller]
pub(crate) fn allreduce<T: Chare, V: Arguments, R: Reducer<V>>(
    element: &Rc<Element<T>>,
    to: CollectionId,
    value: V,
    reducer: R,
) -> Reply<R::Output> {
    let reply = Reply::new(element.rt, Awaited::REDUCTION);
    let future = reply.id();
    match next(element, to) {
        Turn::Known(members, number) => {
            let to = To::Everyone(future);
            reduction::give::<V, R>(element.rt, &members.reductions, number, value, reducer, to);
        }
        Turn::Later(number) => later(element, to, move |rt, members| {
            reduction::give::<V, R>(rt, &members.reductions, number, value, reducer, To::Everyone(future));
        }),
    }
    reply
}

/// Gives a part when this PE has heard of the section.
fn later<T: Chare>(element: &Rc<Element<T>>, id: CollectionId, give: impl FnOnce(Rt, &'static Members<T>) + 'static) {
    let (rt, element) = (element.rt, element.clone());
    let mut header = Header::new(id.0, rt.sched.pe());
    header.method = T::info().id();
    let creator = id.creator().expect("it is a section's");
    send::<T::Index>(rt, creator, &header, &Step::Expect);
    rt.when_known(id, move || {
        let is_in = element.membership(id, |membership| membership.section.is_some());
        let lives = element.members.find(&element.index).is_some_and(|living| Rc::ptr_eq(&living, &element));
        match rt.collection::<T>(id) {
            // One that was destroyed before may have been in it: then it is counted as lost.
            Some(section) if is_in || !lives => give(rt, section),
            _ => rt.fail(stranger::<T>()),
        }
    });
}

/// An element that is destroyed leaves its sections.
pub(super) fn leave<T: Chare>(element: &Element<T>) {
    let rt = element.rt;
    let sections = element.sections.borrow().clone(); // nothing is borrowed while a reduction ends
    for Membership { id, contributed, section } in sections {
        match section {
            Some(section) => {
                section.remove(&element.index);
                reduction::depart(rt, section, contributed);
            }
            // It has contributed, and that will be given: it is a member that goes.
            None => rt.when_known(id, move || {
                if let Some(section) = rt.collection::<T>(id) {
                    reduction::depart(rt, section, contributed);
                }
            }),
        }
    }
}

/// What waits until this PE has heard of a section.
impl super::Runtime {
    fn when_known(&self, id: CollectionId, then: impl FnOnce() + 'static) {
        self.awaiting.borrow_mut().entry(id).or_default().push(Box::new(then));
    }

    fn begin_waiting(&self, id: CollectionId) {
        let waiting = self.awaiting.borrow_mut().remove(&id).unwrap_or_default();
        waiting.into_iter().for_each(|then| then());
    }
}
