//! Sections: some elements of a collection, with an identifier of their own.
//!
//! A section is a collection whose table holds the same elements as the whole's, so that broadcasts and reductions do not distinguish them. It exists
//! on the PEs that have elements of it, its *span*, and on its creator, which is always one of them: the creator is the root of the section's tree,
//! and is part of the section's identifier. So a PE that calls the section sends to its creator, needs to know nothing of the section, and its calls
//! arrive in the order in which they were made.
//!
//! *Creation.* The creator determines where the elements are: at home, except those of sparse arrays, whose homes are asked. Then the description
//! goes down the section's tree; each PE gets the list of the span's PEs, and only the indices that its subtree needs. Every step waits on its PE
//! until the whole collection is complete there. An element that is destroyed in the meantime does not belong to the section.
//!
//! *Contributions.* An element counts its contributions to each of its sections. A contribution to a section that its PE does not know yet gets its
//! number at once, and waits. The creator is asked whether the PE will be told of the section: otherwise a mistake would go unnoticed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use serde::{Deserialize, Serialize};

use super::collection::{AnyCollection, Key, Place, key};
use super::create::opening;
use super::execute::spawn;
use super::exit::Failure;
use super::insertion::newcomers::{self, HeldContribution};
use super::post::{reply_serialized, send_wire};
use super::reduction::counting;
use super::reduction::{Reductions, To};
use super::span::Span;
use super::{Awaited, OpenFuture, Rt, gone, reduction};
use crate::message::CollectionId;
use crate::message::envelope::{HEADER, Header, tag};
use crate::message::wire;
use crate::runtime::Reducer;
use crate::runtime::Route;
use crate::runtime::chare::{Arguments, Chare};
use crate::runtime::element::{AnyElement, Base, Element};
use crate::runtime::registry::ChareInfo;

/// The membership of an element in a section, or its contributions to it.
#[derive(Clone, Copy)]
pub(crate) struct Membership {
    id: CollectionId,
    /// The number of the section's reductions to which it has contributed.
    contributed: u64,
    /// `None` until this PE knows the section.
    section: Option<&'static dyn AnyCollection>,
}

/// A section's indices, by the PE that has the elements or knows their locations.
type Parts = BTreeMap<Pe, Vec<Key>>;

#[derive(Serialize, Deserialize)]
enum SectionMessage {
    /// To the creator itself.
    Begin { whole: CollectionId, indices: BTreeSet<Key> },
    /// To a home: where are these elements? It answers with a PE for each: itself, if the element is gone.
    Locate { whole: CollectionId, indices: Vec<Key> },
    /// The description, for the PEs of a subtree.
    Make(Description),
    /// To the creator: an element of the sender's PE has contributed.
    Expect,
}

/// What a PE must know of a section that is to be created.
#[derive(Serialize, Deserialize)]
struct Description {
    whole: CollectionId,
    root: Pe,
    pes: Vec<Pe>,
    parts: Parts,
    /// The number of first sections of the creator that are all gone ([`gone`]).
    ended: u64,
}

fn send(rt: Rt, to: Pe, header: &Header, step: &SectionMessage) {
    send_wire(rt, to, tag::SECTION, header, step, false).expect("indices and PEs can be packed");
}

/// Creates a section; returns its identifier at once.
#[track_caller]
pub(crate) fn section<T: Chare>(
    rt: Rt,
    whole: CollectionId,
    indices: impl IntoIterator<Item = T::Index>,
) -> CollectionId {
    assert!(whole.creator().is_some(), "{} is a single chare, which has no sections", T::NAME);
    let members = rt.collection::<T>(whole);
    let mut keys = Vec::new();
    for index in indices {
        if let Some(members) = members.filter(|members| !members.may_exist(&index)) {
            panic!("{} has no element {index:?}: {}", T::NAME, members.extent_text());
        }
        keys.push(key(&index));
    }
    let id = rt.new_section_id();
    open(rt, T::info(), id, whole, keys);
    id
}

/// The same, for indices that are not known yet.
pub(crate) fn section_of<T: Chare, I: IntoIterator<Item = T::Index>>(
    rt: Rt,
    whole: CollectionId,
    indices: impl Future<Output = I> + 'static,
) -> CollectionId {
    let id = rt.new_section_id();
    spawn(rt, async move {
        let keys = indices.await.into_iter().map(|index| key(&index)).collect();
        open(rt, T::info(), id, whole, keys);
    });
    id
}

