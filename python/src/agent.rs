//! The engine's own chare on every PE: what arrives for a PE rather than for one of its chares.

use charm4rs::prelude::*;
use pyo3::prelude::*;

use crate::element::Outcome;
use crate::engine::{self, engine};
use crate::future::arrived;
use crate::reduce::Reduced;

/// See the module's text.
pub(crate) struct Agent;

#[chare(index = u32)]
impl Agent {
    #[init]
    fn new(cx: &mut Cx<Self>, program: Vec<String>) -> Self {
        if let Ok(engine) = engine() {
            engine.meet(cx.collection().as_group().expect("agents are a group"));
            Python::attach(|py| {
                if let Err(error) = engine.compare(py, program) {
                    engine::fatal(py, &error, "the start of a PE");
                }
            });
        }
        Agent
    }

    /// A value for a future of this PE.
    #[entry]
    fn fulfil(&mut self, number: u64, outcome: Outcome) {
        Python::attach(|py| {
            let settled = engine().and_then(|engine| engine.futures.settle(py, number, arrived(py, outcome)));
            if let Err(error) = settled {
                engine::fatal(py, &error, "a coroutine");
            }
        });
    }

    /// The result of a reduction, and whom it is for.
    #[entry]
    fn reduced(&mut self, result: Reduced) {
        Python::attach(|py| {
            if let Err(error) = result.give(py) {
                engine::fatal(py, &error, "the callback of a reduction");
            }
        });
    }
}
