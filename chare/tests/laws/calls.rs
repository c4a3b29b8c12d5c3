//! Calls of elements, collections, and their order.

use charm4rs::prelude::*;

use crate::{law, simulated};

/// A chare that echoes, for each kind of index.
macro_rules! echoes {
    ($($name:ident $index:ty),*) => {$(
        struct $name;
        #[chare(index = $index)]
        impl $name {
            #[init]
            fn new() -> Self {
                Self
            }
            #[entry]
            fn echo(&self, cx: &mut Cx<Self>, x: u64) -> ($index, u64) {
                (cx.index(), x + 1)
            }
        }
    )*};
}
echoes!(
    Line usize,
    Signed i64,
    Tiny u8,
    Plane (usize, u16),
    Space (i32, usize, u8),
    Four (u8, u8, u8, u8),
    Five (u8, u8, u8, u8, u8),
    Six (u8, u8, u8, u8, u8, u8),
    Free Corner,
    PerPe Pe
);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
enum Corner {
    North(u8),
    South { at: i32 },
}

#[test]
fn elements_of_every_index_type_are_called_and_know_their_index() {
    macro_rules! check {
        ($job:ident $chare:ty, $extent:expr, $some:expr, $count:expr) => {{
            let array = $job.array::<$chare>($extent, ());
            assert_eq!(array.at($some).echo(1).await, ($some, 2));
            let all = array.all().echo(5).await;
            assert_eq!(all.len(), $count);
            assert!(all.is_sorted() && all.iter().all(|(_, x)| *x == 6));
        }};
    }
    law(|job| async move {
        check!(job Line, 7, 3, 7);
        check!(job Signed, 4, 0, 4);
        check!(job Tiny, 255, 254, 255);
        check!(job Plane, (3, 4), (2, 1), 12);
        check!(job Space, (2, 3, 2), (1, 2, 0), 12);
        check!(job Four, (2, 1, 2, 2), (1, 0, 1, 1), 8);
        check!(job Five, (2, 1, 2, 2, 1), (1, 0, 1, 1, 0), 8);
        check!(job Six, (2, 1, 2, 2, 1, 1), (1, 0, 1, 1, 0, 0), 8);
        let free = job.sparse::<Free>();
        for corner in [Corner::North(1), Corner::South { at: -4 }] {
            free.insert(corner, ());
            assert_eq!(free.at(corner).echo(1).await, (corner, 2));
        }
        let group = job.group::<PerPe>(());
        let pes = group.all().echo(0).await;
        assert_eq!(pes, (0..job.pes()).map(|pe| (Pe(pe), 1)).collect::<Vec<_>>());
        let line = job.group::<Line>(());
        assert_eq!(line.all().echo(0).await.len(), job.pes() as usize);
        assert_eq!(line.on(Pe(job.pes() - 1)).echo(0).await.0, job.pes() as usize - 1);
    });
}

#[test]
fn an_array_without_elements_answers_at_once() {
    law(|job| async move {
        let none = job.array::<Line>(0, ());
        assert!(none.all().echo(1).await.is_empty());
        none.all().echo(1).done().await;
        none.created().await;
    });
}

/// Records the numbers that it receives, in order.
struct Notes(Vec<u32>);

#[chare(index = usize)]
impl Notes {
    #[init]
    fn new() -> Self {
        Self(Vec::new())
    }
    #[entry]
    fn note(&mut self, x: u32) {
        self.0.push(x);
    }
    #[entry]
    fn read(&mut self) -> Vec<u32> {
        self.0.clone()
    }
    /// While this runs, nothing else runs on its PE: all these calls are in the queue afterwards.
    #[entry]
    fn call_yourself(&mut self, cx: &mut Cx<Self>) {
        let me = cx.proxy();
        me.note(1);
        me.note(5).priority(5);
        me.note(2).priority(-1);
        me.note(3).priority(-1);
        me.note(6).priority(5).lifo();
        me.note(7).priority(5).lifo();
        me.note(0).expedited();
        me.note(9).priority(i32::MAX);
        me.note(8).priority(i32::MIN);
        me.note(4).lifo();
    }
}

#[test]
fn urgent_calls_run_first_and_lifo_ones_before_their_equals() {
    law(|job| async move {
        let notes = job.array::<Notes>(1, ());
        notes.at(0).call_yourself().done().await;
        job.quiescence().await;
        // expedited; the least; -1 in order; the default, last come first; 5, last come first; the greatest
        assert_eq!(notes.at(0).read().await, [0, 8, 2, 3, 4, 1, 7, 6, 5, 9]);
    });
}

#[test]
fn calls_from_one_chare_to_another_arrive_in_the_order_in_which_they_were_made() {
    law(|job| async move {
        let notes = job.array::<Notes>(9, ());
        for x in 0..50 {
            for i in 0..9 {
                notes.at(i).note(x);
            }
        }
        for log in notes.all().read().await {
            assert!(log.is_sorted(), "{log:?}");
        }
        job.quiescence().await;
        for log in notes.all().read().await {
            assert_eq!(log, (0..50).collect::<Vec<_>>());
        }
    });
}

