//! Lines and frames of any bytes, in any pieces: a reference that has all bytes at once must return the same.

use super::pieces::{Pieces, SCRATCH, Traffic, serve};
use ebbtide::{Connection, Frames, Lines};
use futures_lite::{AsyncReadExt, future};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

/// The settings, which are the first bytes of an input.
pub const SETTINGS: usize = 6;

/// The most bytes that are sent: several times as many as one read ahead.
const MOST: usize = 100_000;
/// The most bytes that are sent in pieces, for each byte of the longest piece.
const MOST_PIECES: usize = 300;

/// How the bytes are sent and read.
#[derive(Clone, Copy, Debug)]
struct Plan {
    max_len: usize,
    length_bytes: usize,
    requires_newline: bool,
    /// Some calls of `next` are dropped after one poll.
    drops: bool,
    /// The server is asked to shut down before the first read.
    drains: bool,
    /// The readers, and how many messages each one reads. The last one reads to the end.
    readers: [(Reader, usize); 3],
    /// How often the bytes are sent.
    times: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    Lines,
    Frames,
}

impl Plan {
    fn new(settings: &[u8; SETTINGS]) -> Self {
        let [limit, flags, counts, _, _, more] = settings.map(usize::from);
        let max_len = [0, 1, 5, 16, 70, 1000, 20_000, 70_000, usize::MAX][limit % 9];
        let kind = |bit: usize| if flags >> bit & 1 == 0 { Reader::Lines } else { Reader::Frames };
        Self {
            max_len,
            length_bytes: [4, 1, 2, 8, 3, 5, 6, 7][limit / 9 % 8],
            requires_newline: flags & 8 != 0,
            drops: flags & 16 != 0,
            drains: more & 1 != 0,
            readers: [(kind(0), counts % 16), (kind(1), counts / 16), (kind(2), usize::MAX)],
            times: [1, 1, 1, 1, 1, 20, 300, 3000][flags >> 5],
        }
    }
}

/// Result of one `next`.
#[derive(Debug, PartialEq)]
enum Item {
    Message(Vec<u8>),
    End,
    NotUtf8,
    TooLong,
    Cut,
}

impl Item {
    fn of(result: io::Result<Option<Vec<u8>>>) -> Self {
        match result {
            Ok(Some(message)) => Self::Message(message),
            Ok(None) => Self::End,
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains(char::is_control) && text.len() < 200, "{text:?}");
                match error.kind() {
                    ErrorKind::InvalidData if text.contains("is not UTF-8") => Self::NotUtf8,
                    ErrorKind::InvalidData if text.contains("is longer than") => Self::TooLong,
                    ErrorKind::UnexpectedEof => Self::Cut,
                    _ => panic!("unexpected error: {error:?}"),
                }
            }
        }
    }

    /// The reader returns nothing else any more.
    fn is_last(&self) -> bool {
        matches!(self, Self::End | Self::TooLong | Self::Cut)
    }
}

/// Takes the next line out of all bytes that are left.
fn line(rest: &mut &[u8], plan: &Plan) -> Item {
    let (line, after) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => (rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]), &rest[end + 1..]),
        None if rest.is_empty() => return Item::End,
        // Without its newline, the byte above the limit may be the first of CR LF.
        None if plan.requires_newline && rest.len() - 1 <= plan.max_len => return Item::Cut,
        None => (*rest, &[][..]),
    };
    if line.len() > plan.max_len {
        return Item::TooLong;
    }
    *rest = after;
    if std::str::from_utf8(line).is_ok() { Item::Message(line.to_vec()) } else { Item::NotUtf8 }
}

/// Takes the next frame out of all bytes that are left.
fn frame(rest: &mut &[u8], plan: &Plan) -> Item {
    let Some((length, after)) = rest.split_at_checked(plan.length_bytes) else {
        return if rest.is_empty() { Item::End } else { Item::Cut };
    };
    let mut number = [0; 16];
    number[16 - length.len()..].copy_from_slice(length);
    let length = u128::from_be_bytes(number);
    if length > plan.max_len.min(usize::MAX - plan.length_bytes) as u128 {
        return Item::TooLong;
    }
    match after.split_at_checked(length as usize) {
        Some((frame, after)) => {
            *rest = after;
            Item::Message(frame.to_vec())
        }
        None => Item::Cut,
    }
}

