//! A PE's members of a collection, and the locations of the others: the location manager.
//!
//! Every element has a *home* PE, which the collection's map names and every PE can compute. An element lives at home unless it was inserted
//! elsewhere; then its home knows where. A call goes to the PE where the caller's PE believes the element to be: this PE if it is here, otherwise a
//! PE that it was told ([`super::location`]), otherwise the home. A PE that gets a call for an element that it does not have forwards it; the home
//! forwards it to where the element lives, or keeps it until the element is created.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::ops::Range;
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use hashbrown::HashMap;

use super::create::Shape;
use super::element_table::Elements;
use super::exit::Failure;
use super::gone::{self, Likeness};
use super::insertion::casts::Casts;
use super::insertion::{census, newcomers};
use super::lacking::Collected;
use super::location::absent::Absent;
use super::location::hints::{Ended, Hinted};
use super::reduction::Reductions;
use super::span::Span;
use super::waiting::Waiting;
use super::{Rt, location};
use crate::message::CollectionId;
use crate::message::envelope::FutureId;
use crate::message::index::{ElementIndex, IndexMap, Places};
use crate::message::wire;
use crate::runtime::chare::Chare;
use crate::runtime::element::{AnyElement, Element};
use crate::runtime::registry::ChareInfo;

/// What a PE knows of an element that does not live there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    At(Pe),
    /// At its home.
    Gone,
    /// Elsewhere: this PE is requesting the location ([`super::location`]); calls wait here until then.
    Asked,
}

pub(super) type Table<K, V> = RefCell<HashMap<K, V, foldhash::fast::FixedState>>;

/// What a PE knows of a collection, independent of its chare type.
pub(crate) struct Common {
    /// Changes when the members are reused for another collection ([`super::gone`]).
    id: Cell<CollectionId>,
    /// The type of its chares.
    pub(super) info: &'static ChareInfo,
    /// Its elements are inserted.
    pub(super) sparse: bool,
    /// Everything that is created here at the collection's creation exists.
    pub(super) complete: Cell<bool>,
    pub(super) reductions: Reductions,
    pub(super) inserted: census::Insertions,
    pub(super) casts: Casts,
    /// At an element's home: calls that arrived before it. Elsewhere: calls that wait until its location is known.
    pub(super) absent: Absent,
    pub(super) hinted: Hinted,
    pub(super) ended: Ended,
    /// The collections that can reuse it.
    pub(super) like: Likeness,
}

impl Common {
    fn leaked(
        id: CollectionId,
        info: &'static ChareInfo,
        sparse: bool,
        reductions: Reductions,
        like: Likeness,
    ) -> &'static Self {
        let inserted = census::Insertions::default();
        let (id, complete) = (Cell::new(id), Cell::new(false));
        let (absent, casts) = (Absent::default(), Casts::default());
        let (hinted, ended) = (Hinted::default(), Ended::default());
        Box::leak(Box::new(Self {
            id,
            info,
            sparse,
            complete,
            reductions,
            inserted,
            casts,
            absent,
            hinted,
            ended,
            like,
        }))
    }

    #[inline]
    pub(crate) fn id(&self) -> CollectionId {
        self.id.get()
    }

    /// Whether calls of all elements are delivered. Those of this PE (`own`) must also wait while it has asked to close the array and that is not
    /// done.
    #[inline]
    pub(super) fn takes_calls(&self, own: bool) -> bool {
        self.complete.get() && !(own && self.inserted.is_closing())
    }

    /// Resets this for another collection. Returns the futures that waited for the old one to be complete.
    pub(super) fn renew(&self, id: CollectionId) -> Vec<FutureId> {
        self.id.set(id);
        self.complete.set(false);
        self.absent.renew();
        let mut waiting = self.reductions.renew(id);
        waiting.extend(self.inserted.renew());
        self.casts.renew();
        waiting
    }
}

/// A serialized index, for code that does not know the chare type.
pub(super) type Key = Vec<u8>;

