//! Where unsafe code may be: the list in docs/unsafe.md and the `unsafe` in the code are compared in both directions, so that they cannot diverge.
//! Knows tokens, not meaning.

use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use crate::arrows::Package;
use crate::sources::Source;

/// The page that has the table, and its heading.
pub(crate) const PAGE: &str = "docs/unsafe.md";
pub(crate) const HEADING: &str = "# Unsafe code";

/// A row of the table: a file, or a folder if it ends with `/`.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Place {
    path: String,
    why: String,
}

impl Place {
    fn covers(&self, path: &str) -> bool {
        if self.path.ends_with('/') { path.starts_with(&self.path) } else { path == self.path }
    }
}

/// The rows ``| `path` | why |`` under [`HEADING`].
pub(crate) fn list(architecture: &str) -> Vec<Place> {
    architecture
        .lines()
        .skip_while(|line| *line != HEADING)
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (path, why) = line.strip_prefix("| `")?.split_once("` |")?;
            Some(Place { path: path.to_owned(), why: why.trim_matches(['|', ' ']).to_owned() })
        })
        .collect()
}

/// Files with unsafe code that `list` does not name; rows of `list` without unsafe code or without a reason.
pub(crate) fn violations(tree: &[Source], list: &[Place]) -> Vec<String> {
    let unsafe_files: Vec<&str> = tree.iter().filter(|s| has_unsafe(s)).map(|s| s.path.as_str()).collect();
    let mut found = Vec::new();
    for path in &unsafe_files {
        if !list.iter().any(|place| place.covers(path)) {
            found.push(format!("{path} has unsafe code, but {PAGE} does not name it"));
        }
    }
    for place in list {
        if !unsafe_files.iter().any(|path| place.covers(path)) {
            found.push(format!("{PAGE} names {}, but there is no unsafe code in it", place.path));
        }
        if place.why.is_empty() {
            found.push(format!("{PAGE} does not say why {} is unsafe", place.path));
        }
    }
    found
}

/// Programs for new readers need not open with this: the test checks that they have no unsafe code anyway.
const READ_FIRST: &str = "examples";

/// Roots of libraries and programs in whose folder there is no unsafe code, and which do not forbid it. (A root without any code has nothing to
/// forbid.)
pub(crate) fn crates_that_do_not_forbid(packages: &[Package], tree: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        if package.folder == READ_FIRST {
            continue;
        }
        // A crate may be in another one's folder: only its own `src` counts.
        let folder = format!("{}/src/", package.folder);
        if tree.iter().any(|s| s.path.starts_with(&folder) && has_unsafe(s)) {
            continue;
        }
        for root in tree.iter().filter(|s| package.roots.contains(&s.path)) {
            let code = || root.text.lines().any(|line| !line.starts_with("//") && !line.is_empty());
            if code() && !root.text.lines().any(|line| line == "#![forbid(unsafe_code)]") {
                found.push(format!(
                    "{} has no unsafe code: {} could say #![forbid(unsafe_code)]",
                    package.name, root.path
                ));
            }
        }
    }
    found
}

/// Whether a Rust file has the keyword, as a token: not in a comment, not in a string.
fn has_unsafe(source: &Source) -> bool {
    fn any(tokens: TokenStream) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(word) => word == "unsafe",
            TokenTree::Group(group) => any(group.stream()),
            TokenTree::Punct(_) | TokenTree::Literal(_) => false,
        })
    }
    // A search for the word, before the file is tokenized.
    source.is_rust()
        && source.text.contains("unsafe")
        && any(TokenStream::from_str(&source.text).unwrap_or_else(|e| panic!("{} is not Rust: {e}", source.path)))
}

mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn place(path: &str) -> Place {
        Place { path: path.to_owned(), why: "because".to_owned() }
    }

    #[test]
    fn the_list_is_read_from_its_table_and_from_nowhere_else() {
        let text = "## Before\n| `no.rs` | not here |\n# Unsafe code\nProse with `no.rs`.\n\n| where | why |\n|---|---|\n\
                    | `a/b.rs` | because |\n| `a/c/` |  |\n# After\n| `no.rs` | nor here |\n";
        assert_eq!(list(text), [place("a/b.rs"), Place { path: "a/c/".into(), why: String::new() }]);
        assert_eq!(violations(&[], &list(text)).last().unwrap(), "docs/unsafe.md does not say why a/c/ is unsafe");
    }

    #[test]
    fn the_keyword_counts_and_the_word_does_not() {
        let check = |text: &str| has_unsafe(&source("a.rs", text));
        for text in [
            "fn f() { unsafe { g() } }",
            "unsafe impl Send for T {}",
            "#[unsafe(no_mangle)] fn f() {}",
            "m!(unsafe fn f())",
        ] {
            assert!(check(text), "{text}");
        }
        for text in [
            "#![forbid(unsafe_code)]",
            "/// An unsafe thought.\nfn f() {} // unsafe {",
            "const S: &str = \"unsafe { }\"; const R: &str = r#\"unsafe\"#;",
            "/* unsafe { /* nested unsafe */ } */ fn f<'a>(_: &'a u8) -> char { '\"' }",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    #[test]
    fn an_unlisted_module_is_found_and_so_is_a_row_that_has_lost_its_module() {
        let tree =
            [source("a.rs", "unsafe fn f() {}"), source("b/c.rs", "unsafe fn f() {}"), source("d.rs", "fn f() {}")];
        assert_eq!(violations(&tree, &[place("a.rs"), place("b/")]), [""; 0]);
        let found = violations(&tree, &[place("a.rs"), place("d.rs")]);
        assert!(found[0].starts_with("b/c.rs has unsafe code"), "{found:?}");
        assert!(found[1].starts_with("docs/unsafe.md names d.rs"), "{found:?}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_crate_without_unsafe_code_must_forbid_it_at_each_of_its_roots() {
        let package = |folder: &str, roots: &[&str]| Package {
            name: folder.to_owned(),
            dependencies: Vec::new(),
            roots: roots.iter().map(|r| (*r).to_owned()).collect(),
            folder: folder.to_owned(),
        };
        let packages = [
            package("a", &["a/src/lib.rs"]),
            package("a/m", &["a/m/src/lib.rs", "a/m/src/main.rs"]),
            package("b", &["b/src/lib.rs"]),
        ];
        let mut tree = vec![
            source("a/src/lib.rs", "mod x;"),
            source("a/src/x.rs", "unsafe fn f() {}"),
            source("a/m/src/lib.rs", "#![forbid(unsafe_code)]\n"),
            source("a/m/src/main.rs", "fn main() {}"),
            source("b/src/lib.rs", "//! Nothing yet.\n"),
        ];
        assert_eq!(
            crates_that_do_not_forbid(&packages, &tree),
            ["a/m has no unsafe code: a/m/src/main.rs could say #![forbid(unsafe_code)]"]
        );
        tree.push(source("a/m/src/y.rs", "unsafe fn f() {}"));
        assert_eq!(crates_that_do_not_forbid(&packages, &tree), [""; 0]);
    }
}
