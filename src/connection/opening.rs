//! What happens before the handler is called.

use crate::control::member::Member;
use crate::handler::Silence;
use async_io::Timer;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// How long a connection may take to open once the server drains: clients who have just been accepted get their chance,
/// and silent ones hold nobody.
const IN_A_DRAIN: Duration = Duration::from_secs(1);

/// Waits until the peer has sent something, which stays unread; its end, or an error, is something too.
pub(super) async fn first_byte(member: &Member, limit: Duration) -> Result<(), Silence> {
    let mut timer = Timer::after(limit);
    let mut allowed = limit;
    let mut draining = member.draining.watch();
    let mut told = false;
    poll_fn(|cx| {
        if member.stream.poll_peek(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !told && draining.poll(cx).is_ready() {
            told = true;
            let left = limit.saturating_sub(member.since.elapsed());
            if left > IN_A_DRAIN {
                timer.set_after(IN_A_DRAIN);
                allowed = member.since.elapsed() + IN_A_DRAIN;
            }
        }
        Pin::new(&mut timer).poll(cx).map(|_| Err(Silence::BeforeFirstByte(allowed)))
    })
    .await
}