pub(super) fn key<I: ElementIndex>(index: &I) -> Key {
    let mut key = Key::new();
    wire::pack(index, &mut key).expect("an index can be packed");
    key
}

/// What a PE knows of an element.
pub(crate) struct Look {
    pub(super) may_exist: bool,
    pub(super) home: Pe,
    pub(super) place: Option<Place>,
    pub(super) is_here: bool,
}

/// A PE's members of one collection. Never freed, so that elements and lookups can refer to them at no cost; those of a destroyed collection are
/// reused for a similar one ([`super::gone`]).
pub(crate) struct Members<T: Chare> {
    common: &'static Common,
    pub(super) shape: Shape<T>,
    pub(super) map: T::Map,
    elements: Elements<T>,
    /// The number of elements in memory, listed or not.
    pub(crate) alive: Cell<usize>,
    /// At an element's home: where the element is instead. Elsewhere: its last known location.
    places: Table<T::Index, Place>,
}

impl<T: Chare> Deref for Members<T> {
    type Target = Common;
    #[inline]
    fn deref(&self) -> &Common {
        self.common
    }
}

/// A collection, independent of its chare type.
pub(crate) trait AnyCollection {
    fn common(&self) -> &'static Common;
    fn as_any(&'static self) -> &'static dyn Any;
    /// The number of elements here.
    fn count(&self) -> u64;
    /// What is known of an element; `None` if the key is not an index.
    fn look(&self, rt: Rt, key: &[u8]) -> Option<Look>;
    /// An index as text.
    fn text(&self, key: &[u8]) -> String;
    /// An empty section of it.
    fn cut(&'static self, rt: Rt, id: CollectionId, root: Pe, span: Span) -> &'static dyn AnyCollection;
    /// Puts an element into a section, if it is here.
    fn join(&self, section: &'static dyn AnyCollection, key: &[u8]);
    /// The array is closed again: elements that are gone need not be distinguished from those that never existed.
    fn forget_gone(&self);
    /// A message about an element's location has arrived.
    fn told(&self, rt: Rt, msg: Incoming);
    /// Drops all elements and the calls that wait for others.
    fn clear(&self, rt: Rt);
    /// The collection that a section is cut from.
    fn whole(&self) -> Option<&'static dyn AnyCollection>;
    /// Takes all elements and the calls that wait for others.
    fn take(&self) -> (Vec<Rc<dyn AnyElement>>, Vec<Incoming>);
    /// Whether elements refer to it, listed or not.
    fn is_in_use(&self) -> bool;
    /// Reports which methods of its elements here wait, and for calls of which entry methods.
    fn waiting(&self, rt: Rt, found: &mut Waiting);
    /// What its elements here have contributed, and which calls wait for elements that are not inserted yet; `None` for single chares.
    fn collected(&self, rt: Rt) -> Option<Collected>;
}

impl<T: Chare> Members<T> {
    pub(super) fn new(id: CollectionId, shape: Shape<T>, map: T::Map, root: Pe, like: Likeness) -> &'static Self {
        Self::over(id, shape, map, root, Span::job(), like)
    }

    fn over(id: CollectionId, shape: Shape<T>, map: T::Map, root: Pe, span: Span, like: Likeness) -> &'static Self {
        let pes = super::current().sched.pes();
        let exchanges = match &shape {
            Shape::Group | Shape::Section(_) => true,
            Shape::Bounded(bounds) => bounds.volume >= u64::from(pes),
            Shape::Sparse | Shape::Solo => false,
        };
        let sparse = matches!(shape, Shape::Sparse);
        let common = Common::leaked(id, T::info(), sparse, Reductions::new(id, T::NAME, root, span, exchanges), like);
        Box::leak(Box::new(Self {
            common,
            shape,
            map,
            elements: Elements::default(),
            alive: Cell::new(0),
            places: RefCell::default(),
        }))
    }

    /// The single chares of a type; `None` if it has none.
    pub(super) fn solo(id: CollectionId) -> Option<&'static Self> {
        let members = Self::new(id, Shape::Solo, T::solo_map()?, Pe(0), Likeness::None);
        members.complete.set(true);
        Some(members)
    }

