//! The live page, and the server-sent events that it shows.

use super::lists;
use crate::connection::Connection;
use crate::run::handle::Handle;
use crate::run::phase::Phase;
use crate::run::phases::Phases;
use async_io::Timer;
use futures_concurrency::prelude::*;
use futures_lite::future::poll_once;
use futures_lite::{Stream, StreamExt as _, stream};
use hyper::body::{Bytes, Frame};
use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::future::pending;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How often a page gets the state of the servers. A new phase is sent at once.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many pages are served at a time.
pub(super) const MOST_PAGES: usize = 16;

/// How many connections a page shows of each server.
const SHOWN: usize = 200;

const PAGE: &str = include_str!("live.html");

/// Returns the page, and its Content-Security-Policy: the page's own script and style run, by a number that is new for
/// each answer, and nothing else.
pub(super) fn page() -> (String, String) {
    let nonce = format!("{:016x}{:016x}", random(), random());
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    (PAGE.replace("{nonce}", &nonce), policy)
}

/// Returns a number that cannot be guessed: each `RandomState` has keys of its own.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// A place for one of the pages. Its drop frees it.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(super) fn take(pages: &Arc<AtomicUsize>) -> Option<Self> {
        let take = |taken| (taken < MOST_PAGES).then_some(taken + 1);
        pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Self(Arc::clone(pages)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// State of one stream of events.
struct Events {
    watched: Vec<Handle>,
    /// The phases that are still to come, of each server that is not closed.
    phases: Vec<Phases>,
    connection: Connection,
    next: Next,
    _place: Place,
}

enum Next {
    AtOnce,
    Wait,
    End,
}

/// Returns the stream of events for a page: at once, each second, and at each new phase of a server, until the admin
/// listener drains.
pub(super) fn events(
    watched: &[Handle],
    connection: Connection,
    place: Place,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static {
    let phases = watched.iter().map(Handle::phases).collect();
    let events = Events { watched: watched.to_vec(), phases, connection, next: Next::AtOnce, _place: place };
    stream::unfold(events, |mut events| async move {
        let text = events.next().await?;
        Some((Ok(Frame::data(text)), events))
    })
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        match self.next {
            Next::AtOnce => {
                for phases in &mut self.phases {
                    poll_once(phases.next()).await; // the current phase, which is no news
                }
                self.next = Next::Wait;
            }
            Next::Wait => {
                if !self.wait().await {
                    self.next = Next::End; // after the last state of the servers
                }
            }
            Next::End => return None,
        }
        // JSON has no line breaks, so it is one line of the event.
        Some(format!("retry: 1000\ndata: {}\n\n", lists::json(&self.watched, SHOWN)).into())
    }

    /// Waits until there is something new. Returns false once the admin listener drains.
    async fn wait(&mut self) -> bool {
        let tick = async {
            Timer::after(INTERVAL).await;
            None
        };
        let phases = &mut self.phases;
        let phase = async {
            if phases.is_empty() {
                return pending().await;
            }
            let next = phases.iter_mut().enumerate().map(async |(n, phases)| (n, phases.next().await));
            let (n, phase) = next.collect::<Vec<_>>().race().await;
            phase.is_none_or(|phase| phase == Phase::Closed).then_some(n)
        };
        let Some(ended) = self.connection.until_draining((tick, phase).race()).await else {
            return false;
        };
        if let Some(n) = ended {
            drop(self.phases.swap_remove(n)); // no phase follows
        }
        true
    }
}
