//! The layers below the object model, `raw` and `port`, between PE 0 and the last PE, before the program begins.
//!
//! PE 0 leads: it orders a game, both PEs play it, PE 0 takes the time. Between games its partner sleeps, so that a limit can be measured on its
//! core. All raw games come before the first game of the port: the two use the same backend, and a port may have messages in flight (credit) after
//! its own games. A game begins with one message each way, so that waking up is not measured.

use std::collections::VecDeque;
use std::time::Instant;

use charm4rs::Args;
use charm4rs_transport::memory::write_bytes;
use charm4rs_transport::port::{Port, PortEvent};
use charm4rs_transport::{Pe, TransportError};
use clap::Parser;

use crate::lanes::{Lane, Ported, Puts, Raw, TAG, carries_puts};
use crate::limits::Limit;
use crate::place::Place;
use crate::table::{self, Figure, Table, Tail};
use crate::{Layer, Options, What};

/// The target length of a run, in nanoseconds, unless it would have too many or too few messages.
const RUN_NS: f64 = 20e6;
const COUNT_MIN: f64 = 4.0;
const COUNT_MAX: f64 = 200_000.0;
/// The number of polls after which a PE that waits for an order sleeps.
const POLLS: u32 = 1_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Game {
    /// The last order.
    End,
    /// `count` messages there, each after the previous one has come back.
    Rally,
    /// `count` messages there, written and read; one back.
    Stream,
}

/// The variant of a game.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Port,
    Raw,
    /// Also raw.
    Puts,
}

/// An order from PE 0 to its partner.
#[derive(Clone, Copy)]
struct Order {
    game: Game,
    way: Way,
    len: usize,
    count: usize,
}

/// An order as it is sent.
type Words = [u64; 4];

impl Order {
    const END: Self = Self { game: Game::End, way: Way::Port, len: 0, count: 0 };

    fn words(self) -> Words {
        [self.game as u64, self.way as u64, self.len as u64, self.count as u64]
    }

    fn from_words([game, way, len, count]: Words) -> Self {
        let game = [Game::Rally, Game::Stream].into_iter().find(|g| *g as u64 == game).unwrap_or(Game::End);
        let number = |word| usize::try_from(word).unwrap_or(usize::MAX);
        let way = [Way::Raw, Way::Puts].into_iter().find(|w| *w as u64 == way).unwrap_or(Way::Port);
        Self { game, way, len: number(len), count: number(count) }
    }

    /// Plays one side of the game; returns nanoseconds for each message, which only PE 0's side knows. There each rally is timed while `each` has
    /// room.
    fn play(self, port: &mut Port, to: Pe, each: &mut Vec<f64>) -> Result<f64, TransportError> {
        let (leads, touch) = (port.pe() == Pe(0), self.game == Game::Stream);
        match self.way {
            Way::Raw => self.play_on(&mut Raw::new(port.endpoint(to), to, touch), leads, each),
            Way::Puts => self.play_on(&mut Puts::new(port.endpoint(to), to, self.len)?, leads, each),
            Way::Port => self.play_on(&mut Ported::new(port, to, touch), leads, each),
        }
    }

    fn play_on(self, lane: &mut impl Lane, leads: bool, each: &mut Vec<f64>) -> Result<f64, TransportError> {
        let Self { game, len, count, .. } = self;
        if leads {
            lane.send(1, 0)?;
        }
        lane.take(1)?;
        if !leads {
            lane.send(1, 0)?;
        }
        let start = Instant::now();
        let messages = match (game, leads) {
            (Game::Rally, true) => {
                let timed = each.capacity() > 0;
                for round in 0..count {
                    let start = timed.then(Instant::now);
                    lane.send(len, round)?;
                    lane.take(1)?;
                    each.extend(start.map(|start| start.elapsed().as_nanos() as f64 / 2.0));
                }
                2 * count
            }
            (Game::Rally, false) => {
                for round in 0..count {
                    lane.take(1)?;
                    lane.send(len, round)?;
                }
                2 * count
            }
            (_, true) => {
                for round in 0..count {
                    lane.send(len, round)?;
                }
                lane.take(1)?;
                count
            }
            (_, false) => {
                lane.take(count as u64)?;
                lane.send(1, 0)?;
                count
            }
        };
        let time = start.elapsed().as_nanos() as f64 / messages as f64;
        lane.settle()?;
        Ok(time)
    }
}