    /// Whether the collection's shape allows such an element.
    pub(crate) fn may_exist(&self, index: &T::Index) -> bool {
        self.shape.may_exist(index)
    }

    /// At the home of an element that is not here: whether it may still be created.
    pub(super) fn may_come(&self, rt: Rt, index: &T::Index) -> bool {
        match (&self.shape, T::naming().solo) {
            (Shape::Solo, Some(solo)) => {
                let (creator, serial) = (solo.origin)(index);
                !rt.solos.made(creator, serial)
            }
            (Shape::Sparse, _) => !self.absent.gives_up(),
            _ => !self.complete.get() && self.may_exist(index),
        }
    }

    /// The extent of the indices, if all indices below it exist.
    pub(crate) fn extent(&self) -> Option<T::Index> {
        match &self.shape {
            Shape::Bounded(bounds) => Some(bounds.extent),
            _ => None,
        }
    }

    pub(crate) fn is_group(&self) -> bool {
        matches!(self.shape, Shape::Group)
    }

    pub(crate) fn extent_text(&self) -> String {
        self.shape.to_string()
    }

    /// The collection to which its elements belong.
    fn whole_id(&self) -> CollectionId {
        if let Shape::Section(whole) = &self.shape { whole.id() } else { self.id() }
    }

    /// The element, if it lives here.
    #[inline(always)]
    pub(crate) fn find(&self, index: &T::Index) -> Option<Rc<Element<T>>> {
        self.elements.with(self.slot(index), index, |element| element.cloned())
    }

    /// The position of an element in this PE's block of the array.
    #[inline]
    fn slot(&self, index: &T::Index) -> Option<usize> {
        match &self.shape {
            Shape::Bounded(bounds) => self.elements.slot(bounds.position(index)?),
            Shape::Group => self.elements.slot(u64::from(self.shape.fixed(index)?.0)),
            Shape::Sparse | Shape::Solo | Shape::Section(_) => None,
        }
    }

    pub(super) fn local(&self) -> Vec<Rc<Element<T>>> {
        self.elements.all()
    }

    /// Makes room for the block of positions that belongs to this PE.
    pub(super) fn reserve(&self, block: Range<u64>) {
        self.elements.reserve(block);
    }

    /// Adds an element; `None` if it exists already.
    pub(super) fn add(&self, element: Rc<Element<T>>) -> Option<()> {
        self.elements.add(self.slot(&element.index), element)
    }

    pub(crate) fn remove(&self, index: &T::Index) -> Option<Rc<Element<T>>> {
        self.elements.remove(self.slot(index), index)
    }

    /// The PE that knows where an element is.
    #[inline(always)]
    pub(super) fn home(&self, rt: Rt, index: &T::Index) -> Pe {
        // The home of a group's element, which is requested most, is found without the code for other collections.
        if let Shape::Group = &self.shape { self.fixed_home(rt, index) } else { self.home_of_any(rt, index) }
    }

    /// PE 0 is responsible for invalid indices, which a PE may get that does not know the collection yet.
    #[inline(always)]
    fn fixed_home(&self, rt: Rt, index: &T::Index) -> Pe {
        self.shape.fixed(index).filter(|pe| pe.0 < rt.sched.pes()).unwrap_or(Pe(0))
    }

    fn home_of_any(&self, rt: Rt, index: &T::Index) -> Pe {
        let pes = rt.sched.pes();
        let position = match &self.shape {
            Shape::Solo | Shape::Group => return self.fixed_home(rt, index),
            Shape::Bounded(bounds) => match bounds.position(index) {
                Some(at) => Some((at, bounds.volume)),
                None => return Pe(0),
            },
            Shape::Sparse => None,
            Shape::Section(whole) => return whole.home(rt, index),
        };
        let pe = self.map.pe(index, &Places { pes, position });
        if pe.0 < pes { pe } else { misplaced::<T>(rt, index, pe) }
    }

