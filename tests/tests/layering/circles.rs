//! The folders of a crate do not import each other in a circle. The files of a crate's root count as one folder. Knows Rust's paths, as tokens.
//!
//! A path is followed through `use` to the file that defines what it names, so an import through the facade of a crate (`crate::Name`) counts as one
//! of the file behind it. What a facade exports is no import: `pub use` in `lib.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use crate::sources::Source;

/// Circles that stay: the crate, its folders, and the reason.
pub(crate) const KNOWN: &[(&str, &[&str], &str)] = &[
    (
        "chare",
        &["testing", "the root"],
        "`boot` starts simulated jobs of `testing`, and these give a `Job` to the program",
    ),
    (
        "launcher",
        &["local_processes", "the root"],
        "the folder is a part of `local_processes.rs`, a file like those of the root",
    ),
    ("scheduler", &["pe", "the root"], "a `Scheduler` has an inbox, and work in the inbox is run with the `Scheduler`"),
    (
        "transport",
        &["port", "the root"],
        "a port takes the transport's options, which include the faults that tests inject into it",
    ),
    (
        "transport/bootstrap",
        &["options", "pmi1", "pmix", "the root"],
        "options choose a kind of bootstrap, and each kind reads options; `pmi1.rs` and `pmix.rs` are files like those of the root",
    ),
    (
        "transport/core",
        &["memory", "the root"],
        "operations of the seam own buffers, and memory is exposed under the seam's identifiers",
    ),
    ("transport/ofi", &["fi", "the root"], "the folder is a part of `fi.rs`, a file like those of the root"),
];

/// The folder of files that lie in none.
const ROOT: &str = "the root";

type Path = Vec<String>;

/// A path that a file names.
struct Import {
    file: String,
    to: Path,
}

/// A module that is a file, or the modules within one.
#[derive(Default)]
struct Module {
    folder: String,
    imports: Vec<Import>,
    /// What `use` makes of a name here.
    names: BTreeMap<String, Path>,
}

type Modules = BTreeMap<Path, Module>;

