//! The rules of the project that the compiler does not check: which crate may name which, where unsafe code may be, and the form of a source file.
//! ARCHITECTURE.md states them; violations fail here.
//!
//! Each rule is a function from plain data to violations, with tests of its own on small inputs. The tests in this file apply the rules to the tree.
//! Nothing here knows what a crate does.

mod architecture;
mod arrows;
mod backends;
mod circles;
mod names;
mod sources;
mod unsafety;

use std::fs;
use std::path::{Path, PathBuf};

use arrows::Package;
use sources::Source;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn packages() -> Vec<Package> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata works where cargo test does");
    metadata.workspace_packages().into_iter().map(Package::from_metadata).collect()
}

/// Every text file of the tree, by its path from the root.
fn tree() -> Vec<Source> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).expect("the tree can be read") {
            let entry = entry.expect("the tree can be read");
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().expect("the tree can be read");
            if kind.is_dir()
                && !["target", ".git", "corpus", "artifacts", "__pycache__"].iter().any(|skip| name == *skip)
            {
                walk(root, &path, found);
            } else if kind.is_file()
                && name != ".git"
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(root).expect("walked from the root").to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &root(), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "the walk finds the tree");
    found
}

#[track_caller]
fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n  {}\n", violations.join("\n  "));
}

#[test]
fn crates_name_only_the_crates_below_them() {
    none(&arrows::violations(&packages(), arrows::ALLOWED));
}

#[test]
fn a_layer_has_no_dependency_on_what_it_must_not_know() {
    none(&arrows::forbidden_dependencies(&packages(), arrows::FORBIDDEN));
}

#[test]
fn a_backend_is_named_only_where_it_is_chosen() {
    none(&backends::named(&tree(), backends::BACKENDS, backends::CHOOSERS));
}

#[test]
fn folders_of_a_crate_do_not_import_each_other_in_a_circle() {
    none(&circles::violations(&tree(), circles::KNOWN));
}

#[test]
fn there_is_no_async_runtime_in_the_lock_file() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is committed");
    none(&arrows::async_runtimes(&lock));
}

#[test]
fn the_architecture_names_files_and_functions_that_exist() {
    let (page, tree) = (fs::read_to_string(root().join(architecture::PAGE)).expect("the page is there"), tree());
    none(&architecture::missing_files(&page, &tree));
    none(&architecture::undefined_names(&page, &tree));
}

#[test]
fn source_files_stay_below_600_lines() {
    none(&sources::too_long(&tree(), sources::LONG));
}

#[test]
fn no_type_name_of_a_crate_has_more_than_three_meanings() {
    none(&names::overloaded(&tree()));
}

#[test]
fn source_files_open_with_their_purpose() {
    none(&sources::without_opening(&tree()));
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    none(&sources::local_paths(&tree()));
}

#[test]
fn every_fuzz_target_is_built_and_its_corpus_is_replayed() {
    let (tree, manifest) = (tree(), fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("there are targets"));
    let mut found = Vec::new();
    let targets = tree.iter().filter_map(|s| s.path.strip_prefix("fuzz/fuzz_targets/")?.strip_suffix(".rs"));
    for target in targets {
        let replays = format!("replay(\"{target}\"");
        if !manifest.contains(&format!("name = \"{target}\"")) {
            found.push(format!("fuzz/Cargo.toml does not have the target {target}"));
        }
        if fs::read_dir(root().join("fuzz/corpus").join(target)).map_or(0, Iterator::count) == 0 {
            found.push(format!("fuzz/corpus/{target} is empty"));
        }
        if !tree.iter().any(|s| s.is_rust() && s.text.contains(&replays)) {
            found.push(format!("no test has {replays}"));
        }
    }
    none(&found);
}

#[test]
fn unsafe_code_lives_in_the_modules_that_the_page_names_and_nowhere_else() {
    let page = fs::read_to_string(root().join(unsafety::PAGE)).expect("the page is there");
    let list = unsafety::list(&page);
    assert!(!list.is_empty(), "{} has a table under `{}`", unsafety::PAGE, unsafety::HEADING);
    none(&unsafety::violations(&tree(), &list));
}

#[test]
fn crates_without_unsafe_code_forbid_it() {
    none(&unsafety::crates_that_do_not_forbid(&packages(), &tree()));
}