    /// Where to send a call for an element that is not here. `None`: it waits until that is known.
    #[inline]
    pub(super) fn last_known_pe(&self, rt: Rt, index: &T::Index) -> Option<Pe> {
        match self.place(index) {
            Some(Place::At(pe)) => Some(pe),
            Some(Place::Asked) => None,
            Some(Place::Gone) | None => Some(self.home(rt, index)),
        }
    }

    /// Where a call goes next whose element is not here: this PE, if the call must wait here. `None`: there is no such element.
    ///
    /// What this PE has learned is used only for its `own` calls. Calls of others go through the home, which knows the location: two PEs with
    /// locations learned at different times might otherwise forward to each other forever.
    pub(super) fn next(&self, rt: Rt, index: &T::Index, own: bool) -> Option<Pe> {
        let (here, home) = (rt.sched.pe(), self.home(rt, index));
        match self.place(index) {
            Some(Place::Asked) if own => Some(here),
            Some(Place::At(pe)) if own || home == here => Some(pe),
            _ if home != here => Some(home),
            // It may be inserted again.
            Some(Place::Gone) if !(self.sparse && self.complete.get()) => None,
            _ => self.may_come(rt, index).then_some(here),
        }
    }

    pub(super) fn place(&self, index: &T::Index) -> Option<Place> {
        let place = {
            let places = self.places.borrow();
            if places.is_empty() { None } else { places.get(index).copied() }
        };
        place.or_else(|| {
            let (by, number) = self.map.once(index)?;
            self.ended.has(by, number).then_some(Place::Gone)
        })
    }

    /// The number of entries that say where elements are, and of those that say which are gone.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.places.borrow().len(), self.ended.runs())
    }

    /// Records where an element is, and forwards the calls that waited for it here, unless its location is being requested.
    pub(super) fn learn(&self, rt: Rt, index: T::Index, place: Place) {
        match (place, self.map.once(&index)) {
            (Place::Gone, Some((by, number))) => {
                self.places.borrow_mut().remove(&index);
                self.ended.note(by, number);
            }
            (Place::At(pe), _) if pe == rt.sched.pe() => drop(self.places.borrow_mut().remove(&index)),
            _ => drop(self.places.borrow_mut().insert(index, place)),
        }
        if place != Place::Asked {
            self.wake(rt, &index);
        }
    }

    /// From now on only the element's home is known.
    pub(super) fn forget(&self, rt: Rt, index: &T::Index) {
        self.places.borrow_mut().remove(index);
        self.wake(rt, index);
    }

    /// Keeps a call, or a marker, until its element is here, or its location is known.
    pub(super) fn wait(&self, rt: Rt, index: T::Index, msg: Incoming) {
        let asked = self.place(&index) == Some(Place::Asked);
        self.absent.add(key(&index), msg, asked);
        if self.sparse && self.complete.get() && !asked {
            census::probe(rt, self.common);
        }
    }

    /// Delivers the calls that waited for an element.
    pub(super) fn wake(&self, rt: Rt, index: &T::Index) {
        if !self.absent.is_empty() {
            self.absent.wake(rt, &key(index));
        }
    }
}

/// A map has named a PE that the job does not have: the job ends. Until then the element's home is PE 0.
#[cold]
#[inline(never)]
pub(super) fn misplaced<T: Chare>(rt: Rt, index: &T::Index, pe: Pe) -> Pe {
    let (chare, map, pes) = (T::NAME, std::any::type_name::<T::Map>(), rt.sched.pes());
    let what = format!(
        "the map {map} places {chare}[{index:?}] on PE {pe}, which does not exist: the job has {pes} PEs, and a map answers with a number below `places.pes`"
    );
    rt.fail(Failure { code: 1, what });
    Pe(0)
}

