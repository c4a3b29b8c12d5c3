//! The table of options for users: on a terminal and in the book.

use std::fmt::Write as _;

use super::words::{IGNORED, OURS, REFUSED, Row};

/// Columns of a line of `++help`.
const WIDTH: usize = 100;
const LEFT: usize = 24;

/// The table, for `++help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::new();
    for entry in OURS {
        let left = format!("{} {}", entry.name, entry.value);
        let also = if entry.also.is_empty() { String::new() } else { format!(" (also {})", entry.also.join(" ")) };
        item(&mut text, &left, &format!("{}{also}", entry.help));
    }
    item(&mut text, "--", "ends these options; what follows belongs to the program");
    text.push_str("\nOptions of Charm++ that are accepted and do nothing:\n");
    let words: Vec<_> = IGNORED.iter().flat_map(Row::words).map(|(name, value, _)| joined(name, value)).collect();
    item(&mut text, "", &words.join(", "));
    text.push_str("\nAnd those that do not work here:\n");
    for row in REFUSED {
        let words: Vec<_> = row.words().map(|(name, ..)| name).collect();
        item(&mut text, "", &format!("{}: {}", words.join(", "), row.says));
    }
    text
}

fn joined(name: &str, value: &str) -> String {
    if value.is_empty() { name.to_owned() } else { format!("{name} {value}") }
}

/// A line with `left` on the left, wrapped.
fn item(text: &mut String, left: &str, right: &str) {
    let indent = if left.is_empty() { 2 } else { LEFT + 3 };
    let mut line = if left.is_empty() { " ".to_owned() } else { format!("  {left:<LEFT$}") };
    for word in right.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = " ".repeat(indent - 1);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// What happens to Charm++'s options, for the book.
#[must_use]
pub fn charm_table() -> String {
    let mut text = "| Option | What it does here |\n|---|---|\n".to_owned();
    let code = |words: &mut dyn Iterator<Item = String>| words.map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
    for entry in OURS {
        let names = std::iter::once(&entry.name).chain(entry.also).map(|name| joined(name, entry.value));
        let _ = writeln!(text, "| {} | {} |", code(&mut names.into_iter()), entry.help);
    }
    for (rows, kind) in [(IGNORED, "nothing"), (REFUSED, "refused")] {
        for row in rows {
            let mut words = row.words().map(|(name, value, _)| joined(name, value));
            let _ = writeln!(text, "| {} | {kind}: {} |", code(&mut words), row.says);
        }
    }
    text
}
