//! Receives by key: for an entry method `#[entry(key = step)] fn edge(&mut self, step: u32, …);`, `this.recv_edge(step)` takes the next call with
//! this `step`. Calls wait in a table by key, and for each key in the order of arrival, so a receive does not search calls of other keys.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use charm4rs_scheduler::WakerKey;
use hashbrown::HashMap;

use crate::runtime::This;
use crate::runtime::chare::{Arguments, Entry};
use crate::runtime::mailboxes::AnyMailbox;

/// The type of an entry method's key: see [`#[chare]`](macro@crate::chare).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of an entry method",
    label = "calls cannot be kept by this argument",
    note = "a key is `Eq + Hash + Clone`: an integer, for example, or a type that derives these traits; floating-point numbers are not"
)]
pub trait Key: Arguments + Eq + Hash + Clone {}

#[diagnostic::do_not_recommend]
impl<K: Arguments + Eq + Hash + Clone> Key for K {}

/// The mailbox of an entry method: `A` is the type of the arguments without the key.
struct Keyed<K, A>(RefCell<Compartments<K, A>>);

struct Compartments<K, A> {
    compartments: HashMap<K, Compartment<A>, foldhash::fast::FixedState>,
    /// An empty compartment, whose memory is reused.
    spare: Option<Compartment<A>>,
}

impl<K: Key, A> Compartments<K, A> {
    fn compartment(&mut self, key: K) -> &mut Compartment<A> {
        self.compartments.entry(key).or_insert_with(|| self.spare.take().unwrap_or_default())
    }
}

struct Compartment<A> {
    letters: VecDeque<A>,
    /// The wakers of the receives that wait, by their tickets.
    waiting: VecDeque<(u64, Waker)>,
    tickets: u64,
}

impl<A> Default for Compartment<A> {
    fn default() -> Self {
        Self { letters: VecDeque::new(), waiting: VecDeque::new(), tickets: 0 }
    }
}

impl<K, A> Default for Keyed<K, A> {
    fn default() -> Self {
        Self(RefCell::new(Compartments { compartments: HashMap::default(), spare: None }))
    }
}

impl<K: 'static, A: 'static> AnyMailbox for Keyed<K, A> {
    fn keys(&self) -> Vec<WakerKey> {
        let table = self.0.borrow();
        table.compartments.values().flat_map(|one| one.waiting.iter().map(|(_, waker)| WakerKey::of(waker))).collect()
    }
}

/// Puts a call into its mailbox. For `#[chare]`.
pub fn post<E: Entry, K: Key, A: 'static>(this: &This<E::Chare>, key: K, args: A) {
    let mailbox = this.element().mailboxes.of::<E, Keyed<K, A>>();
    let first = {
        let mut table = mailbox.0.borrow_mut();
        let compartment = table.compartment(key);
        compartment.letters.push_back(args);
        compartment.waiting.front().map(|(_, waker)| waker.clone())
    };
    // Outside of the borrow. One call serves one receive; that receive wakes the next one if it takes another call, or ends.
    if let Some(first) = first {
        first.wake();
    }
}

/// A receive in progress.
#[must_use = "a receive does nothing unless awaited"]
pub struct Receive<K: Key, A> {
    mailbox: Rc<Keyed<K, A>>,
    key: K,
    ticket: Option<u64>,
}

/// Begins a receive. For `#[chare]`.
pub fn receive<E: Entry, K: Key, A: 'static>(this: &This<E::Chare>, key: K) -> Receive<K, A> {
    Receive { mailbox: this.element().mailboxes.of::<E, Keyed<K, A>>(), key, ticket: None }
}

impl<K: Key, A> Receive<K, A> {
    /// Ends the wait. Returns the waker of the next receive, if there is a call for it. Removes an empty compartment.
    fn leave(&mut self) -> Option<Waker> {
        let ticket = self.ticket.take();
        let mut table = self.mailbox.0.borrow_mut();
        let compartment = table.compartments.get_mut(&self.key)?;
        if let Some(ticket) = ticket {
            compartment.waiting.retain(|(other, _)| *other != ticket);
        }
        match (compartment.letters.is_empty(), compartment.waiting.front()) {
            (false, Some((_, next))) => return Some(next.clone()),
            (true, None) => table.spare = table.compartments.remove(&self.key),
            _ => {}
        }
        None
    }
}

impl<K: Key, A> Future for Receive<K, A> {
    type Output = A;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A> {
        let this = self.get_mut();
        let taken = {
            let mut table = this.mailbox.0.borrow_mut();
            table.compartments.get_mut(&this.key).and_then(|compartment| compartment.letters.pop_front())
        };
        if let Some(args) = taken {
            this.leave().into_iter().for_each(Waker::wake);
            return Poll::Ready(args);
        }
        let mut table = this.mailbox.0.borrow_mut();
        let compartment = table.compartment(this.key.clone());
        let ticket = *this.ticket.get_or_insert_with(|| {
            compartment.tickets += 1;
            compartment.tickets
        });
        match compartment.waiting.iter_mut().find(|(other, _)| *other == ticket) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => compartment.waiting.push_back((ticket, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl<K: Key, A> Unpin for Receive<K, A> {}

impl<K: Key, A> Drop for Receive<K, A> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.leave().into_iter().for_each(Waker::wake);
        }
    }
}

impl<K: Key + fmt::Debug, A> fmt::Debug for Receive<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receive({:?})", self.key)
    }
}
