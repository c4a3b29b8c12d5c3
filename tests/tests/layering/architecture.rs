//! The names in ARCHITECTURE.md: each file that it names exists, and each function of its section "Start here" is defined.

use std::collections::BTreeSet;

use crate::sources::Source;

/// The page.
pub(crate) const PAGE: &str = "ARCHITECTURE.md";

/// Programs that the page names besides functions.
const PROGRAMS: [&str; 3] = ["mpiexec", "mpirun", "srun"];

/// The texts between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// Files that the page names, by the end of their paths, and that the tree does not have.
pub(crate) fn missing_files(page: &str, tree: &[Source]) -> Vec<String> {
    let is_file = |name: &&str| {
        [".rs", ".py", ".md"].iter().any(|end| name.ends_with(end))
            && !name.contains([' ', '*', '{'])
            && !name.contains("NAME")
    };
    let is_end_of = |name: &str, path: &str| {
        path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    let named: BTreeSet<&str> = quoted(page).filter(is_file).collect();
    let missing = named.into_iter().filter(|name| !tree.iter().any(|source| is_end_of(name, &source.path)));
    missing.map(|name| format!("{PAGE} names the file {name}")).collect()
}

/// Functions, modules and macros that the section "Start here" names, and that no source defines.
pub(crate) fn undefined_names(page: &str, tree: &[Source]) -> Vec<String> {
    let section = page.split_once("## Start here").map_or("", |(_, rest)| rest);
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let is_name = |name: &&str| {
        let word = name.trim_end_matches('!');
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let is_defined = |name: &&str| {
        let forms = match name.strip_suffix('!') {
            Some(name) => vec![format!("macro_rules! {name}")],
            None => ["fn", "def", "mod", "struct"].map(|keyword| format!("{keyword} {name}")).to_vec(),
        };
        let folder = format!("{name}/");
        let is_code = |source: &&Source| source.is_rust() || source.path.ends_with(".py");
        tree.iter().any(|source| source.path.contains(&folder))
            || tree.iter().filter(is_code).any(|source| forms.iter().any(|form| source.text.contains(form)))
    };
    let named: BTreeSet<&str> = quoted(section).filter(is_name).collect();
    let undefined = named.into_iter().filter(|name| !PROGRAMS.contains(name) && !is_defined(name));
    undefined.map(|name| format!("\"Start here\" of {PAGE} names {name}, which is not defined")).collect()
}

mod tests {
    use super::*;

    fn tree() -> [Source; 2] {
        [("a/src/b.rs", "fn go() {}\nmacro_rules! list { () => {} }"), ("a/c.py", "def come(): ...")]
            .map(|(path, text)| Source { path: path.to_owned(), text: text.to_owned() })
    }

    #[test]
    fn a_file_is_found_by_the_end_of_its_path() {
        assert_eq!(missing_files("`src/b.rs`, `c.py` and `NAME.rs`", &tree()), [""; 0]);
        assert_eq!(missing_files("`rc/b.rs` or `d.rs`", &tree()).len(), 2);
    }

    #[test]
    fn a_name_is_looked_for_in_the_section_only() {
        let page = |names: &str| format!("`no`\n## Start here\n{names}\n## Words\n`neither`");
        assert_eq!(undefined_names(&page("`go`, `come`, `list!`, `a`, `srun`, `Type`"), &tree()), [""; 0]);
        assert_eq!(undefined_names(&page("`went` and `lists!`"), &tree()).len(), 2);
    }
}
