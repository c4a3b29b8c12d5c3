//! The creation and destruction of chares.
//!
//! *Collections.* The creator chooses an identifier, knows the collection at once, and sends its description down a tree; every PE creates the
//! elements that the map assigns to it, then counts: the counts of its subtree go up the reduction tree (see [`super::reduction`]), whose root tells
//! the creator when all elements exist.
//!
//! *Sparse arrays* are filled by `insert`, from any PE, and closed by a census (see `census.rs`); then they can be filled and closed again, any
//! number of times.
//!
//! *Single chares* are elements of one collection per type that always exists; their index names their home.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::{Incoming, Tag};
use serde::{Deserialize, Serialize};

use super::collection::{AnyCollection, Members, key, misplaced};
use super::execute::guard;
use super::exit::Failure;
use super::gone::{self, Likeness};
use super::insertion::{census, newcomers};
use super::post::{self, owners};
use super::reduction::counting;
use super::shared::{self, Opened};
use super::{Awaited, OpenFuture, Rt, location, section, startup, tree};
use crate::message::CollectionId;
use crate::message::envelope::{HEADER, Header, tag};
use crate::message::index::Bounds;
use crate::message::index::{IndexMap, Places, Solo};
use crate::message::moved;
use crate::message::wire::{self, WireError};
use crate::runtime::Cx;
use crate::runtime::chare::Chare;
use crate::runtime::element::Element;
use crate::runtime::registry::ChareInfo;

/// The elements that a collection can have.
pub(crate) enum Shape<T: Chare> {
    Solo,
    /// One for each PE.
    Group,
    /// All below an extent.
    Bounded(Bounds<T::Index>),
    /// Those that are inserted.
    Sparse,
    /// Some elements of another collection.
    Section(&'static Members<T>),
}

impl<T: Chare> Shape<T> {
    pub(super) fn may_exist(&self, index: &T::Index) -> bool {
        match self {
            Self::Bounded(bounds) => bounds.position(index).is_some(),
            Self::Group => {
                let pes = super::current().sched.pes();
                self.fixed(index).is_some_and(|pe| pe.0 < pes)
            }
            Self::Solo | Self::Sparse => true,
            Self::Section(whole) => whole.may_exist(index),
        }
    }

    /// The only PE where a group's element or a single chare can be.
    pub(super) fn fixed(&self, index: &T::Index) -> Option<Pe> {
        let naming = T::naming();
        match self {
            Self::Group => naming.group.and_then(|group| (group.pe)(index)).map(Pe),
            Self::Solo => naming.solo.map(|solo| (solo.home)(index)),
            _ => None,
        }
    }
}

impl<T: Chare> fmt::Display for Shape<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Solo => f.write_str("it is a single chare"),
            Self::Group => f.write_str("it is a group, with one element for each PE"),
            Self::Bounded(bounds) => write!(f, "its extent is {:?}", bounds.extent),
            Self::Sparse => f.write_str("it is a sparse array"),
            Self::Section(_) => f.write_str("it is a section"),
        }
    }
}

/// A collection's description, as it is sent.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Description<T: Chare> {
    kind: Kind<T::Index>,
    map: T::Map,
    root: Pe,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(bound(serialize = "I: Serialize", deserialize = "I: Deserialize<'de>"))]
enum Kind<I> {
    Group,
    Bounded(I),
    Sparse,
}

impl<T: Chare> Description<T> {
    fn shape(&self) -> Option<Shape<T>> {
        let naming = T::naming();
        match &self.kind {
            Kind::Group => naming.group.map(|_| Shape::Group),
            Kind::Sparse => Some(Shape::Sparse),
            Kind::Bounded(extent) => {
                let grid = naming.grid?;
                let volume = (grid.volume)(extent)?;
                Some(Shape::Bounded(Bounds { extent: *extent, volume, grid }))
            }
        }
    }
}

/// Two collections of the same chare type for which this is equal can reuse each other's members.
fn described<T: Chare>(shape: &Shape<T>, map: &T::Map, root: Pe) -> Vec<u8> {
    let kind = match shape {
        Shape::Group => Kind::Group,
        Shape::Bounded(bounds) => Kind::Bounded(bounds.extent),
        Shape::Sparse | Shape::Solo | Shape::Section(_) => Kind::Sparse,
    };
    let mut bytes = Vec::new();
    // A description that cannot be packed is equal to no other.
    let _ = wire::pack(&Description::<T> { kind, map: map.clone(), root }, &mut bytes);
    bytes
}

