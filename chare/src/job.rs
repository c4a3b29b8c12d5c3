//! The job in a program: where it runs, creation of chares, and the job's end.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytemuck::Pod;
use charm4rs_scheduler::TimerId;
use charm4rs_transport::{Layout, Pe};

use crate::message::index::Bounds;
use crate::proxy::volume;
use crate::runtime::{self, Awaited, OpenFuture, Rt, Shape};
use crate::{
    Arguments, Chare, Collection, GridIndex, Group, GroupIndex, Hold, IntoInit, Promise, Proxy, PutHandle, PutWindow,
    Remote, Reply, Solo, Target,
};

/// A handle to the job. Copy it freely; it stays on its PE.
#[derive(Clone, Copy)]
pub struct Job {
    rt: Rt,
}

impl Job {
    pub(crate) fn of(rt: Rt) -> Self {
        Self { rt }
    }

    pub(crate) fn rt(&self) -> Rt {
        self.rt
    }

    /// The job that this code runs in.
    ///
    /// # Panics
    /// Outside a job.
    #[track_caller]
    #[must_use]
    pub fn current() -> Self {
        Self { rt: runtime::current() }
    }

    /// The PE on which this code runs.
    #[must_use]
    pub fn pe(&self) -> Pe {
        self.rt.sched.pe()
    }

    /// The number of PEs of the job.
    #[must_use]
    pub fn pes(&self) -> u32 {
        self.rt.sched.pes()
    }

