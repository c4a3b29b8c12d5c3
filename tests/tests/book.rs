//! The pages hang together: the book's contents name every chapter, every chapter's programs are tested, and no page links to
//! what is not there. Knows nothing of what the pages say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The targets of the links `[text](target)` of a page that lead to files: no addresses, no anchors, no code.
fn links(page: &str) -> Vec<&str> {
    let mut in_code = false;
    page.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            !in_code && !fence
        })
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target.split('#').next().unwrap_or_default()))
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

fn chapters() -> BTreeSet<String> {
    fs::read_dir(root().join("docs/src"))
        .expect("the book is there")
        .map(|entry| entry.expect("the book can be read").file_name().into_string().expect("names are text"))
        .filter(|name| name != "SUMMARY.md")
        .collect()
}

#[test]
fn links_are_found_in_prose_and_not_in_code() {
    let page =
        "See [a](a.md), [b](b/c.md#part) and [d](https://e.org/f).\n```rust\nlet x = v[0](y);\n```\n[g](#here)\n";
    assert_eq!(links(page), ["a.md", "b/c.md"]);
}

#[test]
fn the_contents_of_the_book_name_every_chapter_and_no_other() {
    let summary = read(&root().join("docs/src/SUMMARY.md"));
    let named: BTreeSet<String> = links(&summary).into_iter().map(str::to_owned).collect();
    assert_eq!(named, chapters());
}

#[test]
fn the_programs_of_every_chapter_are_tested() {
    let lib = read(&root().join("tests/src/lib.rs"));
    let (_, list) = lib.split_once("chapters! {").expect("tests/src/lib.rs lists the chapters");
    let (list, _) = list.split_once('}').expect("the list ends");
    let tested: BTreeSet<String> = list.split_whitespace().map(|name| format!("{name}.md")).collect();
    assert_eq!(tested, chapters());
}

#[test]
fn no_page_links_to_what_is_not_there() {
    let root = root();
    let mut pages: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|p| root.join(p)).into();
    pages.extend(chapters().into_iter().chain(["SUMMARY.md".to_owned()]).map(|name| root.join("docs/src").join(name)));
    for page in pages {
        let folder = page.parent().expect("a page lies in a folder");
        for target in links(&read(&page)) {
            assert!(folder.join(target).exists(), "{} links to {target}, which is not there", page.display());
        }
    }
}