/// Circles of folders that `known` does not have, and entries of `known` that are no longer needed.
pub(crate) fn violations(tree: &[Source], known: &[(&str, &[&str], &str)]) -> Vec<String> {
    let mut crates: BTreeMap<&str, Vec<(&str, &Source)>> = BTreeMap::new();
    for source in tree.iter().filter(|source| source.is_rust()) {
        match source.path.split_once("/src/") {
            Some((krate, inside)) if !inside.starts_with("bin/") => {
                crates.entry(krate).or_default().push((inside, source));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    let mut needed = BTreeSet::new();
    for (krate, files) in crates {
        let arrows = arrows(&modules(&files));
        for circle in circles(&arrows) {
            match known.iter().position(|(of, folders, _)| *of == krate && folders.iter().eq(&circle)) {
                Some(at) => _ = needed.insert(at),
                None => {
                    found.push(format!("{krate}: {} import each other: {}", circle.join(", "), why(&arrows, &circle)))
                }
            }
        }
    }
    let unneeded = known.iter().enumerate().filter(|(at, _)| !needed.contains(at));
    found.extend(unneeded.map(|(_, (krate, folders, _))| format!("{krate} has no circle of {}", folders.join(", "))));
    found
}

/// For each two folders an import, if there is one.
type Arrows = BTreeMap<(String, String), String>;

fn arrows(modules: &Modules) -> Arrows {
    let mut arrows = Arrows::new();
    for module in modules.values() {
        for Import { file, to } in &module.imports {
            let target = resolve(modules, to, 0).map(|target| &modules[&target].folder);
            if let Some(target) = target.filter(|target| **target != module.folder) {
                let import = || format!("{file} uses crate::{}", to.join("::"));
                arrows.entry((module.folder.clone(), target.clone())).or_insert_with(import);
            }
        }
    }
    arrows
}

/// The module that defines what a path names; `None` if that is in another crate.
fn resolve(modules: &Modules, path: &[String], depth: usize) -> Option<Path> {
    let len = (0..=path.len()).rev().find(|&len| modules.contains_key(&path[..len]))?;
    let module = &modules[&path[..len]];
    match path.get(len).and_then(|name| module.names.get(name)) {
        Some(to) if depth < 8 => resolve(modules, &[to, &path[len + 1..]].concat(), depth + 1),
        _ => Some(path[..len].to_vec()).filter(|path| path.first().is_none_or(|first| first != EXTERNAL)),
    }
}

/// The first name of paths into other crates.
const EXTERNAL: &str = "extern";

/// Folders that can be reached from each other.
fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(folder) = next.pop() {
            let steps = arrows.keys().filter(|(a, _)| a == folder).map(|(_, b)| b);
            next.extend(steps.filter(|b| reached.insert((*b).clone())));
        }
        reached
    };
    let reached: BTreeMap<_, _> = arrows.keys().map(|(folder, _)| (folder.clone(), reach(folder))).collect();
    let circle = |folder: &String| -> Vec<String> {
        let back = |other: &&String| reached.get(*other).is_some_and(|reached| reached.contains(folder));
        reached[folder].iter().filter(back).cloned().collect()
    };
    let all: BTreeSet<_> = reached.keys().map(circle).filter(|circle| circle.len() > 1).collect();
    all.into_iter().collect()
}

fn why(arrows: &Arrows, circle: &[String]) -> String {
    let within = arrows.iter().filter(|((a, b), _)| circle.contains(a) && circle.contains(b));
    let lines: Vec<_> = within.map(|((a, b), import)| format!("\n    {a} -> {b}: {import}")).collect();
    lines.concat()
}

/// The modules of a crate, from its files by their paths in `src/`. Tests are left out.
fn modules(files: &[(&str, &Source)]) -> Modules {
    let paths: BTreeSet<Path> = files.iter().map(|(inside, _)| module_path(inside)).collect();
    let mut modules = Modules::from([(vec![EXTERNAL.to_owned()], Module::default())]);
    let mut tests = BTreeSet::new();
    for (inside, source) in files {
        let tokens = TokenStream::from_str(&source.text).unwrap_or_else(|e| panic!("{} is not Rust: {e}", source.path));
        let path = module_path(inside);
        let in_folder = path.len() > 1 || paths.iter().any(|other| other.len() > 1 && other.first() == path.first());
        let folder = path.first().filter(|_| in_folder || inside.contains('/')).map_or(ROOT, |folder| folder);
        let is_facade = *inside == "lib.rs";
        let mut reader =
            Reader { file: &source.path, folder, is_facade, paths: &paths, modules: &mut modules, tests: &mut tests };
        reader.read(&path, tokens);
    }
    modules.retain(|path, _| !(1..=path.len()).any(|len| tests.contains(&path[..len])));
    modules
}

fn module_path(inside: &str) -> Path {
    let mut path: Path = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// Reads the tokens of a file.
struct Reader<'a> {
    file: &'a str,
    folder: &'a str,
    is_facade: bool,
    /// Of the crate's files.
    paths: &'a BTreeSet<Path>,
    modules: &'a mut Modules,
    /// Modules that exist in tests only.
    tests: &'a mut BTreeSet<Path>,
}

impl Reader<'_> {
    /// Reads the tokens of a module, or of a group in it.
    fn read(&mut self, at: &Path, tokens: TokenStream) {
        self.modules.entry(at.clone()).or_default().folder = self.folder.to_owned();
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let (mut next, mut is_public, mut is_test) = (0, false, false);
        while let Some(token) = tokens.get(next) {
            next += 1;
            let word = if let TokenTree::Ident(word) = token { word.to_string() } else { String::new() };
            let end = || (next..tokens.len()).find(|&end| punct(&tokens, end, ';')).unwrap_or(tokens.len());
            match (word.as_str(), token) {
                ("mod", _) if is_test => {
                    self.tests.insert([at.clone(), ident(&tokens, next).into_iter().collect()].concat());
                    next = behind_item(&tokens, next);
                }
                (_, TokenTree::Ident(_)) if is_test && word != "pub" => next = behind_item(&tokens, next),
                ("mod", _) => {
                    if let (Some(name), Some(TokenTree::Group(body))) = (ident(&tokens, next), tokens.get(next + 1)) {
                        self.read(&[at.clone(), vec![name]].concat(), body.stream());
                        next += 2;
                    }
                }
                ("use", _) => {
                    self.read_use(at, &tokens[next..end()], is_public);
                    next = end();
                }
                ("pub", _) => {
                    is_public = true;
                    next += usize::from(matches!(tokens.get(next), Some(TokenTree::Group(_)))); // pub(crate)
                    continue;
                }
                ("crate" | "self" | "super", _) if punct(&tokens, next, ':') => {
                    let (path, behind) = path_at(&tokens, next - 1);
                    if !punct(&tokens, behind, '!') {
                        self.import(at, path);
                    }
                    next = behind;
                }
                (_, TokenTree::Punct(p)) if p.as_char() == '#' => {
                    next += usize::from(punct(&tokens, next, '!'));
                    is_test |= tokens.get(next).is_some_and(is_for_tests);
                    next += 1;
                    continue;
                }
                (_, TokenTree::Group(group)) => self.read(at, group.stream()),
                _ => {}
            }
            (is_public, is_test) = (false, is_test && word == "pub");
        }
    }

    fn read_use(&mut self, at: &Path, tokens: &[TokenTree], is_public: bool) {
        let mut leaves = Vec::new();
        flatten(&Path::new(), tokens, &mut leaves);
        for (path, name) in leaves {
            let to = self.absolute(at, path.clone());
            self.modules
                .entry(at.clone())
                .or_default()
                .names
                .insert(name, to.unwrap_or_else(|| vec![EXTERNAL.to_owned()]));
            if !(self.is_facade && is_public) {
                self.import(at, path);
            }
        }
    }

    fn import(&mut self, at: &Path, path: Path) {
        if let Some(to) = self.absolute(at, path) {
            self.modules.entry(at.clone()).or_default().imports.push(Import { file: self.file.to_owned(), to });
        }
    }

    /// A path from the crate's root; `None` if it leads to another crate.
    fn absolute(&self, at: &Path, path: Path) -> Option<Path> {
        let first = path.first()?.as_str();
        let mut from = at.clone();
        let mut rest = &path[..];
        match first {
            "crate" => return Some(path[1..].to_vec()),
            "self" | "super" => {
                while let Some(step) = rest.first().filter(|step| ["self", "super"].contains(&step.as_str())) {
                    if step == "super" {
                        from.pop();
                    }
                    rest = &rest[1..];
                }
            }
            _ => {
                let child = [at.as_slice(), &path[..1]].concat();
                if !self.paths.contains(&child) && !self.modules.contains_key(&child) {
                    return None;
                }
            }
        }
        from.extend_from_slice(rest);
        Some(from)
    }
}

