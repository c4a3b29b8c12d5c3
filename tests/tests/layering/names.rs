//! A type name has one meaning, or few: a reader must not have to search for the `Kind` that is meant.

use std::collections::BTreeMap;

use crate::sources::Source;

/// The number of types of a crate that may have the same name.
const SAME_MAX: usize = 3;

/// The type that a line defines at the top level of its file.
fn defined(line: &str) -> Option<&str> {
    let line = if let Some(rest) = line.strip_prefix("pub(") { rest.split_once(") ")?.1 } else { line };
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("unsafe ").unwrap_or(line);
    let rest = ["struct ", "enum ", "trait ", "type ", "union "].iter().find_map(|word| line.strip_prefix(word))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Names that more types of a crate have than allowed.
pub(crate) fn overloaded(tree: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for source in tree.iter().filter(|source| source.is_rust()) {
        let Some((krate, inside)) = source.path.split_once("/src/") else { continue };
        // Each program is a crate of its own.
        if inside.contains("tests") || inside.starts_with("bin/") {
            continue;
        }
        for name in source.text.lines().filter_map(defined) {
            places.entry((krate, name)).or_default().push(&source.path);
        }
    }
    let too_many = places.into_iter().filter(|(_, places)| places.len() > SAME_MAX);
    too_many
        .map(|((krate, name), places)| format!("{krate} has {} types {name}: {}", places.len(), places.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_name_may_be_defined_three_times_in_a_crate_and_no_more() {
        let mut tree = vec![
            source("a/src/one.rs", "pub struct Kind;\n    struct Kind;\nenum Kinds {}\n"),
            source("a/src/two.rs", "pub(crate) enum Kind {}\npub unsafe trait Kind {}\n"),
            source("b/src/one.rs", "type Kind = u8;\n"),
            source("a/src/port/tests.rs", "struct Kind;\n"),
            source("a/src/bin/kind.rs", "struct Kind;\n"),
        ];
        assert_eq!(overloaded(&tree), [""; 0]);
        tree.push(source("a/src/three.rs", "union Kind {}\n"));
        let places = "a/src/one.rs, a/src/two.rs, a/src/two.rs, a/src/three.rs";
        assert_eq!(overloaded(&tree), [format!("a has 4 types Kind: {places}")]);
    }

    #[test]
    fn a_definition_is_read_whatever_may_see_it() {
        let lines = [
            "pub(in a::b) struct A<T>(T);",
            "pub type B = u8;",
            "enum C {",
            "struct D;",
            "impl E for F {}",
            "    struct G;",
        ];
        assert_eq!(lines.map(defined), [Some("A"), Some("B"), Some("C"), Some("D"), None, None]);
    }
}