/// Sends four words to a PE.
fn tell(port: &mut Port, to: Pe, words: Words) {
    let bytes = words.map(u64::to_le_bytes);
    port.send(to, TAG, size_of_val(&bytes), |room| write_bytes(room, bytes.as_flattened()));
}

/// Waits for four words; sleeps if it takes long.
fn hear(port: &mut Port) -> Result<Words, TransportError> {
    let (mut events, mut polls) = (VecDeque::new(), 0);
    loop {
        port.poll(&mut events, 1)?;
        if let Some(event) = events.pop_front() {
            let PortEvent::Message(message) = event else {
                return Err(TransportError::Config(format!("not an order: {event:?}")));
            };
            port.took(&message);
            let mut words = Words::default();
            for (word, bytes) in words.iter_mut().zip(message.msg.as_chunks().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            return Ok(words);
        }
        polls += 1;
        if polls > POLLS {
            port.park(None)?;
        }
    }
}

/// What each PE does before the program begins.
pub(crate) fn measure(port: &mut Port, args: &Args) -> Result<(), TransportError> {
    // The program's main reports errors in the options, on PE 0.
    let Ok(options) = Options::try_parse_from(args.clone()) else { return Ok(()) };
    let last = Pe(port.layout().pes() - 1);
    match port.pe() {
        _ if last == Pe(0) => Ok(()),
        Pe(0) => lead(port, last, &options),
        pe if pe == last => follow(port),
        _ => Ok(()),
    }
}

fn follow(port: &mut Port) -> Result<(), TransportError> {
    tell(port, Pe(0), [rustix::thread::sched_getcpu() as u64, 0, 0, 0]);
    loop {
        let order = Order::from_words(hear(port)?);
        if order.game == Game::End {
            return Ok(());
        }
        order.play(port, Pe(0), &mut Vec::new())?;
    }
}

fn lead(port: &mut Port, to: Pe, options: &Options) -> Result<(), TransportError> {
    let [cpu, ..] = hear(port)?;
    let transport = port.endpoint(to).caps().name;
    Place { transport, cpus: [rustix::thread::sched_getcpu(), usize::try_from(cpu).unwrap_or_default()] }.set();
    let mut lead = Lead { port, to, runs: options.runs(), limit: Limit::of_this_job() };
    if options.wants_layer(Layer::Raw) {
        lead.layer(Way::Raw, options)?;
        lead.puts(options)?;
    }
    if options.wants_layer(Layer::Port) {
        lead.layer(Way::Port, options)?;
    }
    tell(port, to, Order::END.words());
    Ok(())
}

/// PE 0's side.
struct Lead<'a> {
    port: &'a mut Port,
    to: Pe,
    runs: usize,
    limit: Option<Limit>,
}

