//! [`HeadEnd`] and [`ChunkedEnd`]: where the head and the chunked body of a request of HTTP/1 end.

/// Finds the empty line that ends a head, in pieces: LF, then LF or CR LF.
///
/// It need not be exact. A head that is passed to hyper in two pieces is still one head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadEnd {
    /// The last byte was LF, or CR behind an LF.
    is_line_start: bool,
}

impl HeadEnd {
    /// Returns the index behind the empty line, if it is in these bytes.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut start = 0;
        loop {
            if self.is_line_start {
                match bytes[start..].first()? {
                    b'\n' => {
                        self.is_line_start = false;
                        return Some(start + 1);
                    }
                    b'\r' => start += 1,
                    _ => self.is_line_start = false,
                }
                continue;
            }
            start += bytes[start..].iter().position(|byte| *byte == b'\n')? + 1;
            self.is_line_start = true;
        }
    }
}

/// Finds the end of a chunked body (RFC 9112, 7.1), in pieces.
///
/// It need not be exact for a malformed body: hyper ends its connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum ChunkedEnd {
    /// In the line with the size of a chunk.
    Size { size: u64, is_complete: bool },
    /// In a chunk, the end of line behind it included.
    Data { left: u64 },
    /// Behind the last chunk.
    Trailers(HeadEnd),
}

impl Default for ChunkedEnd {
    fn default() -> Self {
        Self::Size { size: 0, is_complete: false }
    }
}

impl ChunkedEnd {
    /// Returns the index behind the body, if its end is in these bytes.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut start = 0;
        loop {
            match self {
                Self::Size { size, is_complete } => {
                    let byte = *bytes.get(start)?;
                    start += 1;
                    match char::from(byte).to_digit(16) {
                        _ if byte == b'\n' && *size == 0 => *self = Self::Trailers(HeadEnd { is_line_start: true }),
                        _ if byte == b'\n' => *self = Self::Data { left: size.saturating_add(2) },
                        Some(digit) if !*is_complete => *size = size.saturating_mul(16).saturating_add(digit.into()),
                        _ => *is_complete = true, // an extension
                    }
                }
                Self::Data { left } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - start);
                    start += n;
                    *left -= n as u64;
                    if *left > 0 {
                        return None;
                    }
                    *self = Self::default();
                }
                Self::Trailers(end) => {
                    let n = end.find(&bytes[start..])?;
                    *self = Self::default();
                    return Some(start + n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the heads that `bytes` are cut into, if they arrive in pieces of `len`.
    fn heads(bytes: &str, len: usize) -> Vec<String> {
        let (mut head_end, mut heads, mut head) = (HeadEnd::default(), Vec::new(), String::new());
        for mut piece in bytes.as_bytes().chunks(len) {
            while let Some(n) = head_end.find(piece) {
                head += std::str::from_utf8(&piece[..n]).unwrap();
                heads.push(std::mem::take(&mut head));
                piece = &piece[n..];
            }
            head += std::str::from_utf8(piece).unwrap();
        }
        heads.push(head);
        heads
    }

    #[test]
    fn heads_end_at_an_empty_line_whatever_the_pieces_are() {
        for len in 1..40 {
            assert_eq!(heads("A b\r\nc: d\r\n\r\nE f\r\n\r\nG", len), ["A b\r\nc: d\r\n\r\n", "E f\r\n\r\n", "G"]);
            assert_eq!(heads("A\nb\n\nC\n\r\n", len), ["A\nb\n\n", "C\n\r\n", ""], "bare line feeds");
            assert_eq!(heads("A\r\n\rb\n\n", len), ["A\r\n\rb\n\n", ""]);
            assert_eq!(heads("no end", len), ["no end"]);
        }
    }

    #[test]
    fn chunked_bodies_end_behind_their_trailers_whatever_the_pieces_are() {
        let body = b"A;x=\"5\"\r\n0\r\n\r\n01234\r\n3 \r\nabc\r\n00\r\n";
        for trailers in [&b"\r\n"[..], b"a: b\r\nc: d\r\n\r\n"] {
            let body = [body, trailers].concat();
            let bytes = [&body[..], &body, b"GET /"].concat();
            for len in 1..=bytes.len() {
                let (mut end, mut ends, mut at) = (ChunkedEnd::default(), Vec::new(), 0);
                for mut piece in bytes.chunks(len) {
                    while let Some(n) = end.find(piece) {
                        at += n;
                        ends.push(at);
                        piece = &piece[n..];
                    }
                    at += piece.len();
                }
                assert_eq!(ends, [body.len(), 2 * body.len()], "{len}");
            }
        }
    }
}
