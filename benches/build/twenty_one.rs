//! A program of a usual size: three chare types with 21 entry methods, of all kinds.

use charm4rs::prelude::*;

/// A rectangle of a grid, which exchanges its edges with its neighbours.
struct Tile {
    cells: Vec<f64>,
    label: String,
    size: (usize, usize),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Setup {
    size: (usize, usize),
    start: f64,
    label: String,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
enum Side {
    Left,
    Right,
}

#[chare(index = (u32, u32))]
impl Tile {
    #[init]
    fn new(setup: Setup) -> Self {
        let Setup { size, start, label } = setup;
        Self { cells: vec![start; size.0 * size.1], label, size }
    }

    #[entry]
    fn fill(&mut self, value: f64) {
        self.cells.fill(value); // edit here
    }

    #[entry]
    fn rename(&mut self, label: String) {
        self.label = label;
    }

    #[entry]
    fn label(&mut self) -> String {
        self.label.clone()
    }

    #[entry]
    fn cell(&mut self, x: usize, y: usize) -> Option<f64> {
        self.cells.get(x + y * self.size.0).copied()
    }

    #[entry]
    fn load(&mut self, cells: Payload<f64>) -> usize {
        self.cells.copy_from_slice(&cells);
        cells.len()
    }

    #[entry]
    fn save(&mut self) -> Payload<f64> {
        self.cells.clone().into()
    }

    #[entry]
    fn edge(&mut self, step: u32, side: Side, cells: Payload<f64>);

    #[entry]
    async fn run(this: This<Self>, steps: u32) -> f64 {
        let (x, y) = this.index();
        let height = this.with(|tile| tile.size.1);
        for step in 0..steps {
            for (at, side) in [((x.wrapping_sub(1), y), Side::Right), ((x + 1, y), Side::Left)] {
                if let Some(neighbour) = this.collection().try_at(at) {
                    let cells = this.with(|tile| tile.column(side));
                    neighbour.edge(step, side, cells);
                    let (_, _, cells) = this.recv_edge(|of, from, _| *of == step && *from != side).await;
                    assert_eq!(cells.len(), height);
                }
            }
        }
        this.allreduce(this.with(|tile| tile.cells.iter().sum::<f64>()), reduce::sum).await
    }

    #[entry]
    fn total(&mut self, cx: &mut Cx<Self>, to: Promise<f64>) {
        cx.contribute(self.cells.iter().sum::<f64>(), reduce::sum, to);
    }

    fn column(&self, side: Side) -> Vec<f64> {
        let x = if side == Side::Right { 0 } else { self.size.0 - 1 };
        self.cells.iter().skip(x).step_by(self.size.0).copied().collect()
    }
}

/// One on each PE: it computes on request.
#[derive(Default)]
struct Worker {
    done: u64,
    names: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Task {
    Square(u64),
    Text(String),
    Many(Vec<u64>),
}

#[chare(index = u32)]
impl Worker {
    #[init]
    fn new() -> Self {
        Self::default()
    }

    #[entry]
    fn square(&mut self, of: u64) -> u64 {
        self.done += 1;
        of * of
    }

    #[entry]
    fn compute(&mut self, task: Task) -> Result<u64, String> {
        self.done += 1;
        match task {
            Task::Square(of) => Ok(of * of),
            Task::Text(text) => text.parse().map_err(|_| format!("{text} is no number")),
            Task::Many(numbers) => Ok(numbers.iter().sum()),
        }
    }

    #[entry]
    fn name(&mut self, name: String, at: (u32, u32)) {
        self.names.push(format!("{name} {at:?}"));
    }

    #[entry]
    fn names(&mut self) -> Vec<String> {
        self.names.clone()
    }

    #[entry]
    async fn ask(this: This<Self>, other: Proxy<Worker>) -> u64 {
        let square = other.square(7).await;
        this.with(|worker| worker.done + square)
    }

    #[entry]
    fn report(&mut self, cx: &mut Cx<Self>, to: Proxy<Manager>) {
        cx.contribute(self.done, reduce::sum, to.reported_sink());
    }

    #[entry]
    fn norm(&mut self, cx: &mut Cx<Self>, of: Vec<f64>, to: Promise<Vec<f64>>) {
        cx.contribute(of, reduce::sum, to);
    }
}

/// There is one manager, which distributes work.
struct Manager {
    workers: Group<Worker>,
    open: u32,
    reported: Option<Promise<u64>>,
}

#[chare]
impl Manager {
    #[init]
    fn new(workers: Group<Worker>) -> Self {
        Self { workers, open: 0, reported: None }
    }

    #[entry]
    fn begin(&mut self, tasks: u32) {
        self.open += tasks;
    }

    #[entry]
    fn end(&mut self, task: u32, result: Result<u64, String>) -> u32 {
        self.open -= u32::from(result.is_ok() && task < 1000);
        self.open
    }

    #[entry]
    fn ask_for_report(&mut self, cx: &mut Cx<Self>, to: Promise<u64>) {
        self.reported = Some(to);
        self.workers.all().report(cx.proxy());
    }

    #[entry]
    fn reported(&mut self, done: u64) {
        if let Some(to) = self.reported.take() {
            to.send(done);
        }
    }

    #[entry]
    async fn work(this: This<Self>, tasks: Vec<Task>) -> Vec<Result<u64, String>> {
        let workers = this.with(|manager| manager.workers);
        let pes = this.job().pes();
        let ask = |(at, task): (usize, Task)| workers.on(Pe(at as u32 % pes)).compute(task);
        join_all(tasks.into_iter().enumerate().map(ask)).await
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let workers = job.group::<Worker>(());
    let setup = Setup { size: (8, 4), start: 1.0, label: "a tile".into() };
    let tiles = job.array::<Tile>((4, 2), setup);

    tiles.all().fill(2.0).done().await;
    tiles.at((0, 0)).rename("the first").done().await;
    assert_eq!(tiles.at((0, 0)).label().await, "the first");
    assert_eq!(tiles.at((1, 1)).cell(0, 0).await, Some(2.0));
    let cells = tiles.at((0, 1)).save().await;
    assert_eq!(tiles.at((0, 0)).load(cells).await, 32);
    assert_eq!(tiles.all().run(3).await.len(), 8);
    let (to, total) = job.promise();
    tiles.all().total(to);
    assert_eq!(total.await, 512.0);

    let ours = workers.on(job.pe());
    assert_eq!(ours.ask(ours).await, 50);
    workers.all().name("a worker", (1, 2)).done().await;
    assert_eq!(workers.all().names().await.len() as u32, job.pes());
    let (to, norm) = job.promise();
    workers.all().norm(vec![1.0, 2.0], to);
    assert_eq!(norm.await.len(), 2);

    let manager = job.single::<Manager>(workers);
    manager.begin(3);
    let tasks = vec![Task::Square(3), Task::Text("x".into()), Task::Many(vec![1, 2])];
    for (at, result) in manager.work(tasks).await.into_iter().enumerate() {
        manager.end(at as u32, result).await;
    }
    let (to, done) = job.promise();
    manager.ask_for_report(to);
    println!("{} done", done.await);
}