impl Lead<'_> {
    fn layer(&mut self, way: Way, options: &Options) -> Result<(), TransportError> {
        let transport = self.port.endpoint(self.to).caps().name;
        let layer = if way == Way::Raw { format!("raw {transport}") } else { format!("port, {transport}") };
        let name = |limit: fn(Limit) -> &'static str| self.limit.map(limit);
        let (latency, stream) = (name(Limit::latency_name), name(Limit::stream_name));
        if options.wants(What::Latency) {
            let table = Table::with_tails(format!("{layer}: one way, PE 0 and PE {}", self.to), "ns", latency);
            for &len in options.sizes(&[8, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20]) {
                self.latency(&table, way, len)?;
            }
        }
        if options.wants(What::Rate) {
            let table = Table::new(format!("{layer}: small messages, one after another"), "ns each");
            for &len in options.sizes(&[8, 32, 100]) {
                if let Some((figure, _)) = self.game(Game::Stream, way, len, None)? {
                    table.sized(len, &figure, None);
                }
            }
        }
        if options.wants(What::Bandwidth) {
            let table = Table::beside(format!("{layer}: one way, written and read"), "GB/s", stream);
            for &len in options.sizes(&[4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20]) {
                self.bandwidth(&table, way, len)?;
            }
        }
        Ok(())
    }

    /// One-sided: the receiver only has to notice a put.
    fn puts(&mut self, options: &Options) -> Result<(), TransportError> {
        let caps = self.port.endpoint(self.to).caps();
        if !options.wants(What::Put) || !carries_puts(caps, 1) {
            return Ok(());
        }
        let (name, sizes) = (caps.name, options.sizes(&[8, 1 << 10, 64 << 10, 1 << 20, 16 << 20]));
        let limit = self.limit.map(Limit::latency_name);
        let table = Table::with_tails(format!("raw {name}: puts, one way, PE 0 and PE {}", self.to), "ns", limit);
        for &len in sizes {
            self.latency(&table, Way::Puts, len)?;
        }
        let table = Table::new(format!("raw {name}: puts, one after another"), "GB/s");
        for &len in sizes {
            if let Some((figure, _)) = self.game(Game::Stream, Way::Puts, len, None)? {
                table.sized(len, &figure.speed(len), None);
            }
        }
        Ok(())
    }

    fn latency(&mut self, table: &Table, way: Way, len: usize) -> Result<(), TransportError> {
        let limit = self.limit.map(|limit| move || limit.latency(len));
        if let Some((figure, limit)) = self.game(Game::Rally, way, len, limit.as_ref().map(|f| f as _))? {
            table.sized(len, &figure, limit.as_ref());
        }
        Ok(())
    }

    fn bandwidth(&mut self, table: &Table, way: Way, len: usize) -> Result<(), TransportError> {
        let limit = self.limit.map(|limit| move || limit.stream(len));
        if let Some((figure, limit)) = self.game(Game::Stream, way, len, limit.as_ref().map(|f| f as _))? {
            table.sized(len, &figure.speed(len), limit.map(|limit| limit.speed(len)).as_ref());
        }
        Ok(())
    }

    /// Plays a game as many times as requested, in turn with its limit. `None` if the layer has no such messages.
    fn game(
        &mut self,
        game: Game,
        way: Way,
        len: usize,
        limit: Option<&dyn Fn() -> f64>,
    ) -> Result<Option<(Figure, Option<Figure>)>, TransportError> {
        let end = self.port.endpoint(self.to);
        let carries = match way {
            Way::Port => true,
            Way::Raw => Raw::new(end, self.to, false).carries(len),
            Way::Puts => carries_puts(end.caps(), len),
        };
        if !carries {
            return Ok(None);
        }
        let mut play = |count, each: &mut Vec<f64>| {
            let order = Order { game, way, len, count };
            tell(self.port, self.to, order.words());
            order.play(self.port, self.to, each)
        };
        // The first run pays for memory, the second determines how many messages a run has.
        play(4, &mut Vec::new())?;
        let count = (RUN_NS / play(16, &mut Vec::new())?).clamp(COUNT_MIN, COUNT_MAX) as usize;
        let (figure, limit) = table::in_turn(self.runs, limit, || play(count, &mut Vec::new()))?;
        // Reading the clock in each round takes time: so that is a run of its own.
        let mut each = Vec::with_capacity(if game == Game::Rally { count } else { 0 });
        if game == Game::Rally {
            play(count, &mut each)?;
        }
        Ok(Some((figure.with_tail(Tail::of(each)), limit)))
    }
}
