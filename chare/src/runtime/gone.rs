//! The destruction of collections.
//!
//! The PE that destroys a collection tells every PE twice: down the tree of its own broadcasts, and directly. A PE destroys its part of the
//! collection when it has received both, so that earlier broadcasts and calls of the same PE come first. (Those with payloads may come later, and so
//! may those that another PE forwards.) For a section the message goes only down the section's tree, through which all its calls come; when a
//! collection is destroyed, its sections are destroyed too.
//!
//! *Later messages* find that the collection was destroyed: every PE remembers the identifiers of destroyed collections ([`Intervals`]). A call
//! fails, like one of a destroyed chare; other messages of the collection's protocols are dropped. Only the section's own PEs are told that a section
//! ends. The other PEs would have to remember the gaps between the identifiers that they know; to avoid this the creator reports with each new
//! section how many of its first sections are all gone.
//!
//! *Memory.* Elements refer to their PE's members of a collection without counting, so the members are never freed. They are reused for a later
//! collection with the same chare type, shape, map and root ([`Likeness`]), as soon as no element refers to them. So a program that creates and
//! destroys the same collections repeatedly needs no more memory.

use std::cell::RefCell;

use charm4rs_scheduler::Handler;
use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use hashbrown::HashMap;

use super::broadcast;
use super::calls::undeliverable;
use super::collection::AnyCollection;
use super::exit::Failure;
use super::intervals::Intervals;
use super::post::{send_failure, send_wire};
use super::span::Span;
use super::{Awaited, Dispatcher, OpenFuture, Rt, tree};
use crate::message::CallError;
use crate::message::CollectionId;
use crate::message::envelope::{HEADER, Header, tag};
use crate::message::wire;
use crate::runtime::chare::Chare;
use crate::runtime::element::AnyElement;

type Map<K, V> = RefCell<HashMap<K, V, foldhash::fast::FixedState>>;

/// What a PE knows of destroyed collections.
#[derive(Default)]
pub(super) struct Gone {
    /// The serial numbers by creator; sections separately.
    ids: Map<(Pe, bool), Intervals>,
    /// Collections whose end a PE has reported in one way and not yet in the other.
    told: Map<CollectionId, Vec<Pe>>,
    /// Members that can be reused.
    spare: Map<Likeness, Vec<&'static dyn AnyCollection>>,
}

impl Gone {
    pub(super) fn has(&self, id: CollectionId) -> bool {
        let ids = self.ids.borrow();
        let of = |pe| ids.get(&(pe, id.is_section()));
        !ids.is_empty() && id.creator().and_then(of).is_some_and(|ids| ids.contains(id.serial()))
    }

    fn note(&self, id: CollectionId) {
        if let Some(creator) = id.creator() {
            self.ids.borrow_mut().entry((creator, id.is_section())).or_default().insert(id.serial());
        }
        self.told.borrow_mut().remove(&id);
    }

    /// The number of sections that a PE created first and that are all gone.
    pub(super) fn sections(&self, by: Pe) -> u64 {
        self.ids.borrow().get(&(by, true)).and_then(|ids| ids.end(0)).unwrap_or(0)
    }

    /// The creator of sections reports this number.
    pub(super) fn note_sections(&self, by: Pe, ended: u64) {
        if ended > 0 {
            self.ids.borrow_mut().entry((by, true)).or_default().insert_below(ended);
        }
    }

    /// Whether `by` has reported it before.
    fn is_second(&self, id: CollectionId, by: Pe) -> bool {
        let mut told = self.told.borrow_mut();
        let told = told.entry(id).or_default();
        let known = told.contains(&by);
        if !known {
            told.push(by);
        }
        known
    }
}

/// Two collections for which this is equal can use the same members.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Likeness {
    /// It is never destroyed.
    None,
    /// The chare type; shape, map and root in serialized form.
    Whole(u16, Vec<u8>),
    /// The address of the whole's members on this PE; the root; and the PEs, unless they are all.
    Section(usize, Pe, Option<Vec<Pe>>),
}

impl Likeness {
    pub(super) fn section(whole: &'static dyn AnyCollection, root: Pe, span: &Span) -> Self {
        Self::Section(std::ptr::from_ref(whole.common()).addr(), root, span.pes().map(<[Pe]>::to_vec))
    }
}

/// Members of an earlier similar collection, if there are any that are not in use.
pub(super) fn reused<T: 'static>(rt: Rt, like: &Likeness, id: CollectionId) -> Option<&'static T> {
    spare(rt, like, id)?.as_any().downcast_ref()
}

