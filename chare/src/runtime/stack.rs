//! The stacks of panics, as `RUST_BACKTRACE` requests them: unset or `0`, none; `full`, all frames; otherwise those of the user's code. Knows nothing
//! of how they are reported.

use std::backtrace::Backtrace;
use std::sync::OnceLock;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    No,
    Short,
    Full,
}

fn wanted() -> Wanted {
    static WANTED: OnceLock<Wanted> = OnceLock::new();
    *WANTED.get_or_init(|| match std::env::var_os("RUST_BACKTRACE") {
        None => Wanted::No,
        Some(value) if value == "0" => Wanted::No,
        Some(value) if value == "full" => Wanted::Full,
        Some(_) => Wanted::Short,
    })
}

/// The line below a panic's report that has no stack.
pub(super) fn hint() -> &'static str {
    if wanted() == Wanted::No { "\nnote: run with `RUST_BACKTRACE=1` for the stack" } else { "" }
}

/// Further lines for the panic whose hook this runs in.
pub(super) fn of_panic() -> String {
    match wanted() {
        Wanted::No => String::new(),
        Wanted::Short => format!("\nstack:\n{}", users(&Backtrace::force_capture().to_string())),
        Wanted::Full => format!("\nstack:\n{:#}", Backtrace::force_capture()),
    }
}

/// Frames of the standard library and of this crate.
fn is_ours(name: &str) -> bool {
    let of_std = ["std::", "core::", "alloc::", "<core::", "<std::", "<alloc::", "__rust", "rust_"];
    of_std.iter().any(|path| name.starts_with(path))
        || name.starts_with("charm4rs::")
        || name.starts_with("<charm4rs::")
}

/// Frames of the runtime itself, not those of types that it defines for users, nor of implementations of its traits by users.
pub(crate) fn is_runtime(name: &str) -> bool {
    let of_users = ["context::", "payload::", "reduction::reducer::"];
    let name = name.trim_start_matches(['<', '&']);
    name.strip_prefix("charm4rs::runtime::").is_some_and(|path| !of_users.iter().any(|users| path.starts_with(users)))
}

/// From a stack as text, innermost frame first: the frames between the panic and the runtime.
fn users(stack: &str) -> String {
    // A frame is a line with its number and name, and possibly one with its location.
    let mut frames: Vec<(&str, Option<&str>)> = Vec::new();
    for line in stack.lines() {
        let line = line.trim();
        match (line.split_once(": "), frames.last_mut()) {
            (_, Some((_, place))) if line.starts_with("at ") => *place = Some(line),
            (Some((number, name)), _) if number.bytes().all(|b| b.is_ascii_digit()) => frames.push((name, None)),
            _ => {}
        }
    }
    let panics = |(name, _): &(&str, _)| name.contains("rust_begin_unwind") || name.contains("begin_panic");
    let from = frames.iter().rposition(panics).map_or(0, |at| at + 1);
    let runtime = |(name, _): &(&str, _)| {
        let begins =
            name.contains("__rust_begin_short_backtrace") || name.contains(" as charm4rs::runtime::chare::Entry>");
        begins || is_runtime(name)
    };
    let frames: Vec<_> = frames[from..].iter().skip_while(|(name, _)| is_ours(name)).collect();
    let below = frames.iter().position(|frame| runtime(frame)).unwrap_or(frames.len());
    let users = |(name, _): &&(&str, _)| !is_ours(name);
    let end = frames[..below].iter().rposition(users).map_or(below, |at| at + 1);
    let frame = |(at, (name, place)): (usize, &&(&str, Option<&str>))| {
        format!("  {at}: {name}{}", place.map(|place| format!("\n      {place}")).unwrap_or_default())
    };
    let lines: Vec<String> = frames[..end].iter().enumerate().map(frame).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_stack_the_frames_between_the_panic_and_the_runtime_are_kept() {
        let stack = "   0: charm4rs::runtime::stack::of_panic
             at /r/stack.rs:1:1
   1: std::panicking::rust_panic_with_hook
   2: __rustc::rust_begin_unwind
             at /rustc/x/panicking.rs:689:5
   3: core::panicking::panic_fmt
   4: prog::inner
             at ./src/main.rs:3:9
   5: core::iter::Iterator::for_each
   6: prog::Block::step
             at ./src/main.rs:9:9
   7: <prog::_::step<prog::Block> as charm4rs::runtime::chare::Entry>::run::{{closure}}
   8: charm4rs::cx::<impl charm4rs::runtime::context::This<T>>::with
   9: charm4rs::runtime::calls::run_then
  10: prog::main";
        let kept = "  0: prog::inner\n      at ./src/main.rs:3:9\n  1: core::iter::Iterator::for_each\n  2: prog::Block::step\n      at ./src/main.rs:9:9";
        assert_eq!(users(stack), kept);
        assert_eq!(users(""), "");
        let of_a_payload =
            stack.replace("core::iter::Iterator::for_each", "charm4rs::runtime::payload::Payload<T>::into_vec");
        assert!(users(&of_a_payload).ends_with("2: prog::Block::step\n      at ./src/main.rs:9:9"));
        let of_the_runtime = stack.replace("   4: prog", "   4: charm4rs::runtime::unlike::refuse\n   4: prog");
        assert_eq!(users(&of_the_runtime), kept, "a panic of the runtime that the user caused");
    }
}
