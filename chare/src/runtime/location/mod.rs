//! Locations of elements: homes are told them, and callers learn them.
//!
//! A home is told when an element is created elsewhere, and when it is gone. Other PEs send to the home, which forwards calls; the PE that runs a
//! forwarded call tells the caller's PE where the element is (a *hint*), so that later calls can go there directly. When the element is gone, its PE
//! tells all PEs that it has told, and they forget the location.
//!
//! *Order.* The caller's earlier calls may still be on the long path, and calls on the short path would overtake them. So after a hint its PE *asks*:
//! it sends a marker along the long path, behind them, and holds its own calls until the answer. A marker goes where a call would go, waits where a
//! call would wait, and is answered by the PE that has the element, or that knows that it is gone. Then the held calls go to that PE. For the same
//! reason calls of an element stay behind earlier calls of it that are in the PE's own queue ([`crate::runtime::queued`]).
//!
//! Order is kept among calls of equal urgency that are at least as urgent as the default: the marker has the default urgency. Messages with payloads
//! may overtake others on a network anyway.

pub(super) mod absent;
pub(super) mod hints;

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use serde::{Deserialize, Serialize};

use crate::message::envelope::{HEADER, Header, tag};
use crate::message::wire;
use crate::runtime::Rt;
use crate::runtime::chare::Chare;
use crate::runtime::collection::{Members, Place, key};
use crate::runtime::create::Shape;
use crate::runtime::post::send_wire;

/// A message about an element's location.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum LocationMessage {
    /// To its home: it lives on the sender.
    Lives,
    /// To its home, and to PEs that were told its location: it is gone.
    Gone,
    /// To a caller: it lives on the sender.
    Hint,
    /// On the path of the calls of this PE.
    Marker(Pe),
    /// The answer: it lives on the sender, or it is gone.
    Here(bool),
}

fn send<T: Chare>(rt: Rt, members: &Members<T>, to: Pe, index: T::Index, step: LocationMessage) {
    let header = Header::of_collection(members.id(), rt.sched.pe());
    send_wire(rt, to, tag::LOCATION, &header, (index, step), false).expect("an index can be packed: it came here so");
}

/// Tells an element's home that it is here, or, if it is not, that it is gone.
pub(super) fn announce<T: Chare>(rt: Rt, members: &Members<T>, index: T::Index, lives: bool) {
    let home = members.home(rt, &index);
    if !lives {
        members.hinted.forget(&|| key(&index), &mut |pe| {
            if pe != home {
                send(rt, members, pe, index, LocationMessage::Gone);
            }
        });
    }
    if home != rt.sched.pe() {
        send(rt, members, home, index, if lives { LocationMessage::Lives } else { LocationMessage::Gone });
    } else if !lives && !matches!(members.shape, Shape::Solo) {
        // For single chares it is known which have been created.
        members.learn(rt, index, Place::Gone);
    }
}

/// A call of `caller` has come here through another PE.
#[cold]
pub(super) fn hint<T: Chare>(rt: Rt, members: &Members<T>, index: T::Index, caller: u32) {
    let caller = Pe(caller);
    if caller == rt.sched.pe() || caller.0 >= rt.sched.pes() {
        return;
    }
    // A PE that sends many calls at once is told once.
    if members.hinted.note(key(&index), caller) {
        send(rt, members, caller, index, LocationMessage::Hint);
    }
}

/// A message about an element's location has arrived.
pub(super) fn told<T: Chare>(rt: Rt, members: &Members<T>, msg: Incoming) {
    let from = msg.from;
    let Ok((index, step)) = wire::unpack::<(T::Index, LocationMessage)>(&msg.msg[HEADER..], Vec::new()) else {
        return rt.violation(from, "a location that cannot be read", msg.msg.len() as u64);
    };
    match step {
        LocationMessage::Lives => {
            members.inserted.one_made();
            members.learn(rt, index, Place::At(from));
        }
        LocationMessage::Gone if members.place(&index) != Some(Place::At(from)) => {}
        LocationMessage::Gone if members.home(rt, &index) == rt.sched.pe() => members.learn(rt, index, Place::Gone),
        LocationMessage::Gone => members.forget(rt, &index),
        LocationMessage::Hint => ask(rt, members, index, from),
        LocationMessage::Marker(asker) if asker.0 >= rt.sched.pes() => {
            rt.violation(from, "a question of a PE that does not exist", u64::from(asker.0));
        }
        LocationMessage::Marker(asker) => pass(rt, members, index, asker, msg),
        LocationMessage::Here(lives) if members.place(&index) == Some(Place::Asked) => match lives {
            true => members.learn(rt, index, Place::At(from)),
            false => members.forget(rt, &index),
        },
        LocationMessage::Here(_) => rt.violation(from, "an answer without a question", u64::from(from.0)),
    }
}

/// Asks whether calls can go directly to where an element seems to be.
fn ask<T: Chare>(rt: Rt, members: &Members<T>, index: T::Index, at: Pe) {
    let here = rt.sched.pe();
    let known = members.place(&index);
    let needless = known == Some(Place::At(at)) || members.find(&index).is_some();
    if needless || members.home(rt, &index) == here {
        return;
    }
    let Some(way) = members.last_known_pe(rt, &index) else { return };
    members.learn(rt, index, Place::Asked);
    send(rt, members, way, index, LocationMessage::Marker(here));
}

/// A marker takes the path of calls.
fn pass<T: Chare>(rt: Rt, members: &Members<T>, index: T::Index, asker: Pe, msg: Incoming) {
    let here = rt.sched.pe();
    if members.find(&index).is_some() {
        return send(rt, members, asker, index, LocationMessage::Here(true));
    }
    match members.next(rt, &index, false) {
        Some(to) if to == here => members.wait(rt, index, msg),
        Some(to) => send(rt, members, to, index, LocationMessage::Marker(asker)),
        None => send(rt, members, asker, index, LocationMessage::Here(false)),
    }
}

#[cfg(test)]
mod tests {
    use crate::message::CallError;
    use crate::message::index::{IndexMap, Places};
    use crate::prelude::*;
    use crate::runtime::current;
    use crate::testing::threads;

    /// Elements with numbers that PE 0 gives out.
    #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    struct Numbered;

    impl IndexMap<u64> for Numbered {
        fn pe(&self, index: &u64, places: &Places) -> Pe {
            Pe(u32::try_from(index % u64::from(places.pes)).unwrap())
        }
        fn once(&self, index: &u64) -> Option<(Pe, u64)> {
            Some((Pe(0), index / u64::from(current().sched.pes())))
        }
    }

    struct Cell;

    #[crate::chare(index = u64, map = Numbered)]
    impl Cell {
        #[init]
        fn new() -> Self {
            Self
        }
        #[entry]
        fn leave(&self, cx: &mut Cx<Self>) {
            cx.destroy();
        }
        #[entry]
        fn here(&self) {}
    }

    #[test]
    fn gone_elements_whose_indices_are_used_once_take_little_memory() {
        let end = threads(2, |job| async move {
            let cells = job.sparse::<Cell>();
            for number in 0..200 {
                cells.insert(number, ());
                cells.at(number).here().await;
                cells.at(number).leave().done().await;
            }
            job.quiescence().await;
            for gone in [0, 7, 199] {
                let error = cells.at(gone).here().checked().await.unwrap_err();
                assert!(matches!(error, CallError::NoSuchElement { .. }), "{error}");
            }
            let members = current().collection::<Cell>(cells.id).unwrap();
            assert_eq!(members.remembered(), (0, 1));
        });
        assert_eq!(end.unwrap(), 0);
    }
}
