//! The conformance suite: the laws of the seam, written once for every backend.
//!
//! A *law* is a test that is written against [`Endpoint`] alone and knows no backend. A backend
//! obeys all of them, or lists those that it cannot obey, each with a reason ([`Harness::skips`]). A [`Harness`] is the
//! part that a backend adds: how to get a group of connected endpoints, and how to kill one.
//!
//! A law is one `async` *role* that every PE of the group plays ([`Bench::run`]), in the order in which things happen to a PE; each `await` makes progress.
//! The same text runs with a thread for each PE (real backends), or with all PEs on one thread under a virtual clock ([`World`]). Other data that PEs
//! exchange (a window's key, "I am done") goes over a board in memory, not over the tested backend.
//!
//! Some laws have no text of their own, since [`Peer`] checks them in every other one: each operation gets exactly one event
//! and operations that are `Done` get none, every message is 16-byte aligned, a refusal gives the same buffer back, no batch is longer than
//! requested, and every buffer that the law passed in is free at the end.
//!
//! ```ignore
//! charm4rs_transport_testkit::conformance!(tcp, TcpHarness);
//! ```

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use charm4rs_transport_core::{Endpoint, EndpointBuilder, Pe};

pub mod bytes;
pub mod fast;
pub mod life;
pub mod messages;
pub mod onesided;
mod peer;
mod remap;
mod run;
pub mod sleep;
pub mod volume;

pub use peer::{Outcome, Peer};

/// What a backend adds to the laws.
pub trait Harness: Sync {
    /// A new group of `pes` connected PEs.
    fn group(&self, pes: u32) -> Group;

    /// The reason why the backend cannot be tested on this machine at all, if there is one.
    fn absent(&self) -> Option<String> {
        None
    }

    /// The laws that it does not obey, each with the reason.
    fn skips(&self) -> &[(&'static str, &'static str)] {
        &[]
    }
}

/// Endpoints that can reach each other.
pub enum Group {
    /// Each endpoint is opened on a thread of its own.
    Threads {
        /// The builder of PE n's endpoint, at index n.
        builders: Vec<Box<dyn EndpointBuilder>>,
        /// How a PE dies.
        death: Death,
        /// Values that must live as long as the endpoints.
        keep: Box<dyn Any>,
    },
    /// All endpoints on this thread, under a clock that moves only when nothing else can happen.
    Stepped(Rc<dyn World>),
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads { .. } => "Group::Threads",
            Self::Stepped(_) => "Group::Stepped",
        })
    }
}

/// How a PE on a thread dies.
#[derive(Clone)]
pub enum Death {
    /// Its endpoint is dropped without being closed: for its peers, the process is gone.
    Drop,
    /// First this is called, then the endpoint is dropped.
    By(Arc<dyn Fn(Pe) + Send + Sync>),
}

impl fmt::Debug for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "Death::Drop",
            Self::By(_) => "Death::By",
        })
    }
}

/// A simulated world.
pub trait World {
    /// How many PEs it has.
    fn pes(&self) -> u32;
    /// The endpoint of a PE. Called once for each.
    fn endpoint(&self, pe: Pe) -> Box<dyn Endpoint>;
    /// Nothing happens at the current time any more: moves to the next time at which something happens. False: there is none.
    fn advance(&self) -> bool;
    /// Kills a PE.
    fn kill(&self, pe: Pe);
}

/// One law, tested with one harness.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    harness: &'a dyn Harness,
    /// The seed of all contents and sizes.
    pub seed: u64,
}

impl fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Bench<'_> {
    /// Runs a group in which every PE plays `role`, until all have ended.
    ///
    /// # Panics
    /// If a role does, or if a buffer of the law is still in use when everything is closed.
    pub fn run(&self, pes: u32, role: impl AsyncFn(&Peer) + Sync) {
        run::run(self.harness.group(pes), pes, self.seed, role);
    }
}

/// How long a law may take.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Aborts the process with the law's name unless it is dropped in time: otherwise a law that hangs would hang the suite.
#[derive(Debug)]
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    /// Starts a watchdog for `what`.
    #[must_use]
    pub fn start(what: &str) -> Self {
        Self::with_limit(what, WATCHDOG)
    }

    /// Starts a watchdog for `what`, with another limit.
    ///
    /// # Panics
    /// If no thread can be started.
    #[must_use]
    pub fn with_limit(what: &str, limit: Duration) -> Self {
        let (alive, gone) = channel::<()>();
        let what = what.to_owned();
        std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || {
                if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("watchdog: {what} did not end within {} s", limit.as_secs());
                    std::process::abort();
                }
            })
            .expect("a test can start a thread");
        Self { _alive: alive }
    }
}