/// A reader of either kind.
struct Messages {
    lines: Option<Lines>,
    frames: Option<Frames>,
    unread: Option<Item>,
}

impl Messages {
    fn new(connection: &Connection, reader: Reader, plan: &Plan) -> Self {
        let (mut lines, mut frames) = (None, None);
        match reader {
            Reader::Lines if plan.requires_newline => {
                lines = Some(connection.lines().max_len(plan.max_len).require_newline());
            }
            Reader::Lines => lines = Some(connection.lines().max_len(plan.max_len)),
            Reader::Frames => {
                frames = Some(connection.frames().max_len(plan.max_len).length_bytes(plan.length_bytes));
            }
        }
        Self { lines, frames, unread: None }
    }

    async fn next(&mut self) -> Item {
        match (self.unread.take(), &mut self.lines, &mut self.frames) {
            (Some(item), ..) => item,
            (_, Some(lines), _) => Item::of(lines.next().await.map(|line| line.map(String::into_bytes))),
            (_, _, Some(frames)) => Item::of(frames.next().await),
            _ => unreachable!("there is a reader"),
        }
    }
}

/// Reads the connection as planned. Returns the last item.
async fn read(connection: &Connection, plan: &Plan, sent: &[u8], traffic: &Traffic) -> Item {
    let mut rest = sent;
    let mut last = Item::End;
    if plan.drains {
        drop(connection.server().shutdown());
        connection.draining().await;
    }
    'readers: for (reader, count) in plan.readers {
        let mut messages = Messages::new(connection, reader, plan);
        for n in 0..count {
            let begin = sent.len() - rest.len();
            if plan.drops && n % 2 == 0 {
                // Dropped after one poll, unless that returns an item. Nothing may be lost.
                if let Some(item) = future::poll_once(messages.next()).await {
                    messages.unread = Some(item);
                }
            }
            let found = messages.next().await;
            let mut after = rest;
            let expected = match reader {
                Reader::Lines => line(&mut after, plan),
                Reader::Frames => frame(&mut after, plan),
            };
            if plan.drains && found == Item::End && expected != Item::End {
                assert_eq!(traffic.read(), begin, "a drain ends only between two messages, {plan:?}");
                break 'readers;
            }
            rest = after;
            assert_eq!(found, expected, "{reader:?}, message {n}, at byte {begin}, {plan:?}");
            // Never more than a message of the permitted length, its ends and one read ahead.
            let ahead = traffic.read() - begin;
            assert!(ahead <= plan.max_len.saturating_add(16 + SCRATCH), "{ahead} bytes ahead, {plan:?}");
            if found.is_last() {
                assert_eq!(messages.next().await, found, "it is returned again");
                last = found;
                break 'readers;
            }
        }
    }
    assert!(!traffic.was_asked_too_much(), "more memory than the bytes that have arrived justify, {plan:?}");
    let mut unread = Vec::new();
    let mut connection = connection;
    connection.read_to_end(&mut unread).await.unwrap();
    assert!(unread == rest, "{} bytes are left, and {} are read", rest.len(), unread.len());
    last
}

/// Checks an input: the settings, and then the bytes that the client sends.
pub fn check(bytes: &[u8]) -> &'static str {
    let Some((settings, sent)) = bytes.split_first_chunk::<SETTINGS>() else { return "too short" };
    let plan = Plan::new(settings);
    let mut sent = sent.repeat(plan.times);
    sent.truncate(if settings[3] == 0 { MOST } else { usize::from(settings[3]) * MOST_PIECES });
    let pieces = Pieces::new(&sent, settings[3], settings[4]);
    let traffic = pieces.traffic();
    let last = Arc::new(Mutex::new(None));
    let (sent, shared): (Arc<[u8]>, _) = (sent.into(), Arc::clone(&last));
    let handler = move |connection: Connection| {
        let (sent, traffic, last) = (Arc::clone(&sent), traffic.clone(), Arc::clone(&shared));
        async move {
            let item = read(&connection, &plan, &sent, &traffic).await;
            *last.lock().unwrap() = Some(item);
        }
    };
    let report = serve(pieces, |listener| listener, handler);
    assert_eq!(report.completed(), 1, "{report}");
    match last.lock().unwrap().take().expect("the handler has returned") {
        Item::TooLong => "too long",
        Item::Cut => "cut",
        _ => "read to the end",
    }
}