fn punct(tokens: &[TokenTree], at: usize, c: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == c)
}

fn ident(tokens: &[TokenTree], at: usize) -> Option<String> {
    if let Some(TokenTree::Ident(word)) = tokens.get(at) { Some(word.to_string()) } else { None }
}

/// Behind the `;` or the body of the item that begins here.
fn behind_item(tokens: &[TokenTree], from: usize) -> usize {
    let is_body =
        |token: &TokenTree| matches!(token, TokenTree::Group(g) if g.delimiter() == proc_macro2::Delimiter::Brace);
    let ends = |&at: &usize| punct(tokens, at, ';') || is_body(&tokens[at]);
    (from..tokens.len()).find(ends).map_or(tokens.len(), |at| at + 1)
}

/// Whether the group of an attribute is a `cfg` for tests or fuzzing.
fn is_for_tests(group: &TokenTree) -> bool {
    let text = group.to_string();
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    words.contains(&"cfg") && words.contains(&"test") && !words.contains(&"not")
}

/// The path that begins here, and where it ends.
fn path_at(tokens: &[TokenTree], mut at: usize) -> (Path, usize) {
    let mut path = Path::new();
    while let Some(name) = ident(tokens, at) {
        path.push(name);
        at += 1;
        if !(punct(tokens, at, ':') && punct(tokens, at + 1, ':') && ident(tokens, at + 2).is_some()) {
            break;
        }
        at += 2;
    }
    (path, at)
}