/// Tests one law. [`conformance!`](crate::conformance!) expands to calls of it.
///
/// # Panics
/// If the law is broken.
pub fn check(harness: &dyn Harness, backend: &str, law: &str, body: fn(&Bench<'_>)) {
    if let Some((_, reason)) = harness.skips().iter().find(|(name, _)| *name == law) {
        eprintln!("{backend}: {law}: skipped: {reason}");
        return;
    }
    if let Some(reason) = harness.absent() {
        eprintln!("{backend}: {law}: skipped: {reason}");
        return;
    }
    let seed = charm4rs_transport_core::seed::from_environment().unwrap_or(0xc4a2_0001);
    let _watchdog = Watchdog::start(&format!("{backend}: {law}"));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&Bench { harness, seed })));
    if let Err(panic) = outcome {
        eprintln!("{backend}: {law}: broken; replay with {}={seed}", charm4rs_transport_core::seed::SEED_VARIABLE);
        std::panic::resume_unwind(panic);
    }
}

/// Makes a test of every law: `conformance!(name of the module, harness)`.
#[macro_export]
macro_rules! conformance {
    ($module:ident, $harness:expr) => {
        mod $module {
            use super::*;
            $crate::conformance! { @laws $module, $harness,
                messages::messages_of_many_sizes_arrive_intact_once_and_in_order,
                messages::all_32_bits_of_an_immediate_arrive,
                messages::inject_takes_up_to_its_limit_and_refuses_more,
                messages::send_refuses_what_is_above_its_limit,
                messages::a_busy_post_gives_the_buffer_back_and_succeeds_later,
                messages::inject_is_refused_at_some_time_if_the_receiver_does_nothing,
                messages::every_pending_send_gets_one_event_and_a_done_one_none,
                messages::buffers_of_every_kind_are_sent,
                messages::no_pool_leaks,
                messages::an_allocated_buffer_has_its_length_and_is_aligned_to_a_cache_line,
                messages::a_batch_is_never_longer_than_asked_for,
                messages::messages_may_be_kept_while_others_arrive,
                messages::the_bytes_of_a_message_belong_to_its_receiver,
                volume::many_send_to_one,
                volume::all_send_to_all,
                volume::a_storm_of_small_messages_arrives_completely,
                volume::a_message_of_80_mib_arrives,
                volume::a_put_of_80_mib_arrives,
                volume::a_message_beyond_4_gib_arrives,
                onesided::a_put_is_visible_when_it_is_announced,
                onesided::puts_before_the_announced_one_are_visible_with_it,
                onesided::a_persistent_window_takes_repeated_puts,
                onesided::puts_into_a_persistent_window_arrive_in_order_without_waiting,
                onesided::remapped_memory_is_not_reached_through_old_registrations,
                onesided::a_put_without_an_immediate_is_not_announced,
                onesided::an_empty_put_is_announced_too,
                onesided::puts_of_many_origins_into_one_window_do_not_interfere,
                onesided::a_put_outside_the_window_is_refused_and_touches_nothing,
                onesided::a_put_to_a_window_taken_back_fails_and_touches_nothing,
                onesided::a_key_that_was_tampered_with_is_refused,
                onesided::a_get_reads_what_the_window_holds,
                onesided::a_get_outside_the_window_is_refused,
                onesided::a_get_from_a_window_taken_back_fails,
                onesided::memory_of_every_kind_can_be_exposed_and_comes_back,
                onesided::puts_and_gets_and_messages_do_not_disturb_each_other,
                sleep::a_sleeping_receiver_is_woken_by_every_message,
                sleep::a_sleeping_receiver_is_woken_by_an_announced_put,
                sleep::a_sleeping_sender_is_woken_when_its_posts_complete,
                life::close_delivers_what_was_posted,
                life::has_closed_is_true_once_a_peer_has_closed_and_not_before,
                life::a_group_of_one_opens_and_closes,
                life::the_death_of_a_peer_is_reported_and_posts_to_it_are_refused,
                life::operations_to_a_dead_peer_end_exactly_once,
                life::the_other_pes_continue_when_one_dies,
            }
        }
    };
    (@laws $module:ident, $harness:expr, $($file:ident::$law:ident,)+) => {$(
        #[test]
        fn $law() {
            $crate::conformance::check(&$harness, stringify!($module), stringify!($law), $crate::conformance::$file::$law);
        }
    )+};
}
