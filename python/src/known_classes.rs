//! The Python classes of collections, as far as this PE knows them, for error messages. To the engine all have one type.

use std::cell::RefCell;
use std::collections::VecDeque;

use charm4rs::CollectionId;
use hashbrown::HashMap;

use crate::classes::Class;
use crate::index::Index;

/// See the module's text.
#[derive(Default)]
pub(crate) struct Known {
    /// The class of each collection that has had elements here.
    classes: RefCell<HashMap<CollectionId, &'static Class>>,
    /// The classes of the collections that were destroyed last.
    gone: RefCell<VecDeque<(CollectionId, &'static Class)>>,
    /// The classes of the single chares that were destroyed here last: their collections have chares of any class.
    ended: RefCell<VecDeque<(CollectionId, Index, &'static Class)>>,
}

/// How many destroyed collections, and single chares, are remembered.
const GONE: usize = 64;

fn note<T>(list: &RefCell<VecDeque<T>>, what: T) {
    let mut list = list.borrow_mut();
    list.truncate(GONE - 1);
    list.push_front(what);
}

impl Known {
    /// An element of a collection has been made here.
    pub(crate) fn has_made(&self, collection: CollectionId, class: &'static Class) {
        self.classes.borrow_mut().insert(collection, class);
    }

    /// A collection has been destroyed.
    pub(crate) fn has_gone(&self, collection: CollectionId) {
        if let Some(class) = self.classes.borrow_mut().remove(&collection) {
            note(&self.gone, (collection, class));
        }
    }

    /// A single chare is destroyed here.
    pub(crate) fn has_ended(&self, collection: CollectionId, index: Index, class: &'static Class) {
        note(&self.ended, (collection, index, class));
    }

    /// A collection's class.
    pub(crate) fn class_of(&self, collection: CollectionId) -> Option<&'static Class> {
        let class = self.classes.borrow().get(&collection).copied();
        let gone = || self.gone.borrow().iter().find(|(id, _)| *id == collection).map(|(_, class)| *class);
        class.or_else(gone)
    }

    /// The class of a single chare that was destroyed here.
    pub(crate) fn class_of_single(&self, collection: CollectionId, index: Index) -> Option<&'static Class> {
        let ended = self.ended.borrow();
        ended.iter().find(|(of, at, _)| (*of, *at) == (collection, index)).map(|(.., class)| *class)
    }
}
