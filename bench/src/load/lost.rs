//! Busy connections of HTTP, while their server shuts down: counts the requests that get no answer.

use super::http::{BUFFER, Conn};
use super::poll::Poll;
use super::{NET, in_time};
use crate::http::{Answer, Version};
use rustix::event::epoll::EventFlags;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

/// What became of all requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    /// Requests with a whole answer.
    pub(crate) answered: usize,
    /// Requests that were sent as a whole, before the server had announced the end of their connection, and that got no
    /// whole answer.
    pub(crate) lost: usize,
    /// Connections whose end was announced, by `Connection: close` or GOAWAY.
    pub(crate) announced: usize,
    /// Connections on which a request could not be sent any more, although no end was announced.
    pub(crate) unsent: usize,
}

/// Sends requests over `connections` connections until the server has ended all of them: on each connection `streams`
/// at a time, and none after the server has announced its end. No connection is opened again. Calls `busy` when each
/// connection has had an answer.
pub(crate) fn run(
    address: SocketAddr,
    version: Version,
    answer: Answer,
    connections: usize,
    streams: usize,
    busy: impl FnOnce(),
) -> io::Result<Tally> {
    let (mut poll, mut tally) = (Poll::new()?, Tally::default());
    let mut conns = Vec::with_capacity(connections);
    for index in 0..connections {
        let mut conn = Conn::open(address, version, answer, false)?;
        conn.may_end = true;
        (0..streams).for_each(|_| conn.request(Instant::now()));
        conn.send()?;
        poll.add(&conn.stream, index, EventFlags::IN | EventFlags::ET)?;
        conns.push(Some(conn));
    }
    let (mut busy, mut silent) = (Some(busy), vec![true; connections]);
    let (mut buf, mut answered, mut open) = (vec![0; BUFFER], Vec::new(), connections);
    let net = Instant::now() + NET;
    while open > 0 {
        poll.wait(net)?;
        in_time(net)?;
        if let Some(busy) = busy.take_if(|_| !silent.contains(&true)) {
            busy();
        }
        for (index, _) in poll.events() {
            let Some(conn) = &mut conns[index] else { continue };
            // A reset is an end as any other here; an answer that is not as it should be is an error.
            let mut stands = match conn.receive(&mut buf, &mut answered) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                result => result.unwrap_or(false),
            };
            tally.answered += answered.len();
            silent[index] &= answered.is_empty();
            let lost = conn.under_way(); // before further requests, of which the server can know nothing
            let more = if conn.is_ending() { 0 } else { answered.len() };
            answered.clear();
            if stands {
                (0..more).for_each(|_| conn.request(Instant::now()));
                if conn.send().is_err() {
                    (stands, tally.unsent) = (false, tally.unsent + 1);
                }
            }
            if !stands {
                tally.lost += lost;
                tally.announced += usize::from(conn.is_ending());
                conns[index] = None;
                open -= 1;
            }
        }
    }
    Ok(tally)
}