fn spare(rt: Rt, like: &Likeness, id: CollectionId) -> Option<&'static dyn AnyCollection> {
    let members = {
        let mut spare = rt.gone.spare.borrow_mut();
        let spare = spare.get_mut(like)?;
        let free = spare.iter().position(|members| !members.is_in_use())?;
        spare.swap_remove(free)
    };
    // Code that still held an element may have contributed for it.
    members.common().renew(id);
    Some(members)
}

/// Destroys a collection.
pub(crate) fn destroy_collection<T: Chare>(rt: Rt, id: CollectionId) {
    let here = rt.sched.pe();
    let mut header = Header::of_collection(id, here);
    header.method = T::info().id();
    if id.is_section() {
        return send(rt, broadcast::entrance(rt, id), &header, true);
    }
    (0..rt.sched.pes()).for_each(|pe| send(rt, Pe(pe), &header, false));
    send(rt, here, &header, true);
}

fn send(rt: Rt, to: Pe, header: &Header, by_tree: bool) {
    send_wire(rt, to, tag::DESTROY, header, by_tree, false).expect("a truth value can be packed");
}

/// A PE reports that it destroys a collection.
pub(super) fn step(rt: Rt, header: &Header, msg: Incoming) {
    let (id, here, by) = (header.collection(), rt.sched.pe(), Pe(header.source));
    let root = broadcast::root(id, header);
    let can_end = id.creator().is_some() && root.0 < rt.sched.pes();
    let (Ok(by_tree), true) = (wire::unpack::<bool>(&msg.msg[HEADER..], Vec::new()), can_end) else {
        return rt.violation(msg.from, "the destruction of a collection that cannot be destroyed", id.0);
    };
    let members = rt.any_collection(id);
    let is_gone = rt.gone.has(id);
    match members {
        None if !is_gone => return rt.keep(id, msg),
        Some(members) if !members.common().complete.get() && !members.common().sparse => return rt.hold(id, msg),
        // Behind the broadcasts that wait for the census.
        Some(members) if by_tree && by == here && members.common().inserted.is_closing() => return rt.hold(id, msg),
        _ => {}
    }
    if by_tree && !id.is_section() {
        tree(rt, root).children(here).for_each(|child| send(rt, child, header, true));
    }
    let Some(members) = members else { return };
    if id.is_section() {
        let place = members.common().reductions.span.place(rt.sched.layout(), root, here);
        place.children.iter().for_each(|child| send(rt, *child, header, true));
    }
    if id.is_section() || rt.gone.is_second(id, by) {
        end(rt, members);
    }
}

/// Destroys this PE's part of a collection.
fn end(rt: Rt, members: &'static dyn AnyCollection) {
    let common = members.common();
    let id = common.id();
    note(rt, id);
    let is_its =
        |other: &&'static dyn AnyCollection| other.whole().is_some_and(|whole| std::ptr::eq(whole.common(), common));
    let sections: Vec<_> = rt.collections.borrow().values().copied().filter(is_its).collect();
    sections.into_iter().for_each(|section| end(rt, section));
    let (elements, calls) = members.take();
    if members.whole().is_some() {
        elements.iter().for_each(|element| element.base().left(id));
    } else {
        rt.sched_later(move || elements.into_iter().for_each(|element| destroy(rt, &*element)));
    }
    for waiting in common.renew(id) {
        send_failure(rt, waiting, destroyed(rt, common.info.name, "its creation"));
    }
    rt.gone.spare.borrow_mut().entry(common.like.clone()).or_default().push(members);
    if let Some(front) = rt.front.get() {
        front.gone(id);
    }
    tell(rt, id, calls);
}

/// Records that the collection of this identifier is destroyed.
fn note(rt: Rt, id: CollectionId) {
    rt.gone.note(id);
    rt.unregister(id);
}

/// Delivers the messages that waited for it, which now find that it is destroyed.
fn tell(rt: Rt, id: CollectionId, waited: Vec<Incoming>) {
    let early = rt.early.borrow_mut().remove(&id).unwrap_or_default();
    drop(rt.awaiting.borrow_mut().remove(&id));
    waited.into_iter().chain(early).for_each(|msg| Dispatcher(rt).deliver(msg));
}

/// The future of a creation that cannot complete because the collection is destroyed.
pub(super) fn never_created(rt: Rt) -> OpenFuture<()> {
    let created = OpenFuture::new(rt, Awaited::CREATION);
    send_failure(rt, created.id(), destroyed(rt, "a chare", "its creation"));
    created
}