    /// The processes and hosts to which the PEs belong.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.rt.sched.layout()
    }

    /// Time since the job started.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.rt.sched.now()
    }

    /// An array with all elements below `extent`: `job.array::<Block>((4, 4, 4), init)`.
    ///
    /// # Panics
    /// If the extent is negative or overflows.
    #[track_caller]
    pub fn array<T: Chare<Index: GridIndex, Map: Default>>(
        &self,
        extent: T::Index,
        init: impl IntoInit<T::Init>,
    ) -> Collection<T> {
        self.array_by(T::Map::default(), extent, init)
    }

    /// An array whose elements are placed by `map`.
    ///
    /// # Panics
    /// If the extent is negative or overflows.
    #[track_caller]
    pub fn array_by<T: Chare<Index: GridIndex>>(
        &self,
        map: T::Map,
        extent: T::Index,
        init: impl IntoInit<T::Init>,
    ) -> Collection<T> {
        let bounds = Bounds { extent, volume: volume(&extent), grid: crate::message::index::Grid::THIS };
        Collection::named(runtime::create_collection::<T>(self.rt, Shape::Bounded(bounds), map, init.into_init()))
    }

    /// A group: one element on every PE.
    ///
    /// # Panics
    /// If the index type is too small to name every PE.
    #[track_caller]
    pub fn group<T: Chare<Index: GroupIndex, Map: Default>>(&self, init: impl IntoInit<T::Init>) -> Group<T> {
        let _ = T::Index::of(Pe(self.pes() - 1));
        Group::of(Collection::named(runtime::create_collection::<T>(
            self.rt,
            Shape::Group,
            T::Map::default(),
            init.into_init(),
        )))
    }

    /// An empty array, to be filled by [`Collection::insert`] and closed by [`Collection::done_inserting`].
    #[must_use]
    pub fn sparse<T: Chare<Map: Default>>(&self) -> Collection<T> {
        self.sparse_by(T::Map::default())
    }

    /// An empty array whose elements are placed by `map`, unless they are inserted on a PE.
    #[must_use]
    pub fn sparse_by<T: Chare>(&self, map: T::Map) -> Collection<T> {
        Collection::named(runtime::create_collection::<T>(self.rt, Shape::Sparse, map, ()))
    }

    /// A single chare, on the next PE in turn.
    pub fn single<T: Chare<Index = Solo>>(&self, init: impl IntoInit<T::Init>) -> Proxy<T> {
        let (collection, which) = runtime::single::<T>(self.rt, init.into_init(), None);
        Proxy::to(Target { collection, which })
    }

    /// A single chare on `pe`.
    ///
    /// # Panics
    /// If the job has no such PE.
    #[track_caller]
    pub fn single_on<T: Chare<Index = Solo>>(&self, pe: Pe, init: impl IntoInit<T::Init>) -> Proxy<T> {
        assert!(pe.0 < self.pes(), "the job has no PE {pe}: it has {}", self.pes());
        let (collection, which) = runtime::single::<T>(self.rt, init.into_init(), Some(pe));
        Proxy::to(Target { collection, which })
    }

    /// A promise, which can be sent to any PE, and its reply, which is awaited on this PE.
    pub fn promise<R: Arguments>(&self) -> (Promise<R>, Reply<R>) {
        let reply = Reply(OpenFuture::new(self.rt, Awaited::PROMISE));
        (Promise::of(&reply), reply)
    }

    /// A put window of `len` items on this PE, all zero, and its put handle for another chare.
    ///
    /// # Panics
    /// If its size does not fit the address space, or after the PE has ended.
    #[must_use]
    pub fn put_window<T: Pod>(&self, len: usize) -> (PutWindow<T>, PutHandle<T>) {
        PutWindow::open(self.rt, len)
    }

    /// Sets the front of another language, which reports the waiting tasks of this PE in deadlocks. The first front stays.
    #[doc(hidden)]
    pub fn set_front(&self, front: Box<dyn crate::Front>) {
        let _ = self.rt.front.set(front);
    }

    /// This PE, for threads that the program starts itself.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote::of(self.rt)
    }

    /// The job is not quiescent until the hold is dropped. A hold is for work outside of the PEs, on a thread of the program or in another async
    /// runtime. Create it on this PE before the work starts, and move it into the work.
    pub fn hold(&self) -> Hold {
        self.rt.sched.hold()
    }

    /// Completes when, in the whole job, nothing runs, nothing is queued, no message is in flight, no timer is set, and there is no [`Hold`].
    ///
    /// A task that waits for something outside of the job, such as another thread, does not delay quiescence. The code that will wake it must create
    /// a hold, by [`Job::hold`], before the task waits.
    pub fn quiescence(&self) -> Reply<()> {
        let reply = Reply(OpenFuture::new(self.rt, Awaited::QUIESCENCE));
        let (rt, id) = (self.rt, reply.id());
        rt.sched.on_quiescence(move || rt.futures.fulfil(id, ()));
        reply
    }

    /// Completes after `time`. Other work of this PE runs in the meantime.
    pub async fn sleep(&self, time: Duration) {
        self.rt.sched.sleep(time).await;
    }

    /// Runs a future on this PE, interleaved with the entry methods. A panic in it ends the job.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        runtime::spawn(self.rt, future);
    }

    /// Runs `f` on this PE after `delay`.
    pub fn after(&self, delay: Duration, f: impl FnOnce() + 'static) {
        self.spawn({
            let rt = self.rt;
            async move {
                rt.sched.sleep(delay).await;
                f();
            }
        });
    }

    /// Runs `f` on this PE after `delay`, unless the timer is cancelled before. A panic in it ends the job.
    ///
    /// ```
    /// # use charm4rs::prelude::*;
    /// # charm4rs::testing::threads(1, |job| async move {
    /// let timer = job.timer(std::time::Duration::from_secs(3600), || unreachable!());
    /// assert!(job.cancel_timer(timer));
    /// job.quiescence().await;
    /// # }).unwrap();
    /// ```
    pub fn timer(&self, delay: Duration, f: impl FnOnce() + 'static) -> Timer {
        Timer(self.rt.sched.after(delay, guarded(self.rt, f)))
    }

    /// As [`Job::timer`], but quiescence does not wait for it: for code that supervises the job and is not part of its work.
    pub fn timer_aside(&self, delay: Duration, f: impl FnOnce() + 'static) -> Timer {
        Timer(self.rt.sched.after_system(delay, guarded(self.rt, f)))
    }

    /// Cancels a timer of this PE. Returns whether it was still pending.
    pub fn cancel_timer(&self, timer: Timer) -> bool {
        self.rt.sched.cancel_timer(timer.0)
    }

    /// Ends the job on all PEs with a status: as soon as a PE receives this, it finishes its current entry method, and stops.
    ///
    /// A status is a number from 0 to 255, because the system keeps only these 8 bits.
    pub fn exit(&self, code: u8) {
        runtime::exit(self.rt, i32::from(code));
    }

    /// Asks the launcher to send the user's next SIGINT to this process alone, instead of ending the job. For programs with a prompt: call it again
    /// after each signal that the program has handled, since another signal before that ends the job.
    pub fn take_interrupt(&self) {
        self.rt.host.take_interrupt();
    }

    /// Ends the job at once with an error message and status 1.
    pub fn abort(&self, message: &str) {
        self.abort_with(1, message);
    }

    /// Ends the job at once with an error message and a status. By convention, 64 is for wrong arguments of the program.
    ///
    /// # Panics
    /// If the status is 0, which means success.
    #[track_caller]
    pub fn abort_with(&self, code: u8, message: &str) {
        assert_ne!(code, 0, "an aborted job cannot have the status of success; the message is: {message}");
        self.rt.fail(runtime::Failure { code, what: message.to_string() });
    }
}

/// A timer that can be cancelled: see [`Job::timer`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Timer(TimerId);

fn guarded(rt: Rt, f: impl FnOnce() + 'static) -> impl FnOnce() + 'static {
    move || {
        if let Err(panic) = runtime::guard(f) {
            rt.fail(runtime::Failure::panic("a timer", &panic));
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job(PE {} of {})", self.pe(), self.pes())
    }
}
