//! The scheduler's side of `quiescence`: it sends the signals, determines when the PE is idle, and runs the callbacks.

use charm4rs_transport::TransportError;
use charm4rs_transport::port::{Charge, Incoming};

use super::Scheduler;
use crate::quiescence::{Action, Signal};

impl Scheduler {
    /// Runs `f` on this PE once the job is quiescent: everything that was in progress anywhere at the time of this call, and what it caused, has
    /// ended.
    pub fn on_quiescence(&self, f: impl FnOnce() + 'static) {
        let mut actions = self.actions.take();
        let request = self.quiescence.borrow_mut().ask(&mut actions);
        self.callbacks.borrow_mut().push((request, Box::new(f)));
        self.act(actions);
    }

    /// Answers a quiescence wave, if one waits and the PE is idle: the caller knows that the queues are empty.
    pub(super) fn answer_wave(&self) -> bool {
        if !self.quiescence.borrow().waits_for_idle() || self.inbox.notified() {
            return false;
        }
        let Some(sums) = self.sums() else { return false };
        let mut actions = self.actions.take();
        self.quiescence.borrow_mut().idle(sums, &mut actions);
        self.act(actions);
        true
    }

    pub(super) fn signal(&self, msg: &Incoming) -> Result<(), TransportError> {
        let mut actions = self.actions.take();
        let taken = Signal::decode(msg.tag, &msg.msg)
            .and_then(|signal| self.quiescence.borrow_mut().signal(msg.from, signal, &mut actions));
        self.act(actions);
        taken.map_err(|violation| TransportError::Protocol {
            from: msg.from,
            what: violation.what(),
            detail: msg.tag.0.into(),
        })
    }

    fn act(&self, mut actions: Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Send(to, signal) => {
                    let (tag, bytes, len) = signal.encode();
                    self.post(to, tag, Charge::NONE, len, |out| {
                        out.iter_mut().zip(bytes).for_each(|(to, byte)| _ = to.write(byte));
                    });
                }
                Action::Fire { request } => self.fire_callback(request),
                Action::Pause(time) => {
                    let me = self.me.clone();
                    self.after_system(time, move || {
                        let Some(me) = me.upgrade() else { return };
                        let mut actions = me.actions.take();
                        me.quiescence.borrow_mut().resume(&mut actions);
                        me.act(actions);
                    });
                }
            }
        }
        // Reuse the vector's memory.
        self.actions.replace(actions);
    }

    fn fire_callback(&self, request: u64) {
        let mut callbacks = self.callbacks.borrow_mut();
        let Some(at) = callbacks.iter().position(|(r, _)| *r == request) else { return };
        let (_, f) = callbacks.remove(at);
        drop(callbacks);
        self.worked.set(true);
        f();
    }
}