impl<T: Chare> AnyCollection for Members<T> {
    fn common(&self) -> &'static Common {
        self.common
    }

    fn as_any(&'static self) -> &'static dyn Any {
        self
    }

    fn count(&self) -> u64 {
        self.elements.count()
    }

    fn look(&self, rt: Rt, key: &[u8]) -> Option<Look> {
        let index = &wire::unpack::<T::Index>(key, Vec::new()).ok()?;
        Some(Look {
            may_exist: self.may_exist(index),
            home: self.home(rt, index),
            place: self.place(index),
            is_here: self.find(index).is_some(),
        })
    }

    fn text(&self, key: &[u8]) -> String {
        wire::unpack::<T::Index>(key, Vec::new()).map_or_else(|_| "?".to_owned(), |index| format!("{index:?}"))
    }

    fn cut(&'static self, rt: Rt, id: CollectionId, root: Pe, span: Span) -> &'static dyn AnyCollection {
        let like = Likeness::section(self, root, &span);
        gone::reused(rt, &like, id)
            .unwrap_or_else(|| Self::over(id, Shape::Section(self), self.map.clone(), root, span, like))
    }

    fn join(&self, section: &'static dyn AnyCollection, key: &[u8]) {
        let element = wire::unpack::<T::Index>(key, Vec::new()).ok().and_then(|index| self.find(&index));
        if let (Some(element), Some(members)) = (element, section.as_any().downcast_ref::<Self>())
            && members.add(element.clone()).is_some()
        {
            element.joined(section);
        }
    }

    fn forget_gone(&self) {
        self.places.borrow_mut().retain(|_, place| *place != Place::Gone);
    }

    fn told(&self, rt: Rt, msg: Incoming) {
        location::told::<T>(rt, self, msg);
    }

    fn clear(&self, rt: Rt) {
        // First out of the table: a chare's destructor is user code.
        for element in self.elements.take() {
            drop(element.state.take());
        }
        self.absent.take_all().into_iter().for_each(|msg| rt.discard(msg));
        self.reductions.clear();
        self.inserted.newcomers.renew();
    }

    fn whole(&self) -> Option<&'static dyn AnyCollection> {
        if let Shape::Section(whole) = self.shape { Some(whole) } else { None }
    }

    fn take(&self) -> (Vec<Rc<dyn AnyElement>>, Vec<Incoming>) {
        let elements = self.elements.take().into_iter().map(|element| element as Rc<dyn AnyElement>);
        self.places.take();
        self.ended.clear();
        self.hinted.clear();
        (elements.collect(), self.absent.take_all())
    }

    fn is_in_use(&self) -> bool {
        self.alive.get() > 0
    }

    fn collected(&self, rt: Rt) -> Option<Collected> {
        let is_section = matches!(self.shape, Shape::Section(_));
        let is_open = matches!(self.shape, Shape::Sparse) && !self.complete.get();
        if matches!(self.shape, Shape::Solo) {
            return None;
        }
        let named = rt.front.get().and_then(|front| front.chare(self.whole_id()));
        let mut collected = Collected::new(named.as_deref().unwrap_or(T::NAME), is_section, is_open);
        for element in self.elements.all() {
            let contributed = if is_section { element.contributed_in(self.id()) } else { element.contributed.get() };
            if contributed != newcomers::UNKNOWN {
                collected.element(contributed, || format!("{:?}", element.index));
            }
        }
        collected.absent(self.common, &|index| self.text(index));
        Some(collected)
    }

    fn waiting(&self, rt: Rt, found: &mut Waiting) {
        if matches!(self.shape, Shape::Section(_)) {
            return; // each element reports once, in the whole collection
        }
        for element in self.elements.all() {
            for (task, method) in element.suspended.tasks() {
                found.name(task, format!("{}[{:?}].{}", T::NAME, element.index, method.name));
            }
            for (method, key) in element.mailboxes.waiting() {
                let name = rt.registry.methods.get(usize::from(method)).map_or("?", |method| method.name);
                found.awaits(key, format!("a call of its {name}"));
            }
        }
    }
}

impl<T: Chare> fmt::Debug for Members<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("of", &T::NAME).field("here", &self.count()).finish_non_exhaustive()
    }
}
