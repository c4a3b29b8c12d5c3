//! Charm++'s programming model in Rust.
//!
//! A program is many more objects (*chares*) than cores. They live on any PE, call each other's *entry methods* asynchronously through *proxies*,
//! wait on *futures*, and contribute to *reductions*, so that communication overlaps computation.
//!
//! This crate is the object model, and the only place that serializes. It knows nothing of transport backends, Python, or the
//! launcher.

// The macros write `::charm4rs::…`, also in this crate's own tests.
extern crate self as charm4rs;

mod boot;
mod call;
mod cx;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod group;
mod job;
mod message;
mod pe;
mod proxy;
mod put_window;
mod readonly;
mod receive;
pub mod reduce;
mod remote;
mod reply;
#[doc(hidden)]
pub mod runtime;
mod select;
pub mod testing;
mod thread;
mod trait_proxy;
mod watch;
mod weigh;

pub use boot::{Args, FromArgs, Joining, MainResult, NotStarted, ServerOptions};
pub use call::Call;
pub use charm4rs_macros::{chare, data, entry, init, init_pe, init_process, main, readonly};
pub use charm4rs_transport::{Layout, Pe};
pub use group::Group;
pub use job::{Job, Timer};
pub use message::collection_id::CollectionId;
pub use message::error::CallError;
#[doc(hidden)]
pub use message::index;
pub use message::index::{DefaultMap, ElementIndex, GridIndex, GroupIndex, IndexMap, Places, Solo};
pub use proxy::{All, Collection, NoInsertion, Proxy};
pub use put_window::{Put, PutHandle, PutWindow, ReceivedPut};
pub use readonly::{Readonly, ReadonlyValue};
pub use receive::Receive;
pub use remote::{Hold, PeGone, Remote};
pub use reply::{Checked, Promise, Reply, join_all};
pub use runtime::chare::{Arguments, Chare, Entry, IntoInit, Started};
#[doc(hidden)]
pub use runtime::front::{Front, body_of};
pub use runtime::payload::{Payload, RecvBuffer};
pub use runtime::target::{Calls, Kind, Many, One, Target};
pub use runtime::{Cx, This};
pub use select::{Either, select, select_all};
pub use thread::{spawn_thread, unpin_thread};
pub use trait_proxy::{AnyCall, AnyProxy, AnyTarget, ChareTrait, Implements};
pub use watch::coarse_now;

/// The names that most programs need; `use charm4rs::prelude::*;`.
pub mod prelude {
    pub use crate::{
        All, AnyProxy, Args, CallError, Collection, Cx, Group, Job, Payload, Pe, Promise, Proxy, Reply, Solo, This,
        chare, data, entry, init, join_all, reduce,
    };
    pub use serde::{Deserialize, Serialize};
}

/// The serde of [`#[data]`](macro@data); and the bytemuck of [`Payload`]: a type of plain numbers in a payload derives `charm4rs::bytemuck::Pod` and
/// `Zeroable`, with `#[bytemuck(crate = "charm4rs::bytemuck")]`.
pub use {bytemuck, serde};

/// For measuring programs, which need the layers below the object layer.
#[doc(hidden)]
pub use boot::main_after;

/// For the macros' output only.
#[doc(hidden)]
pub mod __private {
    pub use crate::boot::main;
    pub use crate::message::wire::WireError;
    pub use crate::proxy::HasMethodsWithoutEntry;
    pub use crate::receive::{keyed, post, receive};
    pub use crate::reduce::sink::sink;
    pub use crate::runtime::registry::{ChareInfo, MethodInfo, Registration};
    pub use crate::runtime::registry::{Implementation, ImplementationRegistration};
    pub use crate::runtime::startup::{AnyReadonly, Init, InitRegistration, ReadonlyRegistration};
    pub use crate::trait_proxy::{AnyMethod, RowsOf};
    pub use crate::weigh::{Light, Weigh};
    pub use inventory;
}
