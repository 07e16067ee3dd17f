//! [`end_vanished`]: ends the connections of peers that have vanished while data was on its way to them
//! ([`ack_timeout`](crate::Server::ack_timeout)).
//!
//! Keep-alive does not work then, and the kernel gives up only after about 15 minutes. The kernel knows when the last
//! acknowledgement arrived, but has no event for one that is overdue. So all connections are checked from time to time,
//! and those with unacknowledged data are remembered. A peer has vanished if its connection had such data for the whole
//! limit, and nothing arrived from it in that time. A live peer whose receive window is closed acknowledges the
//! kernel's probes, which are at most 2 minutes apart (measured: 120.8 s).

use crate::run::Run;
use crate::run::record::{AbortReason, ConnectionRecord};
use crate::run::registry::ConnectionId;
use crate::run::state::ConnectionState;
use crate::runtime::yield_now;
use async_io::Timer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest time between two checks.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The shortest time between two checks, however short the limit is.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// How many connections are checked before the task yields: each takes a system call.
const AT_ONCE: usize = 64;

/// Since when each connection has had unacknowledged data while nothing arrived from its peer.
type Silent = HashMap<ConnectionId, Instant>;

/// Checks all connections again and again, and ends those whose peers have vanished. Never ends.
pub(super) async fn end_vanished(run: Arc<Run>, limit: Duration) {
    let pause = (limit / 5).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut silent = Silent::new();
    loop {
        Timer::after(pause).await;
        let mut still_silent = Silent::new();
        // Each record is dropped right after its check: otherwise a connection that ends meanwhile would keep its
        // descriptor.
        for (number, record) in run.registry.all().into_iter().enumerate() {
            if let Some(since) = silent_since(&record, &silent) {
                if since.elapsed() >= limit {
                    record.abort(AbortReason::Vanished);
                } else {
                    still_silent.insert(record.id, since);
                }
            }
            drop(record);
            if number % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
        }
        silent = still_silent;
    }
}

/// Returns since when this connection's peer is silent although it has data to acknowledge; `None` if it has none.
fn silent_since(record: &ConnectionRecord, before: &Silent) -> Option<Instant> {
    if record.state() == ConnectionState::Lingering {
        return None; // a linger has its own, shorter limits
    }
    let delivery = record.transport.delivery()?;
    let waits = !delivery.is_done;
    waits.then(|| since(before.get(&record.id).copied(), delivery.last_heard, Instant::now()))
}

/// Returns since when a peer with data to acknowledge is silent. `before` is the result of the last check, if it had
/// such data then. A silence before the first of these checks does not count: there may have been nothing to
/// acknowledge.
fn since(before: Option<Instant>, last_heard: Duration, now: Instant) -> Instant {
    before.filter(|before| now.duration_since(*before) <= last_heard).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_while_data_is_unacknowledged_counts() {
        let (first, minute) = (Instant::now(), Duration::from_secs(60));
        // Silent for an hour, and data has just been written.
        assert_eq!(since(None, 60 * minute, first), first);
        // A minute later: nothing has arrived.
        assert_eq!(since(Some(first), 61 * minute, first + minute), first);
        assert_eq!(since(Some(first), minute, first + minute), first);
        // It has acknowledged a probe in between.
        assert_eq!(since(Some(first), minute / 2, first + minute), first + minute);
    }
}
