//! Ends connections whose peers have vanished while something was on its way to them.
//!
//! Keep-alive does not work then, and the kernel gives up after some 15 minutes. It knows when it last heard of the
//! peer, and nothing tells when it should have: so from time to time all connections are looked at, and those are
//! remembered that have something unacknowledged. One of which that is true for the whole limit, and of which nothing
//! was heard in that time, has vanished. A live peer whose window is shut acknowledges the kernel's probes, which are
//! at most 2 minutes apart (measured: 120.8 s).

use crate::run::Run;
use crate::run::record::{AbortReason, ConnectionRecord};
use crate::run::registry::ConnectionId;
use crate::run::state::ConnectionState;
use async_io::Timer;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// And at least, however short the limit.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// How many connections are looked at before other tasks get their turn: each takes a system call.
const AT_ONCE: usize = 64;

/// Since when a connection has had something unacknowledged, and nothing was heard of its peer.
type Silent = HashMap<ConnectionId, Instant>;

/// See the module. Never ends.
pub(super) async fn end_vanished(run: Arc<Run>, limit: Duration) {
    let pause = (limit / 5).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut silent = Silent::new();
    loop {
        Timer::after(pause).await;
        let mut still_silent = Silent::new();
        // Each is let go at once: one that ends meanwhile would keep its descriptor.
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
                async_std::task::yield_now().await;
            }
        }
        silent = still_silent;
    }
}

fn silent_since(record: &ConnectionRecord, before: &Silent) -> Option<Instant> {
    if record.state() == ConnectionState::Lingering {
        return None; // which has shorter limits of its own
    }
    let delivery = record.transport.delivery()?;
    let waits = !delivery.is_done;
    waits.then(|| since(before.get(&record.id).copied(), delivery.last_heard, Instant::now()))
}

/// Since when nothing was heard of a peer that has something to acknowledge, and had at the last look if that was
/// `before`. What it was silent for before that says nothing: there may have been nothing to acknowledge.
fn since(before: Option<Instant>, last_heard: Duration, now: Instant) -> Instant {
    before.filter(|before| now.duration_since(*before) <= last_heard).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_while_something_is_on_its_way_counts() {
        let (first, minute) = (Instant::now(), Duration::from_secs(60));
        // An hour without a word, and just now something was written.
        assert_eq!(since(None, 60 * minute, first), first);
        // A minute later: nothing was heard.
        assert_eq!(since(Some(first), 61 * minute, first + minute), first);
        assert_eq!(since(Some(first), minute, first + minute), first);
        // It has acknowledged a probe in between.
        assert_eq!(since(Some(first), minute / 2, first + minute), first + minute);
    }
}
