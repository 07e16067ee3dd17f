//! Splits a PEM file into its sections: all of them, or an error with the line and the remedy.
//!
//! PEM libraries treat a line that is not exactly `-----BEGIN CERTIFICATE-----` as text between sections, and skip the
//! section silently. Here each line that looks like the beginning or the end of a section must be one.

use futures_rustls::pki_types::pem::{PemObject, SectionKind};

/// A section between `-----BEGIN label-----` and `-----END label-----`.
#[derive(Debug, PartialEq)]
pub(super) struct Section<'a> {
    /// The label, such as `CERTIFICATE`.
    pub(super) label: String,
    /// The line of its `BEGIN`, from 1.
    pub(super) line: usize,
    /// The lines between, with their numbers; without the headers, once the section is complete.
    body: Vec<(usize, &'a [u8])>,
    /// The section has the headers of an encrypted key in OpenSSL's traditional format.
    pub(super) encrypted: bool,
}

/// Returns all sections of a file, or a text about what is wrong, in which line, and what to do.
///
/// `path` is for the commands in the text. `secret` is true if the file may hold a private key: then the commands make
/// no file that others can read.
pub(super) fn sections<'a>(text: &'a [u8], path: &str, secret: bool) -> Result<Vec<Section<'a>>, String> {
    let text = as_text(text, path, secret)?;
    let mut sections = Vec::new();
    let mut open: Option<Section<'a>> = None;
    for (n, line) in lines(text) {
        match (marker(line, open.is_some()), &mut open) {
            (Marker::None, None) => {}
            (Marker::None, Some(section)) => section.body.push((n, line)),
            (Marker::Begin(label), None) => {
                open = Some(Section { label, line: n, body: Vec::new(), encrypted: false });
            }
            (Marker::Begin(label), Some(section)) => {
                return Err(format!(
                    "`-----BEGIN {}-----` in line {} has no `END` before `-----BEGIN {label}-----` in line {n}: its \
                     end is missing; copy the file again, whole",
                    section.label, section.line
                ));
            }
            (Marker::End(label), Some(section)) if label == section.label => {
                sections.extend(open.take().map(Section::without_headers));
            }
            (Marker::End(label), Some(section)) => {
                return Err(format!(
                    "`-----END {label}-----` in line {n} does not end `-----BEGIN {}-----` in line {}; copy the file \
                     again, whole",
                    section.label, section.line
                ));
            }
            (Marker::End(label), None) => {
                return Err(format!(
                    "`-----END {label}-----` in line {n} has no `BEGIN` before it: the file's beginning is missing; \
                     copy it again, whole"
                ));
            }
            (Marker::Broken(why), _) => return Err(format!("line {n}: {}", why.explain(line, path, secret))),
        }
    }
    match open {
        None => Ok(sections),
        Some(Section { label, line, .. }) => Err(format!(
            "it is cut off: `-----BEGIN {label}-----` in line {line} has no `-----END {label}-----`; copy the file \
             again, whole"
        )),
    }
}

impl Section<'_> {
    /// Removes the headers, such as `Proc-Type: 4,ENCRYPTED`. An empty line ends them.
    fn without_headers(mut self) -> Self {
        let is_header = |line: &[u8]| line.contains(&b':');
        if self.body.first().is_some_and(|(_, line)| is_header(line)) {
            let end = self.body.iter().position(|(_, line)| line.trim_ascii().is_empty()).unwrap_or(self.body.len());
            self.encrypted = self.body.drain(..end).any(|(_, line)| contains(line, b"ENCRYPTED"));
        }
        self
    }

    /// Decodes the base64 of the section, which gives DER.
    pub(super) fn decode(&self) -> Result<Vec<u8>, String> {
        for &(n, line) in &self.body {
            let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/= \t".contains(byte);
            if let Some(byte) = line.iter().find(|byte| !is_base64(byte)) {
                let byte = byte.escape_ascii();
                return Err(format!("line {n}: `{byte}` is no character of base64; copy the file again, whole"));
            }
        }
        let lines: Vec<_> = self.body.iter().map(|(_, line)| *line).collect();
        let (begin, end) = (format!("-----BEGIN {}-----\n", self.label), format!("\n-----END {}-----\n", self.label));
        let text = [begin.as_bytes(), &lines.join(&b'\n'), end.as_bytes()].concat();
        match <(SectionKind, Vec<u8>)>::from_pem_slice(&text) {
            Ok((_, der)) => Ok(der),
            Err(_) => Err(format!(
                "the base64 between `-----BEGIN {0}-----` in line {1} and its `-----END {0}-----` is cut off; copy the \
                 file again, whole",
                self.label, self.line
            )),
        }
    }
}

/// Returns the file without a byte order mark; an error if it is UTF-16.
fn as_text<'a>(text: &'a [u8], path: &str, secret: bool) -> Result<&'a [u8], String> {
    let wide = [b"\xFF\xFE".as_slice(), b"\xFE\xFF", b"-\0-\0", b"\0-\0-"];
    if wide.iter().any(|start| text.starts_with(start)) {
        return Err(format!(
            "it is UTF-16, as some editors and `>` of PowerShell write it; PEM is ASCII: {}",
            rewritten(&format!("iconv -f UTF-16 -t ASCII {path}"), path, secret)
        ));
    }
    Ok(text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text))
}

/// Returns the lines with their numbers, from 1. A line ends with LF, CR LF or CR.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = text;
    let mut n = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.strip_prefix(b"\r\n").or_else(|| after.get(1..)).unwrap_or_default();
        n += 1;
        Some((n, line))
    })
}

/// Role of a line in a PEM file.
#[derive(Debug, PartialEq)]
enum Marker {
    /// Base64, a header, or text between sections.
    None,
    /// The beginning of a section with this label.
    Begin(String),
    /// The end of a section with this label.
    End(String),
    /// A damaged beginning or end.
    Broken(Broken),
}