/// This PE's members of a new collection.
fn members_of<T: Chare>(rt: Rt, id: CollectionId, shape: Shape<T>, map: T::Map, root: Pe) -> &'static Members<T> {
    let like = Likeness::Whole(T::info().id(), described(&shape, &map, root));
    let members = gone::reused(rt, &like, id).unwrap_or_else(|| Members::new(id, shape, map, root, like));
    rt.register(members);
    members
}

/// Creates a collection; returns its identifier at once. `init` is a `T::Init`, or `()` for a collection whose elements are inserted.
pub(crate) fn create_collection<T: Chare>(rt: Rt, shape: Shape<T>, map: T::Map, init: impl Serialize) -> CollectionId {
    startup::open(rt);
    let here = rt.sched.pe();
    let id = rt.new_id();
    let (kind, root) = match &shape {
        Shape::Group => (Kind::Group, Pe(0)),
        Shape::Bounded(bounds) => {
            let places = Places { pes: rt.sched.pes(), position: Some((0, bounds.volume)) };
            let first = (bounds.volume > 0).then(|| (bounds.grid.at)(0, &bounds.extent));
            let first = first.map(|index| (index, map.pe(&index, &places)));
            let exists =
                |(index, pe): (T::Index, Pe)| if pe.0 < places.pes { pe } else { misplaced::<T>(rt, &index, pe) };
            (Kind::Bounded(bounds.extent), first.map_or(here, exists))
        }
        Shape::Sparse | Shape::Solo | Shape::Section(_) => (Kind::Sparse, here),
    };
    members_of::<T>(rt, id, shape, map.clone(), root);
    let header = opening(rt, T::info(), id);
    if let Err(error) = shared::post(rt, here, tag::CREATE, &header, (Description::<T> { kind, map, root }, init)) {
        cannot_be_sent(T::NAME, &error);
    }
    id
}

/// The header of a new collection's description, with the future to fulfil when everything is created.
pub(super) fn opening(rt: Rt, chare: &ChareInfo, id: CollectionId) -> Header {
    let created = OpenFuture::discarding::<u64>(rt, Awaited::CREATION);
    let mut header = Header::of_collection(id, rt.sched.pe()).with_reply(created.id());
    header.method = chare.id();
    rt.created.borrow_mut().insert(id, created);
    header
}

/// A collection's description has arrived: forwards it, and creates the elements that belong here.
pub(crate) fn create<T: Chare>(rt: Rt, header: &Header, msg: Incoming) {
    let (id, creator) = (header.collection(), Pe(header.source));
    if creator.0 >= rt.sched.pes() {
        return rt.violation(msg.from, "a collection of a PE that does not exist", u64::from(creator.0));
    }
    let mut msg = Opened::new(header, msg);
    let payloads = std::mem::take(&mut msg.beside);
    for child in tree(rt, creator).children(rt.sched.pe()) {
        shared::send(rt, child, tag::CREATE, header, msg.bytes(), payloads.clone());
    }
    let Ok((description, init)) = wire::unpack_first::<Description<T>>(msg.bytes(), Vec::new()) else {
        return rt.violation(msg.from, "a collection's description that cannot be read", header.collection().0);
    };
    if description.root.0 >= rt.sched.pes() {
        return rt.violation(msg.from, "a root that does not exist", u64::from(description.root.0));
    }
    let members = match rt.collection::<T>(id) {
        // Its creator knows it already.
        Some(members) if creator == rt.sched.pe() && !members.complete.get() => members,
        Some(_) => return rt.violation(msg.from, "a collection that exists already", id.0),
        None => {
            let shape =
                description.shape().filter(|_| id.creator() == Some(creator) && rt.any_collection(id).is_none());
            let Some(shape) = shape else {
                return rt.violation(msg.from, "an invalid collection", header.collection().0);
            };
            members_of::<T>(rt, id, shape, description.map, description.root)
        }
    };
    counting::tell_when_counted(rt, &members.reductions, 0, header.reply());
    if let Some(block) = own_block(rt, members) {
        members.reserve(block);
    }
    let indices = own_indices(rt, members);
    let sparse = matches!(members.shape, Shape::Sparse);
    for index in indices {
        match wire::unpack::<T::Init>(init, payloads.clone()) {
            Ok(init) => make(rt, members, index, init),
            Err(error) => {
                let what = format!("the constructor's arguments of {} cannot be read: {error}", T::NAME);
                return rt.fail(Failure { code: 1, what });
            }
        }
    }
    members.complete.set(!sparse);
    if !sparse {
        counting::count(rt, &members.reductions, members.count());
    }
    rt.became_known(id);
    rt.release(id);
    members.absent.wake_all(rt);
}

