//! The form of a source file: its length, its opening, and text that it must not contain. Knows text, not Rust.

/// A file of the tree.
pub(crate) struct Source {
    /// Relative to the workspace's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// A file has fewer lines than this.
const LINES: usize = 600;

/// Files that may be longer, each with its reason.
pub(crate) const LONG: &[(&str, &str)] =
    &[("transport/libfabric-sys/src/bindings.rs", "generated"), ("transport/ucx-sys/src/bindings.rs", "generated")];

/// Folders whose files are inputs of tests rather than code of ours: programs that must not compile.
const INPUTS: &[&str] = &["tests/compile-fail/programs/", "tests/ui/"];

/// Code files of [`LINES`] lines or more that `long` does not excuse, and unnecessary exceptions.
pub(crate) fn too_long(tree: &[Source], long: &[(&str, &str)]) -> Vec<String> {
    let is_code = |s: &Source| s.is_rust() || s.path.ends_with(".py") || s.path.starts_with("ci/");
    let lines = |s: &Source| s.text.lines().count();
    let mut found = Vec::new();
    for source in tree.iter().filter(|s| is_code(s) && lines(s) >= LINES) {
        if !long.iter().any(|(path, _)| *path == source.path) {
            found.push(format!("{} has {} lines: split it", source.path, lines(source)));
        }
    }
    for (path, _) in long {
        if !tree.iter().any(|s| s.path == *path && lines(s) >= LINES) {
            found.push(format!("{path} no longer needs its exception"));
        }
    }
    found
}

/// Rust files that do not begin with `//!` (after attributes of the whole file, such as `#![no_main]`).
pub(crate) fn without_opening(tree: &[Source]) -> Vec<String> {
    let ours = |s: &&Source| s.is_rust() && !INPUTS.iter().any(|folder| s.path.starts_with(folder));
    tree.iter()
        .filter(ours)
        .filter(|s| !s.text.lines().find(|line| !line.starts_with("#![")).is_some_and(|line| line.starts_with("//! ")))
        .map(|s| format!("{} does not open with `//!`: what is it for, and what does it know nothing of?", s.path))
        .collect()
}

/// Lines that name a folder that exists on only one machine.
pub(crate) fn local_paths(tree: &[Source]) -> Vec<String> {
    let folders: Vec<String> = ["home", "root", "Users", "work"].iter().map(|name| format!("/{name}/")).collect();
    let mut found = Vec::new();
    for source in tree {
        for (number, line) in source.text.lines().enumerate() {
            for folder in &folders {
                // After a letter or similar it is a part of a longer path.
                let absolute = |at: usize| {
                    !line[..at]
                        .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '}' | '>' | '~'))
                };
                if line.match_indices(folder).any(|(at, _)| absolute(at)) {
                    found.push(format!("{}:{} names a path of one machine: {}", source.path, number + 1, line.trim()));
                }
            }
        }
    }
    found
}

mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_file_of_600_lines_needs_an_exception_and_a_shorter_one_must_have_none() {
        let tree = [
            source("a.rs", &"x\n".repeat(LINES)),
            source("b.rs", &"x\n".repeat(LINES - 1)),
            source("c.md", &"x\n".repeat(LINES)),
        ];
        assert_eq!(too_long(&tree, &[]), ["a.rs has 600 lines: split it"]);
        assert_eq!(too_long(&tree, &[("a.rs", "a table")]), [""; 0]);
        assert_eq!(too_long(&tree[1..], &[("b.rs", "a table")]), ["b.rs no longer needs its exception"]);
    }

    #[test]
    fn a_file_must_open_with_its_purpose_unless_it_is_an_input() {
        let tree = [
            source("a.rs", "//! Adds.\n"),
            source("a2.rs", "#![no_main]\n//! Adds.\n"),
            source("b.rs", "use std::fs;\n"),
            source("tests/ui/c.rs", "fn main() {}\n"),
        ];
        let found = without_opening(&tree);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("b.rs "));
    }

    #[test]
    fn a_local_path_is_found_and_a_part_of_a_relative_one_is_not() {
        let check = |line: String| local_paths(&[source("a.md", &line)]).len();
        for name in ["home", "root", "Users", "work"] {
            assert_eq!(check(format!("see /{name}/notes")), 1, "{name}");
            assert_eq!(check(format!("(\"/{name}/notes\")")), 1, "{name}");
            assert_eq!(check(format!("see ../{name}/notes and target/{name}/x and $HOME/{name}")), 0, "{name}");
        }
    }
}
