//! The pages are consistent: the book's contents name every chapter, every chapter's programs are tested, links lead to existing files, and the code
//! map of ARCHITECTURE.md names existing files. Knows nothing of the content of the pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The targets of the links `[text](target)` of a page that lead to files: without addresses, anchors and code.
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

/// The files and folders that the code map names: within a section ``### `crate/` ``, items ``- `file.rs`, `folder/`: …``.
fn map(architecture: &str) -> Vec<String> {
    let mut krate = None;
    let mut found = Vec::new();
    for line in architecture.lines() {
        if line.starts_with('#') {
            krate = line.strip_prefix("### `").and_then(|rest| rest.split_once("/`")).map(|(name, _)| name);
        } else if let (Some(krate), Some(item)) = (krate, line.strip_prefix("- ")) {
            let (names, _) = item.split_once(':').unwrap_or((item, ""));
            let paths = names.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") || name.ends_with('/'));
            found.extend(paths.map(|name| format!("{krate}/src/{name}")));
        }
    }
    found
}

/// The code that a page quotes: the file that a comment `<!-- from FILE -->` names, and the block behind it, cut where it leaves something out.
fn quotes(page: &str) -> Vec<(&str, Vec<String>)> {
    let parts = page.split("<!-- from ").skip(1).filter_map(|part| part.split_once(" -->\n```rust,ignore\n"));
    parts
        .map(|(file, rest)| {
            let (block, _) = rest.split_once("```").expect("a block ends");
            let pieces = block.split_inclusive('\n').collect::<Vec<_>>();
            let pieces = pieces.split(|line| line.trim() == "// …").map(<[&str]>::concat);
            (file, pieces.collect())
        })
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
fn the_code_map_is_read_by_crate() {
    let page = "## Map\n- `no.rs`: x\n### `a/` (`crate-a`)\nText `no.rs`.\n- `b.rs`, `c/`: like `no.rs`\n## End\n- `no.rs`: x\n";
    assert_eq!(map(page), ["a/src/b.rs", "a/src/c/"]);
}

#[test]
fn code_is_quoted_as_it_is_in_its_file() {
    let page = "<!-- from a.rs -->\n```rust,ignore\nfn f() {\n    // …\n}\n```\n```rust\nno\n```\n";
    assert_eq!(quotes(page), [("a.rs", vec!["fn f() {\n".to_owned(), "}\n".to_owned()])]);
    let mut count = 0;
    for chapter in chapters() {
        let page = read(&root().join("docs/src").join(&chapter));
        assert_eq!(
            quotes(&page).len(),
            page.matches("<!-- from ").count(),
            "{chapter}: a quote is a block of rust,ignore"
        );
        for (file, pieces) in quotes(&page) {
            let code = read(&root().join(file));
            let mut rest = &code[..];
            for piece in pieces {
                let found = rest.find(&piece);
                let at = found.unwrap_or_else(|| panic!("{chapter} quotes what {file} does not have:\n{piece}"));
                rest = &rest[at + piece.len()..];
            }
            count += 1;
        }
    }
    assert!(count > 0, "there are quotes");
}

#[test]
fn the_code_map_names_existing_files() {
    let map = map(&read(&root().join("ARCHITECTURE.md")));
    assert!(map.len() > 10, "the map is found");
    let gone: Vec<_> = map.into_iter().filter(|path| !root().join(path).exists()).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names {gone:?}");
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
    let listed = list.split_whitespace().map(|name| format!("{name}.md"));
    // A chapter whose name is not a Rust name is listed separately.
    let alone = lib.split("include_str!(\"../../docs/src/").skip(1).filter_map(|rest| rest.split('"').next());
    let tested: BTreeSet<String> = listed.chain(alone.map(str::to_owned)).collect();
    assert_eq!(tested, chapters());
}

#[test]
fn the_book_has_the_options_that_the_runtime_has() {
    let page = read(&root().join("docs/src/running.md"));
    let help = charm4rs_bootstrap::options::help();
    let (ours, _) = help.split_once("\n\n").expect("Charm++'s come last");
    assert!(page.contains(&format!("```text\n{ours}\n```\n")), "docs/src/running.md must have this block:\n{ours}");
}

#[test]
fn the_book_has_every_option_of_charm() {
    let page = read(&root().join("docs/src/options.md"));
    let table = charm4rs_bootstrap::options::charm_table();
    let (_, rest) = page.split_once("<!-- table -->\n").expect("the table begins");
    let (there, _) = rest.split_once("<!-- end of table -->").expect("the table ends");
    assert!(there.trim() == table.trim(), "docs/src/options.md must have this table:\n{table}");
}

#[test]
fn links_of_pages_lead_to_existing_files() {
    let root = root();
    let mut pages: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|p| root.join(p)).into();
    pages.extend(chapters().into_iter().chain(["SUMMARY.md".to_owned()]).map(|name| root.join("docs/src").join(name)));
    for page in pages {
        let folder = page.parent().expect("a page lies in a folder");
        for target in links(&read(&page)) {
            assert!(folder.join(target).exists(), "{} links to {target}, which does not exist", page.display());
        }
    }
}
