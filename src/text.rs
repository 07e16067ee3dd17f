//! Text for people: errors that read as a sentence ([`explained`]), and untrusted text that cannot forge a log line
//! ([`Escaped`]).
//!
//! A peer chooses the path of its Unix socket, the bytes of its PROXY header, and often the text of a handler's error
//! or panic. [`Escaped`] shows such text without line breaks, terminal escapes and invisible characters. Every log line
//! goes through it (`log_line!`), and so does the text of every `io::Error` that this crate makes.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;

/// Makes an `io::Error` with a text. The text has what was attempted, with which value, why it failed, and what to do.
pub(crate) fn explained(kind: io::ErrorKind, text: impl fmt::Display) -> io::Error {
    io::Error::new(kind, Explained { text: Escaped(text).to_string(), source: None })
}

/// Makes an `io::Error` with a text and the kind of its `source`. The text includes that of `source`.
pub(crate) fn explained_by(source: io::Error, text: impl fmt::Display) -> io::Error {
    let text = Escaped(text).to_string();
    io::Error::new(source.kind(), Explained { text, source: Some(source) })
}

/// The inner error of this crate's `io::Error`s.
///
/// Its `Debug` is its plain text. `main` prints an `io::Error` as `Custom { kind: …, error: … }`, which no crate can
/// change, with the `Debug` of the inner error. So that is where a person reads the sentence.
struct Explained {
    text: String,
    source: Option<io::Error>,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Explained {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Returns a number with its noun: `1 connection`, `2 connections`.
pub(crate) fn plural<N: Copy + fmt::Display + PartialEq + From<u8>>(number: N, one: &str) -> String {
    format!("{number} {one}{}", if number == N::from(1) { "" } else { "s" })
}

/// Shows a value, with every character escaped that could forge a log line or change a terminal: as `\n` or `\u{1b}`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Escapes what is written to it.
struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Returns the text as [`Escaped`] shows it; borrowed if there is nothing to escape.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_unsafe) { Escaped(text).to_string().into() } else { text.into() }
}

/// Returns whether a character is invisible, or changes more than its own place in the text.
fn is_unsafe(c: char) -> bool {
    match c {
        ' '..='~' => false,
        // Line and paragraph separators; marks that change the direction of the text after them.
        '\u{2028}'
        | '\u{2029}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => true,
        // Characters of width zero, and tags. Joiners are not escaped: some scripts need them.
        '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => true,
        '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_characters_that_could_forge_a_line_or_change_a_terminal_are_escaped() {
        let table = [
            ("a\n[ERROR] forged", r"a\n[ERROR] forged"),
            ("\r\u{1b}[2J\u{1b}]0;title\u{7}", r"\r\u{1b}[2J\u{1b}]0;title\u{7}"),
            ("\u{9b}31m\u{7f}\0\t", r"\u{9b}31m\u{7f}\u{0}\t"),
            ("\u{85}\u{2028}\u{2029}", r"\u{85}\u{2028}\u{2029}"),
            ("\u{202e}gpj.exe \u{2066}x\u{2069}\u{200f}", r"\u{202e}gpj.exe \u{2066}x\u{2069}\u{200f}"),
            ("zero\u{200b}width\u{feff}", r"zero\u{200b}width\u{feff}"),
            ("tag\u{e0041}\u{e007f} end", r"tag\u{e0041}\u{e007f} end"),
            ("Grüße, 世界 🎉 नमस्ते שלום e\u{301}", "Grüße, 世界 🎉 नमस्ते שלום e\u{301}"),
            (r#"C:\folder "quoted" 'x'"#, r#"C:\folder "quoted" 'x'"#),
            ("", ""),
        ];
        for (text, shown) in table {
            assert_eq!(Escaped(text).to_string(), shown);
            assert_eq!(escape(text), shown);
            assert_eq!(Escaped(format_args!("{text}{text}")).to_string(), format!("{shown}{shown}"));
            assert_eq!(explained(io::ErrorKind::Other, text).to_string(), shown);
        }
    }

    #[test]
    fn an_explained_error_reads_the_same_in_display_debug_and_what_main_prints() {
        let cause = io::Error::from(io::ErrorKind::AddrInUse);
        let error = explained_by(cause, "cannot listen on `\"x\"`: it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(error.to_string(), "cannot listen on `\"x\"`: it is taken");
        assert_eq!(format!("{error:?}"), "Custom { kind: AddrInUse, error: cannot listen on `\"x\"`: it is taken }");
        let inside = error.get_ref().unwrap();
        assert_eq!(format!("{inside:?}"), inside.to_string());
        assert!(inside.source().unwrap().is::<io::Error>());
    }
}
