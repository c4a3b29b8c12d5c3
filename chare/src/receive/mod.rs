//! `when`-style receives: `async` methods receive calls of entry methods without a body when they are ready for them.
//!
//! The chare has a mailbox for each such method. A call goes into the mailbox, in the order of arrival, and wakes the receives that wait there, in
//! the order in which they began. Each receive takes the first call that satisfies its condition. The mailbox of a method with a key has a
//! compartment for each key, which exists while a call or a receive waits in it: see [`keyed`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use charm4rs_scheduler::WakerKey;

use crate::runtime::This;
use crate::runtime::chare::{Chare, Entry};
use crate::runtime::mailboxes::AnyMailbox;

pub mod keyed;

struct Mailbox<A> {
    letters: VecDeque<A>,
    /// The wakers of the receives that wait, by their tickets.
    waiting: VecDeque<(u64, Waker)>,
    tickets: u64,
}

impl<A> Default for Mailbox<A> {
    fn default() -> Self {
        Self { letters: VecDeque::new(), waiting: VecDeque::new(), tickets: 0 }
    }
}

impl<A: 'static> AnyMailbox for RefCell<Mailbox<A>> {
    fn keys(&self) -> Vec<WakerKey> {
        self.borrow().waiting.iter().map(|(_, waker)| WakerKey::of(waker)).collect()
    }
}

/// Puts a call into its mailbox. For `#[chare]`.
pub fn post<E: Entry>(this: &This<E::Chare>, args: E::Args) {
    let mailbox = this.element().mailboxes.of::<E, RefCell<Mailbox<E::Args>>>();
    mailbox.borrow_mut().letters.push_back(args);
    // One waker at a time: no borrow is held while it runs, and nothing is allocated.
    let nth = |at: usize| mailbox.borrow().waiting.get(at).map(|(_, waker)| waker.clone());
    (0..).map_while(nth).for_each(Waker::wake);
}

/// A receive in progress; see the module's text.
#[must_use = "a receive does nothing unless awaited"]
pub struct Receive<E: Entry, W> {
    mailbox: Rc<RefCell<Mailbox<E::Args>>>,
    wants: W,
    ticket: Option<u64>,
}

/// Begins a receive. For `#[chare]`.
pub fn receive<E: Entry>(
    this: &This<E::Chare>,
    wants: impl Fn(&E::Args) -> bool,
) -> Receive<E, impl Fn(&E::Args) -> bool> {
    Receive { mailbox: this.element().mailboxes.of::<E, _>(), wants, ticket: None }
}

/// The letters of a mailbox, taken out to check them against a condition. The drop puts them back in front of those that have arrived since, also if
/// the condition panics.
struct Opened<'a, A> {
    mailbox: &'a RefCell<Mailbox<A>>,
    letters: VecDeque<A>,
}

impl<'a, A> Opened<'a, A> {
    fn of(mailbox: &'a RefCell<Mailbox<A>>) -> Self {
        Self { mailbox, letters: std::mem::take(&mut mailbox.borrow_mut().letters) }
    }
}

impl<A> Drop for Opened<'_, A> {
    fn drop(&mut self) {
        let mut mailbox = self.mailbox.borrow_mut();
        self.letters.append(&mut mailbox.letters);
        mailbox.letters = std::mem::take(&mut self.letters);
    }
}

impl<E: Entry, W: Fn(&E::Args) -> bool> Future for Receive<E, W> {
    type Output = E::Args;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<E::Args> {
        let this = self.get_mut();
        // The condition is the user's code and may post to this mailbox, so it runs outside of the borrow.
        let found = {
            let mut opened = Opened::of(&this.mailbox);
            opened.letters.iter().position(&this.wants).and_then(|at| opened.letters.remove(at))
        };
        let mut mailbox = this.mailbox.borrow_mut();
        if let Some(args) = found {
            return Poll::Ready(args);
        }
        let ticket = *this.ticket.get_or_insert_with(|| {
            mailbox.tickets += 1;
            mailbox.tickets
        });
        match mailbox.waiting.iter_mut().find(|(other, _)| *other == ticket) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => mailbox.waiting.push_back((ticket, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl<E: Entry, W> Unpin for Receive<E, W> {}

impl<E: Entry, W> Drop for Receive<E, W> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.mailbox.borrow_mut().waiting.retain(|(other, _)| *other != ticket);
        }
    }
}

impl<E: Entry, W> fmt::Debug for Receive<E, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receive({}::{})", <E::Chare as Chare>::NAME, E::NAME)
    }
}