fn open(rt: Rt, chare: &ChareInfo, id: CollectionId, whole: CollectionId, indices: Vec<Key>) {
    let indices = indices.into_iter().collect();
    send(rt, rt.sched.pe(), &opening(rt, chare, id), &SectionMessage::Begin { whole, indices });
}

/// A step of a section's creation has arrived.
pub(super) fn step(rt: Rt, chare: &'static ChareInfo, header: &Header, msg: Incoming) {
    let id = header.collection();
    let (Ok(step), true) = (wire::unpack::<SectionMessage>(&msg.msg[HEADER..], Vec::new()), id.is_section()) else {
        return rt.violation(msg.from, "an invalid section message", header.collection().0);
    };
    let whole = match step {
        SectionMessage::Begin { whole, .. }
        | SectionMessage::Locate { whole, .. }
        | SectionMessage::Make(Description { whole, .. }) => whole,
        SectionMessage::Expect => return expected(rt, chare, id, msg),
    };
    let members = match of(rt, chare, whole) {
        Some(members) if members.common().takes_calls(matches!(step, SectionMessage::Begin { .. })) => members,
        Some(_) => return rt.hold(whole, msg),
        None => return rt.keep(whole, msg),
    };
    let (from, known) = (msg.from, rt.any_collection(id).is_some());
    let done = match step {
        _ if whole.is_section() || whole.creator().is_none() => {
            return rt.violation(from, "a section of a collection that cannot have sections", id.0);
        }
        SectionMessage::Begin { indices, .. } if !known && id.creator() == Some(rt.sched.pe()) => {
            begin(rt, header, members, indices)
        }
        SectionMessage::Locate { indices, .. } => locate(rt, header, members, &indices),
        SectionMessage::Make(description) if !known => make(rt, header, members, description),
        _ => return rt.violation(from, "a section that exists already", id.0),
    };
    if done.is_none() {
        rt.violation(from, "a section with invalid PEs or elements", id.0);
    }
}

