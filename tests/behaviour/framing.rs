//! `Connection::lines` and `Connection::frames`: content, length limits, errors, and that no bytes are lost when one
//! reader follows another.

use crate::support::executor::alone_with_threads;
use crate::support::*;
use async_std::io::{self, ErrorKind, prelude::*};
use async_std::stream::{Stream, StreamExt};
use async_std::task;
use ebbtide::{Accept, Address, Connection, Listener, MemoryStream, Server};
use futures_concurrency::prelude::*;
use std::fmt::Debug;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread;

/// Serves one client that sends `pieces`, one after the other, and then closes. Returns what the handler returns.
async fn read<T, F>(pieces: Vec<Vec<u8>>, handler: impl Fn(Connection) -> F + Send + Sync + 'static) -> T
where
    T: Debug + Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (listener, connector) = Listener::memory();
    let (send, receive) = async_std::channel::bounded(1);
    let handler = move |conn: Connection| {
        let (made, send) = (handler(conn), send.clone());
        async move { send.send(made.await).await.unwrap() }
    };
    let body = async |_| {
        let mut client: MemoryStream = connector.connect().await?;
        for piece in pieces {
            if client.write_all(&piece).await.is_err() {
                break; // the handler has returned
            }
            task::yield_now().await;
        }
        let _ = client.close().await;
        Ok(receive.recv().await?)
    };
    Server::new(listener).scope(handler, body).await.unwrap().0
}

async fn all_lines(mut lines: ebbtide::Lines) -> Vec<Result<String, ErrorKind>> {
    let mut all = Vec::new();
    loop {
        match lines.next().await {
            Ok(None) => return all,
            Ok(Some(line)) => all.push(Ok(line)),
            Err(error) => {
                all.push(Err(error.kind()));
                if all.len() > 1000 {
                    return all; // the error is permanent
                }
            }
        }
    }
}

/// Returns the lines as `BufRead::lines` gives them: without LF or CR LF.
fn expected(text: &[u8]) -> Vec<Result<String, ErrorKind>> {
    let mut lines = Vec::new();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.push(String::from_utf8(line.to_vec()).map_err(|_| ErrorKind::InvalidData));
    }
    lines
}

#[test]
fn lines_are_split_as_by_the_standard_library_whatever_the_pieces_are() {
    test(async {
        let mut random = Random(7);
        for _ in 0..300 {
            let text: Vec<u8> = (0..random.below(200)).map(|_| b"ab\r\n\n\xc3\xa4 "[random.below(8)]).collect();
            let pieces = random.cut(&text);
            let lines = read(pieces, |conn| all_lines(conn.lines())).await;
            assert_eq!(lines, expected(&text), "{:?}", String::from_utf8_lossy(&text));
        }
    });
}

#[test]
fn a_line_ends_with_lf_or_cr_lf_and_the_last_line_needs_no_end() {
    test(async {
        let text = b"one\r\ntwo\n\n\r\nlast\r".to_vec();
        let lines = read(vec![text], |conn| all_lines(conn.lines())).await;
        let expected = ["one", "two", "", "", "last\r"].map(|line| Ok(line.to_owned()));
        assert_eq!(lines, expected);
    });
}

#[test]
fn a_line_that_is_not_utf8_is_an_error_and_the_next_line_is_read() {
    test(async {
        let lines = read(vec![b"one\nt\xffo\nthree\n".to_vec()], |conn| all_lines(conn.lines())).await;
        assert_eq!(lines, [Ok("one".to_owned()), Err(ErrorKind::InvalidData), Ok("three".to_owned())]);
    });
}

