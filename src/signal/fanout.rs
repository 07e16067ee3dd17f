//! Which stream gets which signal, and which signals are echoes: pure, with the time passed in.

use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// Signals this close to the last counted one are its echo: a closing terminal sends SIGHUP from the kernel and from
/// the shell. Nobody presses Ctrl-C twice in that time.
const ECHO: Duration = Duration::from_millis(100);

/// A stream that has had a graceful and an immediate request can be asked for nothing more.
const ENOUGH: u8 = 2;

/// The live streams, and when the last signal was counted.
pub(super) struct Fanout {
    streams: Slab<Entry>,
    /// Echoes do not move it, so a signal that repeats for ever is not one long echo.
    last: Option<Instant>,
}

/// One live stream. `yielded <= delivered <= ENOUGH`; a waker is here only while the two are equal.
#[derive(Default)]
struct Entry {
    /// Signals that were counted for this stream.
    delivered: u8,
    /// Signals that its polls have returned.
    yielded: u8,
    /// The task of the last poll that had nothing to return. Taken by the next signal.
    waker: Option<Waker>,
}

/// What a signal comes to. It is for the caller to do, without the lock.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It counts as one with the signal before it.
    Echo,
    /// It was counted; these are waiting for it.
    Deliver(Vec<Waker>),
    /// No server is left to ask.
    Exit,
}

impl Fanout {
    pub(super) const fn new() -> Self {
        Self { streams: Slab::new(), last: None }
    }

    /// Adds a stream and returns its key.
    pub(super) fn join(&mut self) -> usize {
        self.streams.insert(Entry::default())
    }

    /// Removes a stream. Its waker comes back to be dropped without the lock.
    pub(super) fn leave(&mut self, key: usize) -> Option<Waker> {
        self.streams.try_remove(key).and_then(|entry| entry.waker)
    }

    /// Takes a signal that was delivered, or leaves `waker` to be told of the next. The waker that is of no more use,
    /// the given or an older one, comes back to be dropped without the lock.
    pub(super) fn poll(&mut self, key: usize, waker: Waker) -> (Poll<()>, Option<Waker>) {
        let entry = &mut self.streams[key];
        if entry.yielded < entry.delivered {
            entry.yielded += 1;
            (Poll::Ready(()), Some(waker))
        } else {
            (Poll::Pending, entry.waker.replace(waker))
        }
    }

    /// Counts a signal that came at `now`.
    pub(super) fn count(&mut self, now: Instant) -> Verdict {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < ECHO) {
            return Verdict::Echo;
        }
        self.last = Some(now);

        let mut heard = false;
        let mut wakers = Vec::new();
        for (_, entry) in self.streams.iter_mut().filter(|(_, entry)| entry.delivered < ENOUGH) {
            heard = true;
            entry.delivered += 1;
            wakers.extend(entry.waker.take());
        }
        if heard { Verdict::Deliver(wakers) } else { Verdict::Exit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fanout with a clock that stands still unless told.
    struct Bench(Fanout, Instant);

    impl Bench {
        fn new() -> Self {
            Self(Fanout::new(), Instant::now())
        }

        /// A signal, so many milliseconds after the last: the number of tasks it wakes, or its name.
        fn after(&mut self, ms: u64) -> Result<usize, &'static str> {
            self.1 += Duration::from_millis(ms);
            match self.0.count(self.1) {
                Verdict::Deliver(wakers) => Ok(wakers.len()),
                Verdict::Echo => Err("echo"),
                Verdict::Exit => Err("exit"),
            }
        }

        fn poll(&mut self, key: usize) -> bool {
            self.0.poll(key, Waker::noop().clone()).0.is_ready()
        }
    }

    #[test]
    fn two_signals_are_remembered_for_a_stream_and_the_third_exits() {
        let mut bench = Bench::new();
        let key = bench.0.join();
        assert_eq!(bench.after(0), Ok(0));
        assert_eq!(bench.after(100), Ok(0));
        assert_eq!(bench.after(100), Err("exit"));
        assert_eq!([bench.poll(key), bench.poll(key), bench.poll(key)], [true, true, false]);
        assert_eq!(bench.after(100), Err("exit"));
    }

    #[test]
    fn a_waiting_task_is_woken_once_for_each_signal_it_waits_for() {
        let mut bench = Bench::new();
        let key = bench.0.join();
        assert!(!bench.poll(key));
        assert_eq!(bench.after(0), Ok(1));
        assert_eq!(bench.after(500), Ok(0), "nobody has polled since");
        assert_eq!([bench.poll(key), bench.poll(key), bench.poll(key)], [true, true, false]);
    }

    #[test]
    fn signals_within_100_ms_of_the_last_counted_one_count_once() {
        let mut bench = Bench::new();
        let key = bench.0.join();
        assert_eq!(bench.after(0), Ok(0));
        assert_eq!([bench.after(0), bench.after(60), bench.after(39)], [Err("echo"); 3]);
        assert_eq!(bench.after(1), Ok(0), "echoes do not prolong it");
        assert_eq!(bench.after(99), Err("echo"), "nor does an echo exit");
        assert_eq!([bench.poll(key), bench.poll(key), bench.poll(key)], [true, true, false]);
    }

    #[test]
    fn each_stream_counts_for_itself() {
        let mut bench = Bench::new();
        let early = bench.0.join();
        assert_eq!(bench.after(0), Ok(0));
        let late = bench.0.join();
        assert!(!bench.poll(late), "what came before it is not its own");
        assert_eq!(bench.after(200), Ok(1));
        assert_eq!(bench.after(200), Ok(0), "only the late one has had fewer than two");
        assert_eq!(bench.after(200), Err("exit"));
        assert_eq!([bench.poll(early), bench.poll(early), bench.poll(early)], [true, true, false]);
        assert_eq!([bench.poll(late), bench.poll(late), bench.poll(late)], [true, true, false]);
    }

    #[test]
    fn a_signal_without_a_live_stream_exits_unless_it_is_an_echo() {
        let mut bench = Bench::new();
        let key = bench.0.join();
        assert!(!bench.poll(key));
        assert_eq!(bench.after(0), Ok(1));
        assert!(bench.0.leave(key).is_none(), "its waker was taken");
        assert_eq!(bench.after(99), Err("echo"));
        assert_eq!(bench.after(1), Err("exit"));
        assert_eq!(Bench::new().after(0), Err("exit"));
        assert!(bench.0.streams.is_empty());
    }

    #[test]
    fn a_displaced_waker_comes_back() {
        let mut fanout = Fanout::new();
        let key = fanout.join();
        assert!(fanout.poll(key, Waker::noop().clone()).1.is_none());
        assert!(fanout.poll(key, Waker::noop().clone()).1.is_some());
        assert!(fanout.leave(key).is_some());
    }
}