/// The paths of a `use`, each with the name that it gets.
fn flatten(prefix: &Path, tokens: &[TokenTree], leaves: &mut Vec<(Path, String)>) {
    for item in tokens.split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ',')) {
        let mut path = prefix.clone();
        let mut name = None;
        let mut group = None;
        for (at, token) in item.iter().enumerate() {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    name = ident(item, at + 1);
                    break;
                }
                TokenTree::Ident(word) if word == "self" && at == 0 && !prefix.is_empty() => {}
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(inner) => group = Some(inner.stream()),
                _ => {}
            }
        }
        match group {
            Some(inner) => flatten(&path, &inner.into_iter().collect::<Vec<_>>(), leaves),
            None if item.is_empty() => {}
            None => {
                let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
                leaves.push((path, name));
            }
        }
    }
}

mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Vec<String> {
        let source = |&(path, text): &(&str, &str)| Source { path: format!("a/src/{path}"), text: text.to_owned() };
        violations(&files.iter().map(source).collect::<Vec<_>>(), &[])
    }

    const LIB: (&str, &str) = ("lib.rs", "mod one; mod two; mod api; pub use one::Public; pub use dep::Extern;");

    #[test]
    fn a_circle_of_folders_is_found_with_its_imports() {
        let found = check(&[
            LIB,
            ("one/mod.rs", "use crate::two::{A, B};"),
            ("two/mod.rs", "mod b;"),
            ("two/b.rs", "fn f() { crate::one::g() }"),
        ]);
        let arrows =
            "\n    one -> two: a/src/one/mod.rs uses crate::two::A\n    two -> one: a/src/two/b.rs uses crate::one::g";
        assert_eq!(found, [format!("a: one, two import each other: {arrows}")]);
        assert_eq!(
            check(&[LIB, ("one/mod.rs", "use super::api::X;"), ("api.rs", "use crate::Public;")]).len(),
            1,
            "a facade"
        );
    }

    #[test]
    fn what_is_no_import_of_another_folder_makes_no_circle() {
        let two = ("two/mod.rs", "use crate::one::X;");
        for text in [
            "/// [`crate::two`]\nfn f() {}",
            "use crate::Extern; use two::X; use crate::one::Y;",
            "#[cfg(test)]\nmod tests { use crate::two::X; }",
            "#[cfg(any(test, fuzzing))]\npub(crate) mod fuzz;",
            "mod inner { use super::Y; }\nfn two() {}",
            "fn f() { crate::two!() }",
        ] {
            let fuzz = ("one/fuzz.rs", "use crate::two::X;");
            let fuzz = if text.contains("fuzz") { fuzz } else { ("api.rs", "") };
            assert_eq!(check(&[LIB, two, ("one/mod.rs", text), fuzz]), [""; 0], "{text}");
        }
        assert_eq!(
            check(&[LIB, two, ("one/mod.rs", ""), ("api.rs", "use crate::{one, two};")]),
            [""; 0],
            "the root is above both"
        );
    }

    #[test]
    fn a_circle_that_stays_is_named_and_no_other() {
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let tree = [source("a/src/one/x.rs", "use crate::y;"), source("a/src/y.rs", "use crate::one::x;")];
        assert_eq!(violations(&tree, &[("a", &["one", ROOT], "why")]), [""; 0]);
        assert_eq!(violations(&tree[..1], &[("a", &["one", ROOT], "why")]), ["a has no circle of one, the root"]);
    }
}