#[test]
fn a_line_that_is_longer_than_max_len_without_its_end_is_a_permanent_error() {
    test(async {
        for (text, ends_well) in [
            ("12345\n", true),
            ("12345\r\n", true),
            ("12345", true),
            ("123456\n", false),
            ("123456\r\n", false),
            ("123456", false),
            ("1234567890", false),
        ] {
            for whole in [true, false] {
                let pieces = match whole {
                    true => vec![text.as_bytes().to_vec()],
                    false => text.bytes().map(|byte| vec![byte]).collect(),
                };
                let lines = read(pieces, |conn| all_lines(conn.lines().max_len(5))).await;
                match ends_well {
                    true => assert_eq!(lines, [Ok("12345".to_owned())], "{text:?}"),
                    false => {
                        assert!(
                            lines.len() > 1000 && lines.iter().all(|line| *line == Err(ErrorKind::InvalidData)),
                            "{text:?}: {lines:?}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn a_max_len_of_usize_max_does_not_overflow() {
    test(async {
        let lines = read(vec![b"li".to_vec(), b"ne\n".to_vec()], |conn| all_lines(conn.lines().max_len(usize::MAX)));
        assert_eq!(lines.await, [Ok("line".to_owned())]);
        let error = read(vec![vec![0xff; 9]], async |conn| {
            conn.frames().length_bytes(8).max_len(usize::MAX).next().await.unwrap_err().kind()
        });
        assert_eq!(error.await, ErrorKind::InvalidData);
    });
}

/// Stream whose second successful read blocks its thread, with the bytes already taken, until a flag is set.
struct Slow {
    inner: MemoryStream,
    /// How many reads have found bytes.
    reads: usize,
    /// Set when the second read blocks.
    in_read: Arc<AtomicBool>,
    /// Ends the block.
    go_on: Arc<AtomicBool>,
}

impl io::Read for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        if matches!(poll, Poll::Ready(Ok(1..))) {
            self.reads += 1;
            if self.reads == 2 {
                self.in_read.store(true, Ordering::SeqCst);
                while !self.go_on.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            }
        }
        poll
    }
}

impl io::Write for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Listener with one client.
struct One(Option<Slow>);

impl Accept for One {
    type Io = Slow;

    async fn accept(&mut self) -> io::Result<(Slow, Address)> {
        match self.0.take() {
            Some(stream) => Ok((stream, Address::named("a client"))),
            None => std::future::pending().await,
        }
    }
}

/// A reader of lines has read `sec` ahead, and gives it back when it is dropped. At the same time `peer_closed`, in
/// another task, takes `ond` from the stream. The next reader has to get the bytes in their order.
#[test]
fn bytes_keep_their_order_although_a_task_waits_for_peer_closed() {
    alone_with_threads(2, || {
        test_alone(async {
            let (inner, mut client) = MemoryStream::pair();
            let (in_read, go_on) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
            let slow = Slow { inner, reads: 0, in_read: Arc::clone(&in_read), go_on: Arc::clone(&go_on) };
            let (send, receive) = async_std::channel::bounded(1);
            let handler = move |conn: Connection| {
                let (in_read, go_on, send) = (Arc::clone(&in_read), Arc::clone(&go_on), send.clone());
                async move {
                    let mut lines = conn.lines();
                    assert_eq!(lines.next().await?.as_deref(), Some("first")); // has read `sec` ahead
                    let waiter = conn.clone();
                    conn.spawn_background(async move { waiter.peer_closed().await });
                    until(|| in_read.load(Ordering::SeqCst)).await;
                    drop(lines); // gives `sec` back
                    go_on.store(true, Ordering::SeqCst);
                    send.send(conn.lines().next().await?).await.map_err(io::Error::other)
                }
            };
            let listener = Listener::custom(Address::named("slow"), One(Some(slow)));
            let body = async |_: ebbtide::Handle| {
                client.write_all(b"first\nsec").await?;
                task::sleep(std::time::Duration::from_millis(100)).await;
                client.write_all(b"ond\n").await?;
                Ok(receive.recv().await?)
            };
            let (line, _) = Server::new(listener).scope(handler, body).await.unwrap();
            assert_eq!(line.as_deref(), Some("second"));
        });
    });
}

#[test]
fn half_a_line_or_frame_is_not_returned_when_the_handler_ends_before_the_client() {
    test(async {
        let (send, receive) = async_std::channel::bounded(2);
        let (listener, connector) = Listener::memory();
        let handler = move |conn: Connection| {
            let send = send.clone();
            async move {
                let reader = conn.clone();
                conn.spawn(async move {
                    let line = reader.lines().next().await;
                    let frame = reader.frames().next().await.map(|frame| frame.map(|_| String::new()));
                    send.send((line, frame)).await.unwrap();
                });
                task::sleep(std::time::Duration::from_millis(50)).await; // until the task has read half a line
            }
        };
        let body = async |_: ebbtide::Handle| {
            let mut client = connector.connect().await?;
            client.write_all(b"DELETE FROM users WHERE").await?;
            Ok((receive.recv().await?, client))
        };
        let (((line, frame), _client), _) = Server::new(listener).scope(handler, body).await.unwrap();
        assert_eq!((line.unwrap(), frame.unwrap()), (None, None), "the client has not closed");
    });
}

#[test]
fn a_line_that_never_ends_is_an_error_at_max_len() {
    test(async {
        let pieces = vec![vec![b'x'; 1000]; 1000];
        let error = read(pieces, async |conn| conn.lines().next().await.unwrap_err().to_string()).await;
        assert_eq!(error, "a line is longer than 65536 bytes; if that is right, raise `max_len`");
    });
}

#[test]
fn with_require_newline_a_line_that_eof_has_cut_off_is_a_permanent_error() {
    test(async {
        for (text, whole, rest) in [
            ("", &[][..], ""),
            ("one\n", &["one"], ""),
            ("one\r\n\n", &["one", ""], ""),
            ("one\ndelete fo", &["one"], "delete fo"),
            ("\r", &[], "\r"),
            ("123456789\r", &[], "123456789\r"), // the carriage return may be half of `\r\n`, so it is not too long
        ] {
            let pieces = text.bytes().map(|byte| vec![byte]).collect();
            let (lines, left) = read(pieces, move |mut conn: Connection| async move {
                let mut lines = conn.lines().max_len(9).require_newline();
                let mut all = Vec::new();
                let error = loop {
                    match lines.next().await {
                        Ok(Some(line)) => all.push(line),
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                };
                let bytes = if rest.len() == 1 { "byte" } else { "bytes" };
                let what = format!("unexpected EOF in the middle of a line, after {} {bytes}", rest.len());
                if let Some(error) = &error {
                    assert_eq!((error.kind(), error.to_string()), (ErrorKind::UnexpectedEof, what));
                    assert_eq!(lines.next().await.unwrap_err().kind(), ErrorKind::UnexpectedEof, "it is permanent");
                }
                assert_eq!(error.is_some(), !rest.is_empty(), "{text:?}");
                drop(lines); // gives back what it has not returned
                let mut left = String::new();
                conn.read_to_string(&mut left).await.unwrap();
                (all, left)
            })
            .await;
            assert_eq!(lines, whole, "{text:?}");
            assert_eq!(left, rest, "{text:?}");
        }
    });
}

/// The client has sent a line and half of the next one when the drain begins, and then sends `rest` and EOF. Returns
/// what the reader returns after the first line, and the report.
async fn in_a_drain(requires_newline: bool, rest: &str) -> (Vec<Result<String, ErrorKind>>, ebbtide::Report) {
    let (listener, connector) = Listener::memory();
    let (send, receive) = async_std::channel::bounded(1);
    let handler = move |conn: Connection| {
        let send = send.clone();
        async move {
            let mut lines = conn.lines();
            if requires_newline {
                lines = lines.require_newline();
            }
            assert_eq!(lines.next().await?.as_deref(), Some("one"));
            conn.server().shutdown();
            conn.draining().await;
            let mut all = Vec::new();
            let end = loop {
                match lines.next().await {
                    Ok(Some(line)) => all.push(Ok(line)),
                    Ok(None) => break Ok(()),
                    Err(error) => {
                        all.push(Err(error.kind()));
                        break Err(error);
                    }
                }
            };
            send.send(all).await.unwrap();
            end
        }
    };
    let body = async |server: ebbtide::Handle| {
        let mut client = connector.connect().await?;
        client.write_all(b"one\ntw").await?;
        server.until_draining(std::future::pending::<()>()).await;
        client.write_all(rest.as_bytes()).await?;
        client.close().await?;
        Ok(receive.recv().await?)
    };
    Server::new(listener).scope(handler, body).await.unwrap()
}

#[test]
fn in_a_drain_too_require_newline_waits_for_the_rest_of_a_line_and_reports_eof_in_it() {
    test(async {
        let two = || Ok("two".to_owned());
        let (lines, report) = in_a_drain(true, "o\n").await;
        assert_eq!((lines, report.completed()), (vec![two()], 1), "{report}");
        let (lines, report) = in_a_drain(true, "o").await;
        assert_eq!((lines, report.disconnected()), (vec![Err(ErrorKind::UnexpectedEof)], 1), "{report}");
        let (lines, report) = in_a_drain(false, "o").await;
        assert_eq!((lines, report.completed()), (vec![two()], 1), "{report}");
    });
}

/// Serves a client that has sent some lines and half of one when the drain begins. Returns what the client reads: the
/// number of lines and a goodbye, from a handler that reads its lines within `until_draining` or by themselves.
async fn half_a_line_in_a_drain(until_draining: bool) -> (String, ebbtide::Report) {
    let (listener, connector) = Listener::memory();
    let handler = move |mut conn: Connection| async move {
        let mut lines = conn.lines().require_newline();
        let mut count = 0;
        while !conn.is_draining() {
            task::yield_now().await;
        }
        loop {
            let next = match until_draining {
                true => conn.until_draining(lines.next()).await.transpose()?.flatten(),
                false => lines.next().await?,
            };
            match next {
                Some(_) => count += 1,
                None => break,
            }
        }
        conn.write_all(format!("{count} lines, goodbye").as_bytes()).await
    };
    let mut client = connector.connect().await.unwrap();
    // More lines than are returned without a yield.
    client.write_all(("line\n".repeat(1000) + "half a li").as_bytes()).await.unwrap();
    let server = Server::new(listener).grace(std::time::Duration::from_millis(300));
    let server = server.newcomer_time(std::time::Duration::ZERO);
    let (_, report) = server.scope(handler, async |_| ()).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    (text, report)
}

#[test]
fn half_a_line_holds_a_drain_until_its_deadline_and_within_until_draining_it_alone_is_dropped() {
    test(async {
        let (text, report) = half_a_line_in_a_drain(false).await;
        assert_eq!((text.as_str(), report.cancelled()), ("", 1), "{report}");
        let (text, report) = half_a_line_in_a_drain(true).await;
        assert_eq!((text.as_str(), report.completed()), ("1000 lines, goodbye", 1), "{report}");
    });
}

#[test]
fn a_dropped_call_of_next_does_not_lose_the_part_that_it_has_read() {
    test(async {
        let pieces = |text: &[u8]| text.iter().map(|&byte| vec![byte]).collect::<Vec<_>>();
        let line = read(pieces(b"a whole line\n"), async |conn| {
            let mut lines = conn.lines();
            loop {
                if let Some(line) = once(lines.next()).await {
                    return line;
                }
            }
        });
        assert_eq!(line.await.unwrap().as_deref(), Some("a whole line"));
        let frame = read(pieces(b"\0\0\0\x0da whole frame"), async |conn| {
            let mut frames = conn.frames();
            loop {
                if let Some(frame) = once(frames.next()).await {
                    return frame;
                }
            }
        });
        assert_eq!(frame.await.unwrap().as_deref(), Some(b"a whole frame".as_slice()));
    });
}

/// Polls a future once, and drops it if it is pending.
async fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let poll = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    task::yield_now().await;
    match poll {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn bytes_that_a_dropped_reader_has_read_ahead_are_read_next() {
    test(async {
        let text = b"line\r\n\0\0\0\x02hirest of it".to_vec();
        for piece in [1, 3, text.len()] {
            let pieces = text.chunks(piece).map(<[u8]>::to_vec).collect();
            let got = read(pieces, async |mut conn| {
                let line = conn.lines().next().await?;
                let frame = conn.frames().next().await?;
                let mut rest = String::new();
                conn.read_to_string(&mut rest).await?;
                io::Result::Ok((line.unwrap(), frame.unwrap(), rest))
            });
            assert_eq!(got.await.unwrap(), ("line".to_owned(), b"hi".to_vec(), "rest of it".to_owned()));
        }
    });
}

#[test]
fn a_second_reader_at_the_same_time_is_an_error_and_loses_no_bytes() {
    test(async {
        let got = read(vec![b"one\ntwo\n".to_vec()], async |conn| {
            let mut first = conn.lines();
            let one = first.next().await?;
            let (mut second, mut third) = (conn.lines(), conn.frames());
            let errors = [second.next().await.unwrap_err(), third.next().await.unwrap_err()];
            assert_eq!(errors.map(|error| error.kind()), [ErrorKind::ResourceBusy; 2]);
            drop((second, third)); // the first reader still has the connection
            assert_eq!(conn.lines().next().await.unwrap_err().kind(), ErrorKind::ResourceBusy);
            drop(first);
            io::Result::Ok([one.unwrap(), conn.lines().next().await?.unwrap()])
        });
        assert_eq!(got.await.unwrap(), ["one", "two"]);
    });
}

async fn all<T>(mut stream: impl Stream<Item = io::Result<T>> + Unpin) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(item) = stream.next().await {
        all.push(item?);
    }
    Ok(all)
}

#[test]
fn lines_and_frames_implement_stream() {
    test(async {
        let lines = read(vec![b"one\ntwo\n".to_vec()], |conn| all(conn.lines()));
        assert_eq!(lines.await.unwrap(), ["one", "two"]);
        let frames = read(vec![b"\x01a\x02bc\0".to_vec()], |conn| all(conn.frames().length_bytes(1)));
        assert_eq!(frames.await.unwrap(), [b"a".to_vec(), b"bc".to_vec(), Vec::new()]);
    });
}

#[test]
fn frames_are_read_as_they_were_written_whatever_the_pieces_are() {
    test(async {
        let mut random = Random(11);
        for round in 0..100 {
            let length_bytes = 2 + round % 7;
            let longest = if round % 10 == 0 { 60_000 } else { 300 };
            let frames: Vec<Vec<u8>> =
                (0..random.below(6)).map(|n| vec![u8::try_from(n).unwrap(); random.below(longest)]).collect();
            let handler = move |conn: Connection| async move {
                let mut frames = conn.frames().length_bytes(length_bytes);
                while let Some(frame) = frames.next().await? {
                    frames.write(&frame).await?;
                }
                io::Result::Ok(())
            };
            let mut text = Vec::new();
            for frame in &frames {
                text.extend_from_slice(&(frame.len() as u64).to_be_bytes()[8 - length_bytes..]);
                text.extend_from_slice(frame);
            }
            let pieces = random.cut(&text);
            let body = async |server: ebbtide::Handle| {
                let mut client = connect(server.local_addr());
                Ok(task::spawn_blocking(move || {
                    let mut writer = client.try_clone().unwrap();
                    let writing = thread::spawn(move || {
                        pieces.iter().for_each(|piece| writer.write_all(piece).unwrap());
                        writer.shutdown(std::net::Shutdown::Write).unwrap();
                    });
                    let mut answer = Vec::new();
                    client.read_to_end(&mut answer).unwrap();
                    writing.join().unwrap();
                    answer
                })
                .await)
            };
            let (answer, _) = bind().await.scope(handler, body).await.unwrap();
            assert!(answer == text, "{round}: {} of {} bytes", answer.len(), text.len());
        }
    });
}

#[test]
fn a_frame_that_is_cut_off_or_announces_too_great_a_length_is_a_permanent_error() {
    test(async {
        let error = |text: &'static [u8]| async move {
            let error = read(vec![text.to_vec()], async |conn| {
                let mut frames = conn.frames();
                let error = frames.next().await.unwrap_err();
                let again = frames.next().await.unwrap_err();
                assert_eq!(error.kind(), again.kind(), "the error is permanent");
                error
            });
            let error = error.await;
            (error.kind(), error.to_string())
        };
        let (kind, what) = error(b"\0\0\0\x05abc").await;
        assert_eq!(kind, ErrorKind::UnexpectedEof);
        assert_eq!(what, "unexpected EOF in the middle of a frame, after 7 of 9 bytes");
        let (kind, what) = error(b"\0\0").await;
        assert_eq!(
            (kind, what.as_str()),
            (ErrorKind::UnexpectedEof, "unexpected EOF in the middle of a frame, after 2 bytes")
        );
        let (kind, what) = error(b"\xff\xff\xff\xffabc").await;
        assert_eq!(kind, ErrorKind::InvalidData);
        assert_eq!(what, "a frame of 4294967295 bytes is longer than 8388608; if that is right, raise `max_len`");
    });
}

#[test]
fn a_frame_that_is_longer_than_max_len_or_than_its_length_field_allows_is_not_written() {
    test(async {
        let written = read(Vec::new(), async |conn| {
            let mut small = conn.frames().max_len(3);
            let mut results = vec![small.write(b"abcd").await.unwrap_err()];
            drop(small);
            let mut short = conn.frames().length_bytes(1);
            results.push(short.write(&[0; 256]).await.unwrap_err());
            short.write(&[0; 255]).await?;
            io::Result::Ok(results.iter().map(io::Error::to_string).collect::<Vec<_>>())
        });
        assert_eq!(
            written.await.unwrap(),
            [
                "a frame of 4 bytes does not fit: `max_len` is 3, its length has 4 bytes",
                "a frame of 256 bytes does not fit: `max_len` is 8388608, its length has 1 byte",
            ]
        );
    });
}

#[test]
fn a_length_field_of_nine_bytes_panics() {
    test(async {
        let mistake = read(Vec::new(), async |conn| {
            let mistake = catch_unwind(AssertUnwindSafe(|| drop(conn.frames().length_bytes(9))));
            mistake.unwrap_err().downcast::<String>().unwrap()
        });
        assert_eq!(*mistake.await, "a length has 1 to 8 bytes, not 9");
    });
}

/// Pseudo-random numbers, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }

    /// Cuts a text into pieces of random lengths.
    fn cut(&mut self, text: &[u8]) -> Vec<Vec<u8>> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(1 + self.below(rest.len()));
            pieces.push(piece.to_vec());
            rest = more;
        }
        pieces
    }
}

#[test]
fn frames_of_all_lengths_go_both_ways() {
    // Up to 64 KiB a frame is written together with its length, a longer one after it.
    const LENGTHS: [usize; 5] = [0, 1, 64 * 1024, 64 * 1024 + 1, 1 << 20];
    fn frame(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
    }
    test(async {
        let (listener, connector) = Listener::memory();
        let handler = async |conn: Connection| {
            let mut frames = conn.frames().max_len(1 << 20);
            while let Some(frame) = frames.next().await? {
                frames.write(&frame).await?;
            }
            std::io::Result::Ok(())
        };
        let body = async |_| {
            let mut client = connector.connect().await?;
            for length in LENGTHS {
                let sent = [&(length as u32).to_be_bytes()[..], &frame(length)].concat();
                let mut got = vec![0; sent.len()];
                let (mut reader, mut writer) = futures_lite::io::split(&mut client);
                let read = async { reader.read_exact(&mut got).await };
                let (written, read) = (writer.write_all(&sent), read).join().await;
                written?;
                read?;
                assert!(got == sent, "a frame of {length} bytes has come back with other bytes");
            }
            client.close().await
        };
        let body = async |handle| Ok(body(handle).await?);
        let ((), report) = Server::new(listener).scope(handler, body).await.unwrap();
        assert_eq!(report.completed(), 1, "{report}");
    });
}