/// A section of a `chare` will not be created: its whole was destroyed.
pub(super) fn never_made(rt: Rt, chare: &str, header: &Header) {
    if let Some(to) = header.reply().wanted() {
        send_failure(rt, to, destroyed(rt, chare, "a section, or the number of its elements"));
    }
    let id = header.collection();
    // Its creator may have reported already that it is gone.
    if !rt.gone.has(id) {
        note(rt, id);
        if let Some(front) = rt.front.get() {
            front.gone(id);
        }
    }
    tell(rt, id, Vec::new());
}

/// Ends the suspended methods of an element that its collection no longer lists, and drops the chare.
pub(super) fn destroy(rt: Rt, element: &dyn AnyElement) {
    for (task, _) in element.base().suspended.tasks() {
        rt.sched.cancel(task);
    }
    element.drop_state();
}

fn destroyed(rt: Rt, chare: &str, what: &str) -> CallError {
    CallError::Destroyed { chare: chare.into(), what: what.into(), pe: rt.sched.pe() }
}

/// A message for a collection that was destroyed.
pub(super) fn too_late(rt: Rt, id: CollectionId, msg: Incoming) {
    let header = Header::of(&msg).expect("the dispatcher has read it");
    let (from, tag, number) = (msg.from, msg.tag, usize::from(header.method));
    if matches!(tag, tag::CALL | tag::BROADCAST) {
        let Some(method) = rt.registry.methods.get(number) else {
            return rt.violation(from, "an entry method that does not exist", number as u64);
        };
        // A front calls all its methods through one of its own.
        let named = rt.front.get().and_then(|front| front.chare(id));
        let error = match &named {
            Some(chare) => destroyed(rt, chare, "a method"),
            None => destroyed(rt, method.chare, method.name),
        };
        return match tag {
            tag::CALL => undeliverable(rt, method, &header, msg, error),
            _ => broadcast::refuse(rt, id, &header, msg, error),
        };
    }
    let chare = rt.registry.chares.get(number).map_or("a collection", |chare| chare.name);
    rt.discard(msg);
    match tag {
        tag::INSERT => rt.fail(Failure { code: 1, what: destroyed(rt, chare, "an insertion").to_string() }),
        tag::SECTION if header.collection().is_section() => never_made(rt, chare, &header),
        tag::SECTION | tag::CENSUS => {
            if let Some(to) = header.reply().wanted() {
                send_failure(rt, to, destroyed(rt, chare, "a section, or the number of its elements"));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate as charm4rs;
    use crate::runtime::current;
    use crate::runtime::intervals::Intervals;

    struct Block;

    #[crate::chare(index = usize)]
    impl Block {
        #[init]
        fn new() -> Self {
            Self
        }
        #[entry]
        fn here(&self) {}
        #[entry]
        fn names(&self) {
            let names = names();
            assert!(names <= 12, "{names}");
        }
    }

    /// The number of runs needed to remember the destroyed identifiers.
    fn names() -> usize {
        current().gone.ids.borrow().values().map(Intervals::runs).sum()
    }

    #[test]
    fn sections_of_other_pes_leave_no_gaps_in_the_names() {
        let end = charm4rs::testing::threads(4, |job| async move {
            let blocks = job.array::<Block>(4, ());
            for round in 0..100 {
                let section = blocks.section([1 + round % 3]);
                section.all().here().done().await;
                section.destroy();
                // A section that still exists keeps all later ones too.
                if round % 10 == 9 {
                    job.quiescence().await;
                }
            }
            for pe in 1..4 {
                blocks.at(pe).names().await;
            }
        });
        assert_eq!(end.unwrap(), 0);
    }

    #[test]
    fn collections_that_come_and_go_share_their_memory() {
        let end = charm4rs::testing::threads(2, |job| async move {
            let mut made = 0;
            for round in 0..100 {
                let blocks = job.array::<Block>(4 + round % 2, ());
                let section = blocks.section([1, 3]);
                blocks.all().here().done().await;
                section.all().here().done().await;
                // Its whole is destroyed before it is created.
                blocks.section([2]).destroy();
                blocks.destroy();
                job.quiescence().await;
                assert_eq!((current().early.borrow().len(), current().created.borrow().len()), (0, 0));
                let spare = current().gone.spare.borrow();
                made = spare.values().map(Vec::len).sum();
            }
            // Two shapes, and a section of each.
            assert_eq!(made, 4);
            assert_eq!(names(), 2, "of arrays, and of sections");
        });
        assert_eq!(end.unwrap(), 0);
    }
}
