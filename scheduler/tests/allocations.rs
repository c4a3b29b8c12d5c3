//! In steady state, calls to the PE itself, priorities, wakes and timers of a fixed shape do not allocate.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

use charm4rs_scheduler::{Class, Config, Handler, Order, Scheduler};
use charm4rs_transport::port::Incoming;
use charm4rs_transport::{Msg, Payloads};
use common::{CALL, Each, settle, together};

/// The system's allocator, with a counter.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all calls are passed on to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn add_by_call<const N: usize>(pe: &Scheduler, class: Class, sum: &Rc<Cell<usize>>, bytes: [u8; N]) {
    let sum = sum.clone();
    pe.call_self(class, move || sum.set(sum.get() + bytes.len()));
}

fn one_of_each<H: Handler>(pes: &[(Rc<Scheduler>, H)], waker: &Waker, sum: &Rc<Cell<usize>>) {
    let pe = &pes[0].0;
    for class in [Class::Default, Class::Expedited, Class::Priority(3, Order::Lifo), Class::Priority(-3, Order::Fifo)] {
        for len in [0, 8, 64, 200, 1000] {
            let msg = Msg::fill(pe.slab(), len, |out| out.iter_mut().for_each(|b| _ = b.write(1)));
            pe.enqueue(Incoming::own(pe.pe(), CALL, msg, Payloads::default()), class);
        }
        add_by_call(pe, class, sum, [1; 8]);
        add_by_call(pe, class, sum, [1; 500]);
    }
    pe.send(pe.pe(), CALL, 100, |out| out.iter_mut().for_each(|b| _ = b.write(1)));
    waker.wake_by_ref();
    settle(pes);
}

// The only test of this file, because the count is per process.
#[test]
fn the_hot_paths_of_a_warm_pe_allocate_nothing() {
    let bytes = Rc::new(Cell::new(0));
    let sum = bytes.clone();
    let pes: Vec<_> = together(1, &Config::default())
        .into_iter()
        .map(|pe| {
            let sum = sum.clone();
            (pe.clone(), Each(pe, move |_: &Rc<Scheduler>, msg: Incoming| sum.set(sum.get() + msg.msg.len())))
        })
        .collect();
    let (slot, polls) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(0)));
    let (kept, count) = (slot.clone(), polls.clone());
    pes[0].0.spawn(poll_fn(move |cx| {
        count.set(count.get() + 1);
        if count.get() == 1 {
            kept.set(Some(cx.waker().clone()));
        }
        Poll::Pending
    }));
    settle(&pes);
    let waker = slot.take().unwrap();
    (0..10).for_each(|_| one_of_each(&pes, &waker, &bytes));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..1000).for_each(|_| one_of_each(&pes, &waker, &bytes));
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert_eq!((after - before, polls.get(), bytes.get()), (0, 1011, 1010 * (4 * (1272 + 508) + 100)));
}