#[test]
fn calls_of_elements_that_are_not_created_yet_keep_their_order() {
    simulated(100, |job| async move {
        let notes = job.sparse::<Notes>();
        for x in 0..30 {
            for i in 0..4 {
                notes.at(i).note(x);
                if x == 10 {
                    notes.insert_on(Pe(u32::try_from(i).unwrap() % job.pes()), i, ());
                }
            }
        }
        job.quiescence().await;
        for i in 0..4 {
            assert_eq!(notes.at(i).read().await, (0..30).collect::<Vec<_>>());
        }
    });
}

/// Adds up the numbers that it receives.
struct Adder {
    sum: u64,
    calls: u64,
}

#[chare(index = (usize, usize))]
impl Adder {
    #[init]
    fn new(start: u64) -> Self {
        Self { sum: start, calls: 0 }
    }
    #[entry]
    fn add(&mut self, x: u64) {
        self.sum += x;
        self.calls += 1;
    }
    #[entry]
    fn spread(&mut self, cx: &mut Cx<Self>, x: u64) {
        cx.all().add(x);
    }
    #[entry]
    fn sum(&self) -> (u64, u64) {
        (self.sum, self.calls)
    }
}

#[test]
fn simultaneous_broadcasts_from_all_pes_reach_every_element_once() {
    simulated(120, |job| async move {
        let adders = job.array::<Adder>((3, 5), 7);
        adders.all().spread(10).done().await;
        adders.at((1, 1)).spread(1000);
        job.quiescence().await;
        assert_eq!(adders.all().sum().await, vec![(7 + 150 + 1000, 16); 15]);
    });
}

/// Has results of every small and large shape.
struct Shapes;

#[chare]
impl Shapes {
    #[init]
    fn new(_cx: &mut Cx<Self>, _a: u8, _b: String) -> Self {
        Self
    }
    #[entry]
    fn nothing(&self) {}
    #[entry]
    fn large(&self, x: [u64; 32], text: String) -> (String, Vec<[u64; 32]>) {
        (text, vec![x, x])
    }
    #[entry]
    fn option(&self, x: Option<Box<u8>>) -> Result<Option<u8>, String> {
        x.map(|x| Some(*x)).ok_or_else(|| "none".into())
    }
    #[entry]
    fn many(&self, a: u8, b: i64, (c, d): (bool, char), e: f32, (f, g): ((), Vec<()>), (h, i): (u8, u8)) -> f64 {
        let () = f;
        f64::from(a)
            + b as f64
            + f64::from(u8::from(c))
            + f64::from(u32::from(d))
            + f64::from(e)
            + g.len() as f64
            + f64::from(h * i)
    }
    #[entry]
    fn me(&self, cx: &mut Cx<Self>, other: Proxy<Self>) -> bool {
        cx.proxy() == other
    }
}

#[test]
fn arguments_and_results_of_any_shape_arrive_unchanged() {
    law(|job| async move {
        for pe in 0..job.pes() {
            let one = job.single_on::<Shapes>(Pe(pe), (1, "x".into()));
            one.nothing().await;
            let mut numbers = [0; 32];
            numbers[31] = u64::MAX;
            assert_eq!(one.large(numbers, "y".repeat(3000)).await, ("y".repeat(3000), vec![numbers, numbers]));
            assert_eq!(one.option(Some(Box::new(3))).await, Ok(Some(3)));
            assert_eq!(one.option(None).await, Err("none".into()));
            assert_eq!(one.many(1, -2, (true, 'a'), 0.5, ((), vec![(); 4]), (2, 3)).await, 107.5);
            assert!(one.me(one).await);
        }
    });
}

/// User names that are equal to every name that the macro uses.
struct Names(u8);

#[chare(index = u8)]
impl Names {
    #[init]
    fn new(cx: &mut Cx<Self>, init: u8, init_0: u8, index: u8) -> Self {
        let _ = cx.index();
        Self(init + init_0 + index)
    }
    #[entry]
    fn chare(&self, chare: u8, this: u8, cx: u8, args: u8, argument_0: u8, argument_1: u8) -> Vec<u8> {
        vec![self.0, chare, this, cx, args, argument_0, argument_1]
    }
    #[entry]
    fn wants(&self, wants: u8, received: u8);
    #[entry]
    async fn run(this: This<Self>, run: u8) -> u8 {
        let (wants, received) = this.recv_wants(|wants, _| *wants == run).await;
        wants + received
    }
    #[entry]
    fn call(&self, call: u8) -> u8 {
        call
    }
}

#[test]
fn an_argument_may_have_any_name() {
    law(|job| async move {
        let names = job.array::<Names>(1, (1, 2, 3)).at(0);
        assert_eq!(names.chare(1, 2, 3, 4, 5, 6).await, [6, 1, 2, 3, 4, 5, 6]);
        names.wants(3, 4);
        assert_eq!(names.run(3).await, 7);
        assert_eq!(names.call(9).await, 9);
    });
}
