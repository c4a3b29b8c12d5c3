//! Errors and reports of deadlocks in the program's names: to the runtime all Python chares have one type, and it does not see what waits in Python.

use charm4rs::{CallError, Collection, CollectionId, Front, body_of};
use pyo3::prelude::*;

use crate::element::{Element, ReplyTo};
use crate::index::Index;
use crate::outcome::Outcome;
use crate::state::{charm4py_error, engine, hooks};
use crate::{array_map, branches, insertion, notes};

/// See the module's text.
pub(crate) struct PythonFront;

/// An error of a call in the program's names.
fn in_words(class: &str, at: Option<&str>, method: &str, error: CallError) -> CallError {
    match error {
        CallError::NoSuchElement { index, pe, .. } => {
            let index = at.map_or(index, str::to_owned);
            CallError::NoSuchElement { chare: class.to_owned(), index, entry: method.to_owned(), pe }
        }
        CallError::Destroyed { pe, .. } => {
            CallError::Destroyed { chare: class.to_owned(), what: method.to_owned(), pe }
        }
        other => other,
    }
}

impl Front for PythonFront {
    fn waits(&self) -> (Vec<String>, bool) {
        Python::attach(|py| {
            let told = hooks().and_then(|hooks| hooks.call_method0(py, "waits")?.extract(py));
            // A report must not end the job.
            told.unwrap_or_else(|error: PyErr| {
                (vec![format!("the waits of Python code cannot be listed: {error}")], true)
            })
        })
    }

    fn chare(&self, collection: CollectionId) -> Option<String> {
        engine().ok()?.known.class_of(collection).map(|class| class.name.clone())
    }

    fn undelivered(&self, collection: CollectionId, entry: &str, body: &[u8], error: CallError) -> Option<CallError> {
        let Ok(engine) = engine() else { return Some(error) };
        let called = body_of::<(Index, u16)>(body);
        let single = called.and_then(|(index, _)| engine.known.class_of_single(collection, index));
        let class = single.or_else(|| engine.known.class_of(collection));
        let name = called.and_then(|(_, method)| class?.methods.get(usize::from(method)));
        let error = in_words(
            class.map_or("a chare", |class| &class.name),
            single.map(|_| "0"), // the index that a single chare has for the program
            name.map_or("a method", |method| &method.name),
            error,
        );
        // The engine itself replies to other calls.
        let reply = body_of::<(Index, u16, ReplyTo)>(body).filter(|_| entry == "call").map(|(.., reply)| reply);
        match reply {
            None | Some(ReplyTo::Nowhere) => Some(error),
            Some(reply) => {
                Python::attach(|py| {
                    let told = charm4py_error(py, &error.to_string()).unwrap_or_else(|worse| worse);
                    reply.send(Outcome::error(py, &told));
                });
                None
            }
        }
    }

    fn gone(&self, id: CollectionId) {
        let Ok(engine) = engine() else { return };
        Python::attach(|_| {
            engine.known.has_gone(id);
            let collection = Collection::<Element>::named(id);
            array_map::gone(collection);
            insertion::gone(collection);
            branches::gone(id);
            notes::gone(id);
        });
    }
}
