//! The command that starts an agent on another host: the words for a remote shell. Knows nothing of the result.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use crate::nodelist::Host;

/// The hidden option that runs a launcher as an agent.
pub(crate) const AGENT: &str = "++agent";
/// Further options for ssh: never ask the user, and give up in time. The user's options come first, and ssh uses the first of two contradicting
/// options.
const SSH: [&str; 5] = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=8"];

/// Splits a command as a shell would: words, both kinds of quotes, backslashes. `None`: a quote is unterminated.
pub(crate) fn split(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '\\' if c == '"' => word.push(chars.next()?),
                        other => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Quotes a word for the shell on the other host, which splits the command.
fn quoted(word: &OsStr) -> OsString {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&b);
    if !word.is_empty() && word.as_bytes().iter().all(|b| plain(*b)) {
        return word.to_owned();
    }
    let mut quoted = b"'".to_vec();
    for b in word.as_bytes() {
        if *b == b'\'' { quoted.extend(b"'\\''") } else { quoted.push(*b) }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

/// The words of the command: `shell`, its options, the host, and the command there, `launcher` as an agent.
pub(crate) fn words(shell: &[String], host: &Host, launcher: &[OsString]) -> Vec<OsString> {
    let mut words: Vec<OsString> = shell.iter().map(OsString::from).collect();
    if shell.first().is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new("ssh"))) {
        words.extend(SSH.map(OsString::from));
    }
    if let Some(login) = &host.login {
        words.extend(["-l".into(), login.into()]);
    }
    words.push((&host.name).into());
    words.extend(launcher.iter().map(|word| quoted(word)));
    words.push(AGENT.into());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_taken_apart_as_a_shell_does_it() {
        let check = |command: &str, want: Option<&[&str]>| {
            let want = want.map(|words| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
            assert_eq!(split(command), want, "{command}");
        };
        check("ssh  -p 22", Some(&["ssh", "-p", "22"]));
        check(r#"a 'b "c' "d 'e\"" f\ g ''"#, Some(&["a", "b \"c", "d 'e\"", "f g", ""]));
        check("", Some(&[]));
        check("a 'b", None);
        check("a\\", None);
    }

    #[test]
    fn ssh_never_asks_and_other_shells_get_no_options() {
        let host =
            |login: Option<&str>| Host { name: "n1".into(), cpus: 1, shell: None, login: login.map(str::to_owned) };
        let check = |shell: &str, login, launcher: &[&str], want: &str| {
            let launcher: Vec<_> = launcher.iter().map(OsString::from).collect();
            let words = words(&split(shell).expect("words"), &host(login), &launcher);
            assert_eq!(words.join(OsStr::new("|")), want);
        };
        check(
            "/bin/ssh -p 7",
            Some("me"),
            &["/a b/charmrun"],
            "/bin/ssh|-p|7|-T|-o|BatchMode=yes|-o|ConnectTimeout=8|-l|me|n1|'/a b/charmrun'|++agent",
        );
        check("rsh", None, &["python3", "-m", "it's"], r"rsh|n1|python3|-m|'it'\''s'|++agent");
    }
}