/// Reason why a line that looks like the beginning or the end of a section is not one.
#[derive(Debug, PartialEq)]
enum Broken {
    /// There is white space before it.
    Indented,
    /// An end and a beginning are in one line.
    Glued,
    /// There is more text after it.
    Longer,
    /// Anything else, such as four dashes or small letters.
    Otherwise,
}

/// Classifies a line. `inside`: a section has begun, so `#` does not begin a comment.
fn marker(line: &[u8], inside: bool) -> Marker {
    let line = line.trim_ascii_end();
    if let Some(label) = label(line, b"-----BEGIN ") {
        return Marker::Begin(label);
    }
    if let Some(label) = label(line, b"-----END ") {
        return Marker::End(label);
    }
    let trimmed = line.trim_ascii_start();
    let is_comment = !inside && trimmed.starts_with(b"#");
    if is_comment || after_a_dash(line, b"BEGIN ").or(after_a_dash(line, b"END ")).is_none() {
        return Marker::None;
    }
    Marker::Broken(if line != trimmed && marker(trimmed, inside) != Marker::None {
        Broken::Indented
    } else if trimmed.starts_with(b"-----END ") && contains(trimmed, b"-----BEGIN ") {
        Broken::Glued
    } else if trimmed.starts_with(b"-----BEGIN ") || trimmed.starts_with(b"-----END ") {
        Broken::Longer
    } else {
        Broken::Otherwise
    })
}

/// Returns the label of a line such as `-----BEGIN label-----`.
fn label(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    let is_label = label.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b" #".contains(byte));
    is_label.then(|| String::from_utf8_lossy(label).into_owned())
}

/// Returns the position of `word` after a dash. Dashes that a word processor makes of `--` count as well.
fn after_a_dash(line: &[u8], word: &[u8]) -> Option<usize> {
    line.windows(word.len()).enumerate().position(|(at, window)| {
        let before = &line[..at];
        let dash = before.ends_with(b"-") || matches!(before, [.., 0xE2, 0x80, 0x90..=0x95]);
        window == word && dash
    })
}

/// Returns whether `part` is somewhere in `text`.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

impl Broken {
    /// Explains what is wrong with the line, and what to do.
    fn explain(&self, line: &[u8], path: &str, secret: bool) -> String {
        match self {
            Self::Indented => format!(
                "white space before `-----{}-----`: its section would be passed over; remove it: {}",
                shown(line),
                rewritten(&format!("sed 's/^[[:space:]]*//' {path}"), path, secret)
            ),
            Self::Glued => {
                "`-----END` of one section and `-----BEGIN` of the next are in one line; break it between them \
                 (`cat` does not, if a file lacks its last line break; `awk 1 cert.pem chain.pem` does)"
                    .to_owned()
            }
            Self::Longer if contains(line, b"\\n") => format!(
                "`\\n` is written out where lines should end: {} makes lines of it",
                rewritten(&format!("printf '%b' \"$(cat {path})\""), path, secret)
            ),
            Self::Longer => {
                format!("more text in the line of `-----{}-----`; break the line before and after it", shown(line))
            }
            Self::Otherwise => format!(
                "`{0}` must be a line of its own, in capitals, with five dashes on each side: `-----{0}-----`",
                shown(line)
            ),
        }
    }
}

/// Returns the part of a broken line that an error message may show: known words only, since the rest may be of a
/// private key.
fn shown(line: &[u8]) -> String {
    let (word, at) = match (after_a_dash(line, b"BEGIN "), after_a_dash(line, b"END ")) {
        (Some(begin), end) if end.is_none_or(|end| begin < end) => ("BEGIN ", begin),
        (_, Some(end)) => ("END ", end),
        _ => return "-----".to_owned(),
    };
    let label = &line[at + word.len()..];
    let label = &label[..label.iter().position(|&byte| byte == b'-' || !byte.is_ascii()).unwrap_or(label.len())];
    let known = ["CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];
    let label = known.into_iter().find(|known| known.as_bytes() == label).unwrap_or("…");
    format!("{word}{label}")
}

/// Returns a command that writes a corrected copy beside the file. The copy of a key must not be readable for others.
fn rewritten(command: &str, path: &str, secret: bool) -> String {
    format!("`{}{command} > {path}.new`", if secret { "umask 077; " } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_sections_or_an_error_in_plain_text() {
        const PARTS: [&[u8]; 17] = [
            b"-----BEGIN CERTIFICATE-----\nQUJDaaaa\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----",
            b"-----END CERTIFICATE-----",
            b"-----BEGIN PRIVATE KEY-----",
            b"-----BEGIN ",
            b"-----END ",
            b"-----",
            b"\xE2\x80\x94",
            b"\xEF\xBB\xBF",
            b"END CERTIFICATE",
            b"Proc-Type: 4,ENCRYPTED",
            b"\n",
            b"\r\n",
            b"\r",
            b" ",
            b"QUJDaaaa",
            b"\x1B[31m\xFF\0",
        ];
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % bound
        };
        let (mut read, mut refused) = (0, 0);
        for _ in 0..50_000 {
            let text: Vec<u8> = (0..next(12)).flat_map(|_| PARTS[next(PARTS.len())].iter().copied()).collect();
            let result = sections(&text, "path", false).and_then(|sections| {
                read += sections.len();
                sections.iter().try_for_each(|section| section.decode().map(drop))
            });
            if let Err(why) = result {
                refused += 1;
                assert!(!why.contains(char::is_control), "{why:?}");
                assert!(!why.contains("aaaa"), "the error shows no content: {why}");
            }
        }
        assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
    }
}