/// The collection with this identifier, if it has these chares.
fn of(rt: Rt, chare: &'static ChareInfo, id: CollectionId) -> Option<&'static dyn AnyCollection> {
    rt.any_collection(id).filter(|members| std::ptr::eq(members.common().info, chare))
}

fn missing(rt: Rt, whole: &dyn AnyCollection, index: &[u8]) {
    let (chare, index) = (whole.common().info.name, whole.text(index));
    let what = format!("a section of {chare} names element {index}, which does not exist");
    rt.fail(Failure { code: 1, what });
}

/// At the creator: determines where the elements are. `None`, here and below: the section is invalid.
fn begin(rt: Rt, header: &Header, whole: &'static dyn AnyCollection, indices: BTreeSet<Key>) -> Option<()> {
    let mut homes = Parts::new();
    for index in indices {
        let look = whole.look(rt, &index)?;
        // Its caller may not have known the collection.
        if !look.may_exist {
            missing(rt, whole, &index);
            return Some(());
        }
        homes.entry(look.home).or_default().push(index);
    }
    if !whole.common().sparse {
        describe(rt, header, whole.common().id(), homes);
        return Some(());
    }
    let asked: Vec<_> = homes.into_iter().map(|(home, indices)| ask(rt, header, whole, home, indices)).collect();
    // By the time of the answers, the members of the whole may be in use by another collection.
    let (header, chare, whole) = (*header, whole.common().info.name, whole.common().id());
    spawn(rt, async move {
        let mut parts = Parts::new();
        for (indices, places) in asked {
            // The only possible failure is that the whole was destroyed.
            let Ok(places) = places.await else {
                return gone::never_made(rt, chare, &header);
            };
            for (index, place) in indices.into_iter().zip(places) {
                parts.entry(place).or_default().push(index);
            }
        }
        describe(rt, &header, whole, parts);
    });
    Some(())
}

/// Indices, and the locations that a home will send.
type Asked = (Vec<Key>, OpenFuture<Vec<Pe>>);

fn ask(rt: Rt, header: &Header, whole: &dyn AnyCollection, home: Pe, indices: Vec<Key>) -> Asked {
    let places = OpenFuture::new(rt, Awaited::CREATION);
    let step = SectionMessage::Locate { whole: whole.common().id(), indices: indices.clone() };
    send(rt, home, &header.with_reply(places.id()), &step);
    (indices, places)
}

/// At a home: answers where elements are.
fn locate(rt: Rt, header: &Header, whole: &dyn AnyCollection, indices: &[Key]) -> Option<()> {
    let mut places = Vec::with_capacity(indices.len());
    for index in indices {
        let look = whole.look(rt, index)?;
        places.push(match look.place {
            _ if look.is_here => rt.sched.pe(),
            Some(Place::At(pe)) => pe,
            Some(Place::Gone | Place::Asked) => rt.sched.pe(),
            None => {
                missing(rt, whole, index);
                return Some(());
            }
        });
    }
    reply_serialized(rt, header.reply(), places);
    Some(())
}

/// At the creator: the elements have been located.
fn describe(rt: Rt, header: &Header, whole: CollectionId, parts: Parts) {
    let here = rt.sched.pe();
    // The root of the reductions must have elements, so that it can merge.
    let root = if parts.contains_key(&here) { here } else { parts.keys().next().copied().unwrap_or(here) };
    let pes: BTreeSet<Pe> = parts.keys().copied().chain([here]).collect();
    let ended = rt.gone.sections(here);
    send(
        rt,
        here,
        header,
        &SectionMessage::Make(Description { whole, root, pes: pes.into_iter().collect(), parts, ended }),
    );
}

/// A section's description has arrived: forwards it, and collects the elements that are here.
fn make(
    rt: Rt,
    header: &Header,
    whole: &'static dyn AnyCollection,
    Description { root, pes, parts, ended, .. }: Description,
) -> Option<()> {
    let (id, here) = (header.collection(), rt.sched.pe());
    let creator = id.creator().filter(|_| ended <= id.serial())?;
    let span = Span::of(rt.sched.layout(), pes.clone())?;
    if ![creator, root, here].into_iter().all(|pe| span.contains(pe)) {
        return None;
    }
    let tree = span.tree(rt.sched.layout(), creator);
    let mut below: BTreeMap<Pe, Parts> = tree.children(here).map(|child| (child, Parts::new())).collect();
    let mut own = Vec::new();
    for (pe, indices) in parts {
        if pe == here {
            own = indices;
        } else {
            below.get_mut(&tree.toward(here, pe)?)?.insert(pe, indices);
        }
    }
    for (child, parts) in below {
        let description = Description { whole: whole.common().id(), root, pes: pes.clone(), parts, ended };
        send(rt, child, header, &SectionMessage::Make(description));
    }
    rt.gone.note_sections(creator, ended);
    let section = whole.cut(rt, id, root, span);
    rt.register(section);
    own.iter().for_each(|index| whole.join(section, index));
    rt.became_known(id);
    let common = section.common();
    common.complete.set(true);
    counting::tell_when_counted(rt, &common.reductions, 0, header.reply());
    counting::count(rt, &common.reductions, section.count());
    rt.release(id);
    Some(())
}

/// At the creator: an element has contributed on a PE that did not know the section.
fn expected(rt: Rt, chare: &'static ChareInfo, id: CollectionId, msg: Incoming) {
    match of(rt, chare, id) {
        Some(section) if !section.common().reductions.span.contains(msg.from) => rt.fail(stranger(chare)),
        Some(_) => {}
        None => rt.keep(id, msg),
    }
}

fn stranger(chare: &ChareInfo) -> Failure {
    Failure { code: 1, what: format!("an element of {} contributes to a section that it is not in", chare.name) }
}

impl Base {
    /// The element is not in a section any more.
    pub(super) fn left(&self, id: CollectionId) {
        self.sections.borrow_mut().retain(|membership| membership.id != id);
    }

    /// The element is in a section from now on.
    pub(super) fn joined(&self, section: &'static dyn AnyCollection) {
        self.membership(section.common().id(), |membership| membership.section = Some(section));
    }

    /// The number of its contributions to a section.
    pub(super) fn contributed_in(&self, id: CollectionId) -> u64 {
        self.membership(id, |membership| membership.contributed)
    }

    /// Accesses its membership in a section.
    fn membership<R>(&self, id: CollectionId, look: impl FnOnce(&mut Membership) -> R) -> R {
        let mut all = self.sections.borrow_mut();
        let at = all.iter().position(|membership| membership.id == id).unwrap_or_else(|| {
            all.push(Membership { id, contributed: 0, section: None });
            all.len() - 1
        });
        look(&mut all[at])
    }
}

/// The destination of a contribution, and its number.
enum Turn {
    Known(&'static Reductions, u64),
    /// To the collection; its number is known later (`newcomers.rs`).
    Newcomer,
    /// To a section that this PE will be told of.
    Later(u64),
}

/// An element's next contribution to a collection: its own, or a section of it.
#[track_caller]
fn next(element: &dyn AnyElement, id: CollectionId) -> Turn {
    let (base, own) = (element.base(), element.members().common());
    if id == own.id() {
        let number = base.contributed.get();
        if number == newcomers::UNKNOWN {
            return Turn::Newcomer;
        }
        base.contributed.set(number + 1);
        return Turn::Known(&own.reductions, number);
    }
    let known = of(base.rt, own.info, id);
    let is_in = base.sections.borrow().iter().any(|membership| membership.id == id && membership.section.is_some());
    assert!(
        id.is_section() && (is_in || known.is_none()),
        "{}[{}] contributes to a section that it is not in",
        own.info.name,
        element.index_text()
    );
    let number = base.membership(id, |membership| {
        membership.contributed += 1;
        membership.contributed - 1
    });
    known.map_or(Turn::Later(number), |section| Turn::Known(&section.common().reductions, number))
}

/// An element gives its part of a reduction.
#[track_caller]
pub(crate) fn contribute<T: Chare, V: Arguments, R: Reducer<V>>(
    element: &Rc<Element<T>>,
    to: CollectionId,
    value: V,
    reducer: R,
    route: Route,
) {
    give::<T, V, R>(element, to, value, reducer, To::Route(route));
}

/// Like [`contribute`], for a result that goes to every contributor. Without `may_exchange` it comes from the root.
#[track_caller]
pub(crate) fn allreduce<T: Chare, V: Arguments, R: Reducer<V>>(
    element: &Rc<Element<T>>,
    to: CollectionId,
    value: V,
    reducer: R,
    may_exchange: bool,
) -> OpenFuture<R::Output> {
    let result = OpenFuture::new(element.rt, Awaited::REDUCTION);
    give::<T, V, R>(element, to, value, reducer, To::Everyone { future: result.id(), may_exchange });
    result
}

#[track_caller]
fn give<T: Chare, V: Arguments, R: Reducer<V>>(
    element: &Rc<Element<T>>,
    collection: CollectionId,
    value: V,
    reducer: R,
    to: To,
) {
    let turn = next(&**element, collection);
    if let Turn::Known(reductions, number) = turn {
        return reduction::give::<V, R>(element.rt, reductions, number, value, reducer, to);
    }
    let part = move |rt: Rt, reductions: &'static Reductions, number| {
        reduction::give::<V, R>(rt, reductions, number, value, reducer, to);
    };
    keep(element.clone(), collection, turn, Box::new(part));
}

/// Keeps a part whose number or section is not known yet.
#[cold]
fn keep(element: Rc<dyn AnyElement>, collection: CollectionId, turn: Turn, part: HeldContribution) {
    match turn {
        Turn::Known(reductions, number) => part(element.base().rt, reductions, number),
        Turn::Newcomer => element.members().common().inserted.newcomers.keep(&*element, part),
        Turn::Later(number) => later(element, collection, number, part),
    }
}

/// Gives a part when this PE knows the section.
fn later(element: Rc<dyn AnyElement>, id: CollectionId, number: u64, part: HeldContribution) {
    let (rt, chare) = (element.base().rt, element.members().common().info);
    let mut header = Header::of_collection(id, rt.sched.pe());
    header.method = chare.id();
    let creator = id.creator().expect("it is a section's");
    send(rt, creator, &header, &SectionMessage::Expect);
    rt.when_known(id, move || {
        let is_in = element.base().membership(id, |membership| membership.section.is_some());
        match of(rt, chare, id) {
            // An element that was destroyed before may have been in it: then it is counted as lost.
            Some(section) if is_in || !element.is_listed() => part(rt, &section.common().reductions, number),
            _ => rt.fail(stranger(chare)),
        }
    });
}

/// An element that is destroyed leaves its sections.
pub(super) fn leave(element: &dyn AnyElement) {
    let (rt, chare) = (element.base().rt, element.members().common().info);
    let sections = element.base().sections.borrow().clone(); // nothing is borrowed while a reduction ends
    for Membership { id, contributed, section } in sections {
        match section {
            Some(section) => {
                element.leave(section);
                counting::depart(rt, &section.common().reductions, contributed);
            }
            // It has contributed, and the contribution will be given: it is a member that leaves.
            None => rt.when_known(id, move || {
                if let Some(section) = of(rt, chare, id) {
                    counting::depart(rt, &section.common().reductions, contributed);
                }
            }),
        }
    }
}