/// The positions that are created on this PE with the collection, if they are contiguous.
fn own_block<T: Chare>(rt: Rt, members: &Members<T>) -> Option<Range<u64>> {
    let here = rt.sched.pe();
    match &members.shape {
        Shape::Bounded(bounds) => members.map.block(here, rt.sched.pes(), bounds.volume),
        Shape::Group => Some(u64::from(here.0)..u64::from(here.0) + 1),
        Shape::Sparse | Shape::Solo | Shape::Section(_) => None,
    }
}

/// The indices whose elements are created on this PE with the collection.
fn own_indices<T: Chare>(rt: Rt, members: &Members<T>) -> Vec<T::Index> {
    let here = rt.sched.pe();
    match &members.shape {
        Shape::Sparse | Shape::Solo | Shape::Section(_) => Vec::new(),
        Shape::Group => T::naming().group.map(|group| (group.of)(here)).into_iter().collect(),
        Shape::Bounded(bounds) => {
            let at = |position| (bounds.grid.at)(position, &bounds.extent);
            match own_block(rt, members) {
                Some(range) => range.map(at).collect(),
                None => (0..bounds.volume).map(at).filter(|index| members.home(rt, index) == here).collect(),
            }
        }
    }
}

/// Creates one element here. (Inlined: it is the loop of every creation.)
#[inline(always)]
fn make<T: Chare>(rt: Rt, members: &'static Members<T>, index: T::Index, init: T::Init) {
    let element = Element::<T>::new(rt, members, index);
    if members.add(element.clone()).is_none() {
        let what = format!("{}[{index:?}] was inserted twice", T::NAME);
        return rt.fail(Failure { code: 1, what });
    }
    if members.inserted.takes_newcomers() {
        members.inserted.newcomers.add(element.clone());
    }
    match guard(|| T::construct(&mut Cx { element: element.clone() }, init)) {
        Ok(state) => *element.state.borrow_mut() = Some(state),
        Err(panic) => rt.fail(Failure::panic(&format!("the constructor of {}[{index:?}]", T::NAME), &panic)),
    }
}

/// Creates a single chare on `pe`, or on the next PE in turn. Returns its collection and index.
pub(crate) fn single<T: Chare<Index = Solo>>(rt: Rt, init: T::Init, pe: Option<Pe>) -> (CollectionId, Solo) {
    startup::open(rt);
    let home = pe.unwrap_or_else(|| {
        let pe = rt.next_home.get();
        rt.next_home.set((pe + 1) % rt.sched.pes());
        Pe(pe)
    });
    let serial = rt.solos.next(home);
    let index = Solo { home, creator: rt.sched.pe(), serial };
    let collection = CollectionId::solo(T::info().id());
    send_new::<T>(rt, home, tag::SOLO, collection, index, init);
    (collection, index)
}

/// Whether a whole collection accepts new elements, as far as this PE knows.
pub(crate) fn may_insert<T: Chare>(rt: Rt, id: CollectionId) -> bool {
    rt.collection::<T>(id).is_none_or(|members| matches!(members.shape, Shape::Sparse))
}

/// Whether elements that this PE inserts now into a sparse array are not counted for reductions until the array is closed again.
pub(crate) fn is_closed<T: Chare>(rt: Rt, id: CollectionId) -> bool {
    rt.collection::<T>(id).is_some_and(|members| members.sparse && members.inserted.takes_newcomers())
}

/// Creates an element of a sparse array.
#[track_caller]
pub(crate) fn insert<T: Chare>(rt: Rt, id: CollectionId, index: T::Index, init: T::Init, pe: Option<Pe>) {
    assert!(!rt.gone.has(id), "{} has been destroyed", T::NAME);
    let Some(members) = rt.collection::<T>(id) else {
        // The creator always knows it; others learn of it from a message that may still be on its way.
        return rt.when_known(id, move || insert::<T>(super::current(), id, index, init, pe));
    };
    assert!(matches!(members.shape, Shape::Sparse), "{} is not a sparse array: {}", T::NAME, members.extent_text());
    let to = pe.unwrap_or_else(|| members.home(rt, &index));
    census::tell_seen(rt, members, to);
    send_new::<T>(rt, to, tag::INSERT, id, index, init);
    members.inserted.one_begun();
}

fn send_new<T: Chare>(rt: Rt, to: Pe, tag: Tag, id: CollectionId, index: T::Index, init: T::Init) {
    let mut header = Header::of_collection(id, rt.sched.pe());
    header.method = T::info().id();
    if let Err(error) = post::send(rt, to, tag, &header, (index, init), false) {
        cannot_be_sent(T::NAME, &error);
    }
}

