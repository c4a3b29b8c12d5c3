//! `when`-style receives: entry methods without a body, taken by `async` methods when they are ready for them.
//!
//! A call of such a method goes into the chare's mailbox for it, in order of arrival. A receive takes the first call that
//! satisfies its condition; if there is none it waits, and the next arrival that satisfies it goes straight to it.
//! Among several receives that wait, the one that began first is asked first.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::{Chare, Entry, This};

/// A chare's mailboxes, by entry method.
#[derive(Default)]
pub(crate) struct Mailboxes {
    boxes: RefCell<Vec<(u16, Rc<dyn Any>)>>,
}

struct Mailbox<A> {
    letters: VecDeque<A>,
    waiting: VecDeque<Rc<Waiting<A>>>,
}

struct Waiting<A> {
    wants: Box<dyn Fn(&A) -> bool>,
    got: RefCell<(Option<A>, Option<Waker>)>,
}

impl Mailboxes {
    fn of<E: Entry>(&self) -> Rc<RefCell<Mailbox<E::Args>>> {
        let id = E::info().id();
        let mut boxes = self.boxes.borrow_mut();
        let found = match boxes.iter().position(|(method, _)| *method == id) {
            Some(at) => boxes[at].1.clone(),
            None => {
                let new: Rc<dyn Any> = Rc::new(RefCell::new(Mailbox::<E::Args> {
                    letters: VecDeque::new(),
                    waiting: VecDeque::new(),
                }));
                boxes.push((id, new.clone()));
                new
            }
        };
        found.downcast().expect("a method's mailbox holds its arguments")
    }
}

/// Puts a call into its mailbox, or hands it to who waits for it. For `#[chare]`.
pub fn post<E: Entry>(this: &This<E::Chare>, args: E::Args) {
    let mailbox = this.element().mailboxes.of::<E>();
    let waiting: Vec<_> = mailbox.borrow().waiting.iter().cloned().collect();
    // Conditions are the user's code: they run outside every borrow.
    match waiting.iter().find(|waiting| (waiting.wants)(&args)) {
        Some(chosen) => {
            mailbox.borrow_mut().waiting.retain(|waiting| !Rc::ptr_eq(waiting, chosen));
            let waker = {
                let mut got = chosen.got.borrow_mut();
                got.0 = Some(args);
                got.1.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        None => mailbox.borrow_mut().letters.push_back(args),
    }
}

/// A receive under way; see the module's text.
#[must_use = "a receive does nothing unless awaited"]
pub struct Receive<E: Entry> {
    mailbox: Rc<RefCell<Mailbox<E::Args>>>,
    waiting: Option<Rc<Waiting<E::Args>>>,
    wants: Option<Box<dyn Fn(&E::Args) -> bool>>,
}

/// Begins a receive. For `#[chare]`.
pub fn receive<E: Entry>(this: &This<E::Chare>, wants: impl Fn(&E::Args) -> bool + 'static) -> Receive<E> {
    Receive { mailbox: this.element().mailboxes.of::<E>(), waiting: None, wants: Some(Box::new(wants)) }
}

impl<E: Entry> Future for Receive<E> {
    type Output = E::Args;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<E::Args> {
        if let Some(waiting) = &self.waiting {
            let mut got = waiting.got.borrow_mut();
            return match got.0.take() {
                Some(args) => Poll::Ready(args),
                None => {
                    got.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let wants = self.wants.take().expect("a receive is not polled after its end");
        let mut letters = std::mem::take(&mut self.mailbox.borrow_mut().letters);
        let found = letters.iter().position(&wants).and_then(|at| letters.remove(at));
        {
            // The condition is the user's code and may have posted to this mailbox: what came meanwhile goes last.
            let mut mailbox = self.mailbox.borrow_mut();
            letters.append(&mut mailbox.letters);
            mailbox.letters = letters;
        }
        if let Some(args) = found {
            return Poll::Ready(args);
        }
        let waiting = Rc::new(Waiting { wants, got: RefCell::new((None, Some(cx.waker().clone()))) });
        self.mailbox.borrow_mut().waiting.push_back(waiting.clone());
        self.waiting = Some(waiting);
        Poll::Pending
    }
}

impl<E: Entry> Unpin for Receive<E> {}

impl<E: Entry> Drop for Receive<E> {
    /// A receive that is dropped gives back what it was handed.
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            let mut mailbox = self.mailbox.borrow_mut();
            mailbox.waiting.retain(|other| !Rc::ptr_eq(other, &waiting));
            if let Some(args) = waiting.got.borrow_mut().0.take() {
                mailbox.letters.push_front(args);
            }
        }
    }
}

impl<E: Entry> fmt::Debug for Receive<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receive({}::{})", <E::Chare as Chare>::NAME, E::NAME)
    }
}
