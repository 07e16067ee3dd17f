//! Models of a hand-over's sockets: an accept against the offer, the wait to accept against its end, a close against the
//! decision. `tests/processes/upgrade` has the same with real processes.

use super::*;
use crate::listener::ListenOptions;
use crate::sync::model::{model, wait_until};
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::thread;

fn ownership(is_ready: bool) -> Arc<Ownership> {
    Ownership::of_new(is_ready, Inherited::with(&ListenOptions::new()))
}

/// A hand-over that decides as `upgrade` does: once, under a lock.
struct HandOver {
    ownership: Weak<Ownership>,
    is_over: Mutex<bool>,
}

impl HandOver {
    fn begin(ownership: &Arc<Ownership>) -> Arc<Self> {
        let running = Arc::new(Self { ownership: Arc::downgrade(ownership), is_over: Mutex::new(false) });
        let weak: Weak<Self> = Arc::downgrade(&running);
        assert!(ownership.begin(weak), "the socket is this generation's");
        running
    }

    /// Returns whether the next generation has the socket.
    fn end(&self, is_taken: bool) -> bool {
        let mut is_over = lock(&self.is_over);
        if std::mem::replace(&mut *is_over, true) {
            return false;
        }
        let waiting = self.ownership.upgrade().and_then(|ownership| ownership.decide(is_taken));
        drop(is_over);
        waiting.into_iter().for_each(Waker::wake);
        is_taken
    }
}

impl EndHandOver for HandOver {
    fn end_because_a_listener_closes(&self) {
        self.end(false);
    }
}

#[test]
fn no_accept_is_under_way_once_the_socket_is_offered() {
    model(|| {
        let ownership = ownership(true);
        let accepting = Arc::new(AtomicUsize::new(0));
        let loop_of_the_server = {
            let (ownership, accepting) = (Arc::clone(&ownership), Arc::clone(&accepting));
            thread::spawn(move || {
                if let Some(_accepting) = ownership.accepting() {
                    accepting.store(1, SeqCst);
                    accepting.store(0, SeqCst);
                }
            })
        };
        assert!(ownership.offer());
        assert_eq!(accepting.load(SeqCst), 0, "two generations would accept");
        assert!(ownership.accepting().is_none());
        loop_of_the_server.join().unwrap();
    });
}

#[test]
fn an_accept_loop_that_waits_is_woken_when_the_offer_is_withdrawn() {
    model(|| {
        let ownership = ownership(true);
        let running = HandOver::begin(&ownership);
        assert!(ownership.offer());
        let other = thread::spawn(move || running.end(false));
        wait_until(|cx| ownership.poll_accepts(cx));
        assert!(!other.join().unwrap());
    });
}

#[test]
fn an_accept_loop_that_waits_is_woken_when_its_generation_takes_over() {
    model(|| {
        let ownership = ownership(false);
        let other = Arc::clone(&ownership);
        let ready = thread::spawn(move || Ownership::take_over(&[other], (), || Ok(())));
        wait_until(|cx| ownership.poll_accepts(cx));
        assert_eq!(ready.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_close_against_the_decision_leaves_the_backlog_to_exactly_one_generation() {
    model(|| {
        let ownership = ownership(true);
        let running = HandOver::begin(&ownership);
        assert!(ownership.offer());
        let other = Arc::clone(&running);
        let answer = thread::spawn(move || other.end(true));
        let is_the_others = ownership.close();
        assert_eq!(is_the_others, answer.join().unwrap(), "both own the backlog, or neither");
    });
}