#[cold]
#[track_caller]
fn cannot_be_sent(name: &str, error: &WireError) -> ! {
    panic!("the constructor's arguments of {name} cannot be sent: {error}")
}

/// A single chare, or an element of a sparse array, must be created here.
pub(crate) fn create_solo<T: Chare>(rt: Rt, header: &Header, mut msg: Incoming) {
    let id = header.collection();
    let Some(members) = rt.collection::<T>(id) else {
        return rt.keep(id, msg);
    };
    let fits = match members.shape {
        Shape::Solo => msg.tag == tag::SOLO,
        Shape::Sparse => msg.tag == tag::INSERT,
        Shape::Group | Shape::Bounded(_) | Shape::Section(_) => false,
    };
    if !fits {
        discard_new::<T>(header, msg);
        return rt.violation(Pe(header.source), "a new chare for a collection that does not accept chares", id.0);
    }
    let (index, init) = if header.is_moved() {
        // SAFETY: `send_new` wrote this type (the header names T) in this process; the message is dropped unread.
        unsafe { moved::read::<(T::Index, T::Init)>(msg.msg.as_ptr().wrapping_add(HEADER)) }
    } else {
        let payloads = owners(std::mem::take(&mut msg.payloads));
        let once = wire::Once::begin();
        let new = wire::unpack(&msg.msg[HEADER..], payloads);
        drop(once);
        match new {
            Ok(new) => new,
            Err(_) => {
                return rt.violation(msg.from, "a constructor's arguments that cannot be read", header.collection().0);
            }
        }
    };
    drop(msg);
    if matches!(members.shape, Shape::Sparse) {
        members.casts.meet(Pe(header.source), &|| key(&index));
    }
    make(rt, members, index, init);
    if matches!(members.shape, Shape::Sparse) {
        if members.home(rt, &index) == rt.sched.pe() {
            members.inserted.one_made();
        }
        location::announce(rt, members, index, true);
    }
    if let Some(solo) = T::naming().solo {
        let (creator, serial) = (solo.origin)(&index);
        rt.solos.note(creator, serial);
    }
    members.wake(rt, &index);
}

/// Drops a new element that will not be created, and the value that was moved into its message.
pub(crate) fn discard_new<T: Chare>(header: &Header, msg: Incoming) {
    if header.is_moved() {
        // SAFETY: as in `create_solo`; read only to be dropped.
        drop(unsafe { moved::read::<(T::Index, T::Init)>(msg.msg.as_ptr().wrapping_add(HEADER)) });
    }
}

/// Destroys an element when its current entry method has ended.
pub(crate) fn destroy<T: Chare>(element: &Rc<Element<T>>) {
    let rt = element.rt;
    let members = element.members;
    if members.remove(&element.index).is_none() {
        return;
    }
    let ended = element.clone();
    rt.sched_later(move || gone::destroy(rt, &*ended));
    if matches!(members.shape, Shape::Solo) {
        return;
    }
    location::announce(rt, members, element.index, false);
    members.casts.part(&|| key(&element.index));
    match element.contributed.get() {
        newcomers::UNKNOWN => members.inserted.newcomers.remove(&**element),
        contributed => counting::depart(rt, &members.reductions, contributed),
    }
    section::leave(&**element);
}

fn next(serials: &Cell<u32>) -> u32 {
    let serial = serials.get();
    assert!(serial >> 31 == 0, "a PE makes fewer than 2 billion collections, and as many sections");
    serials.set(serial + 1);
    serial
}

/// Identifiers, and the future that a collection's creator can wait for.
impl super::Runtime {
    /// The identifier of a new collection.
    pub(super) fn new_id(&self) -> CollectionId {
        CollectionId::new(self.sched.pe(), next(&self.serials))
    }

    /// The identifier of a new section.
    pub(super) fn new_section_id(&self) -> CollectionId {
        CollectionId::new(self.sched.pe(), next(&self.section_serials)).section()
    }

    pub(crate) fn created(&'static self, id: CollectionId) -> OpenFuture<()> {
        let created = self.created.borrow_mut().remove(&id);
        let gone = || self.gone.has(id).then(|| gone::never_created(self));
        created.or_else(gone).expect("`created` is asked once, by the PE that made the collection")
    }

    /// Runs `f` when the current entry method has ended.
    pub(super) fn sched_later(&self, f: impl FnOnce() + 'static) {
        self.sched.spawn(async move { f() });
    }
}
