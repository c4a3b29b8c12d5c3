//! Extracts the programs from the pages: each Rust block with a `#[charm4rs::main]` becomes a module of the program `book`, and the text block after
//! it becomes the output that a test in `tests/programs.rs` expects. Knows nothing of what the programs do.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A program of a page.
struct Program {
    name: String,
    code: String,
    output: String,
}

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let chapters = root.join("docs/src");
    let mut pages: Vec<PathBuf> = fs::read_dir(&chapters)
        .expect("the book is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    pages.push(root.join("README.md"));
    pages.sort();

    println!("cargo::rerun-if-changed={}", chapters.display());
    let (mut modules, mut table, mut tests) = (String::new(), String::new(), String::new());
    for page in pages {
        println!("cargo::rerun-if-changed={}", page.display());
        for Program { name, code, output } in programs(&page) {
            let _ = writeln!(
                modules,
                "#[allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = \"written for readers\")]\n\
                 mod {name} {{\n{code}\npub(super) fn run() {{ main() }}\n}}\n"
            );
            let _ = writeln!(table, "    ({name:?}, {name}::run),");
            let _ = writeln!(tests, "#[test]\nfn {name}() {{\n    check({name:?}, {output:?});\n}}\n");
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let write = |name, text: String| fs::write(out.join(name), text).expect("the output folder can be written");
    write("programs.rs", format!("{modules}\nconst PROGRAMS: &[(&str, fn())] = &[\n{table}];\n"));
    write("program_tests.rs", tests);
}

/// The programs of a page, called by the page's name and a number.
fn programs(page: &Path) -> Vec<Program> {
    let stem = page.file_stem().expect("a page has a name").to_string_lossy().to_lowercase().replace('-', "_");
    let text = fs::read_to_string(page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
    let mut found: Vec<Program> = Vec::new();
    for (language, body) in blocks(&text) {
        if language.starts_with("rust") && body.contains("#[charm4rs::main]") {
            let name = format!("{stem}_{}", found.len() + 1);
            found.push(Program { name, code: body, output: String::new() });
        } else if language == "text"
            && let Some(program) = found.last_mut().filter(|program| program.output.is_empty())
        {
            program.output = body;
        }
    }
    found
}

/// The fenced blocks of a page: the text after the fence, and the lines, including those that the book hides.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, body)), None) => {
                body.push_str(line.strip_prefix("# ").unwrap_or(line));
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}
