//! Which stream gets which signal, and which signals are echoes: pure, with the time passed in.

use super::Signal;
use slab::Slab;
use std::collections::VecDeque;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Signals this close to the last counted one are its echo: `timeout` signals its child and then its group, and a
/// supervisor may try SIGINT and SIGTERM at once. No person presses Ctrl-C twice in that time.
const ECHO: Duration = Duration::from_millis(100);

/// A stream that has had a graceful and an immediate request can be asked for nothing more.
const ENOUGH: u8 = 2;

/// The live streams, and when the last request was counted.
pub(super) struct Fanout {
    streams: Slab<Entry>,
    /// Echoes do not move it, so a signal that repeats for ever is not one long echo.
    last: Option<Instant>,
    /// By signal, in the order of [`Signal::ALL`].
    unheard: [Unheard; Signal::ALL.len()],
}

/// What becomes of a signal that no stream hears. Each stream of it raises this, and none lowers it.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Unheard {
    /// It was not asked for, and keeps the effect that it had.
    Default,
    /// It had streams that did not ask to stop.
    Ignore,
    /// It had a stream that asked to stop.
    Exit,
}

/// One live stream.
struct Entry {
    signals: &'static [Signal],
    /// Its signals are requests to stop, which count.
    stop: bool,
    /// How many requests it has had, up to [`ENOUGH`].
    counted: u8,
    /// Not yielded yet: at most [`ENOUGH`] requests, or one of each signal.
    queue: VecDeque<Signal>,
    /// The task of the last poll that had nothing to return. Taken by the next signal, so it is here only while the
    /// queue is empty.
    waker: Option<Waker>,
}

/// What a signal comes to. It is for the caller to do, without the lock.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It counts as one with the signal before it.
    Echo,
    /// It was counted; these are waiting for it.
    Deliver(Vec<Waker>),
    /// No stream is left, and none ever asked to stop.
    Ignore,
    /// It was not asked for.
    Default,
    /// No server is left to ask.
    Exit {
        /// There was a request before.
        asked: bool,
    },
}

impl Fanout {
    pub(super) const fn new() -> Self {
        Self { streams: Slab::new(), last: None, unheard: [Unheard::Default; Signal::ALL.len()] }
    }

    /// Adds a stream and returns its key.
    pub(super) fn join(&mut self, signals: &'static [Signal], stop: bool) -> usize {
        self.raise(signals, if stop { Unheard::Exit } else { Unheard::Ignore });
        self.streams.insert(Entry { signals, stop, counted: 0, queue: VecDeque::new(), waker: None })
    }

    /// From now on the stream's signals are requests to stop. What it has not yielded yet is one.
    pub(super) fn ask_to_stop(&mut self, key: usize) {
        let entry = &mut self.streams[key];
        if !entry.stop {
            entry.stop = true;
            entry.counted = u8::from(!entry.queue.is_empty());
            let signals = entry.signals;
            self.raise(signals, Unheard::Exit);
        }
    }

    fn raise(&mut self, signals: &[Signal], to: Unheard) {
        for signal in signals {
            let unheard = &mut self.unheard[*signal as usize];
            if *unheard < to {
                *unheard = to;
            }
        }
    }

    /// Removes a stream. Its waker comes back to be dropped without the lock.
    pub(super) fn leave(&mut self, key: usize) -> Option<Waker> {
        self.streams.try_remove(key).and_then(|entry| entry.waker)
    }

    /// Takes a signal that was delivered, or leaves `waker` to be told of the next. The waker that is of no more use,
    /// the given or an older one, comes back to be dropped without the lock.
    pub(super) fn poll(&mut self, key: usize, waker: Waker) -> (Poll<Signal>, Option<Waker>) {
        let entry = &mut self.streams[key];
        match entry.queue.pop_front() {
            Some(signal) => (Poll::Ready(signal), Some(waker)),
            None => (Poll::Pending, entry.waker.replace(waker)),
        }
    }

    /// Counts a signal that came at `now`.
    pub(super) fn count(&mut self, signal: Signal, now: Instant) -> Verdict {
        let unheard = self.unheard[signal as usize];
        let asked = self.last.is_some();
        let is_echo = self.last.is_some_and(|last| now.saturating_duration_since(last) < ECHO);
        if unheard == Unheard::Exit && !is_echo {
            self.last = Some(now);
        }
        let mut heard = false;
        let mut wakers = Vec::new();
        for (_, entry) in self.streams.iter_mut().filter(|(_, entry)| entry.signals.contains(&signal)) {
            if !entry.stop {
                if !entry.queue.contains(&signal) {
                    entry.queue.push_back(signal);
                }
            } else if is_echo || entry.counted == ENOUGH {
                continue;
            } else {
                entry.counted += 1;
                entry.queue.push_back(signal);
            }
            heard = true;
            wakers.extend(entry.waker.take());
        }
        match unheard {
            _ if heard => Verdict::Deliver(wakers),
            Unheard::Exit if is_echo => Verdict::Echo,
            Unheard::Exit => Verdict::Exit { asked },
            Unheard::Ignore => Verdict::Ignore,
            Unheard::Default => Verdict::Default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Signal::{Hangup, Interrupt, Terminate};
    use super::*;

    /// A fanout with a clock that stands still unless told.
    struct Bench(Fanout, Instant);

    impl Bench {
        fn new() -> Self {
            Self(Fanout::new(), Instant::now())
        }

        fn stop(&mut self) -> usize {
            self.0.join(&[Terminate, Interrupt], true)
        }

        fn reload(&mut self) -> usize {
            self.0.join(&[Hangup], false)
        }

        /// SIGINT, so many milliseconds after the last.
        fn after(&mut self, ms: u64) -> Result<usize, &'static str> {
            self.signal(Interrupt, ms)
        }

        /// A signal, so many milliseconds after the last: the number of tasks it wakes, or its name.
        fn signal(&mut self, signal: Signal, ms: u64) -> Result<usize, &'static str> {
            self.1 += Duration::from_millis(ms);
            match self.0.count(signal, self.1) {
                Verdict::Deliver(wakers) => Ok(wakers.len()),
                Verdict::Echo => Err("echo"),
                Verdict::Ignore => Err("ignore"),
                Verdict::Default => Err("default"),
                Verdict::Exit { asked: true } => Err("exit"),
                Verdict::Exit { asked: false } => Err("exit, unasked"),
            }
        }

        /// What a stream yields until it is pending.
        fn rest(&mut self, key: usize) -> Vec<Signal> {
            let poll = || match self.0.poll(key, Waker::noop().clone()).0 {
                Poll::Ready(signal) => Some(signal),
                Poll::Pending => None,
            };
            std::iter::from_fn(poll).collect()
        }
    }

    #[test]
    fn two_requests_are_remembered_for_a_stream_and_the_third_exits() {
        let mut bench = Bench::new();
        let key = bench.stop();
        assert_eq!(bench.after(0), Ok(0));
        assert_eq!(bench.signal(Terminate, 100), Ok(0));
        assert_eq!(bench.after(100), Err("exit"));
        assert_eq!(bench.rest(key), [Interrupt, Terminate]);
        assert_eq!(bench.signal(Terminate, 100), Err("exit"));
    }

    #[test]
    fn a_waiting_task_is_woken_once_for_each_signal_it_waits_for() {
        let mut bench = Bench::new();
        let key = bench.stop();
        assert_eq!(bench.rest(key), []);
        assert_eq!(bench.after(0), Ok(1));
        assert_eq!(bench.after(500), Ok(0), "nobody has polled since");
        assert_eq!(bench.rest(key), [Interrupt, Interrupt]);
    }

    #[test]
    fn requests_within_100_ms_of_the_last_counted_one_count_once() {
        let mut bench = Bench::new();
        let key = bench.stop();
        assert_eq!(bench.after(0), Ok(0));
        assert_eq!([bench.after(0), bench.signal(Terminate, 60), bench.after(39)], [Err("echo"); 3]);
        assert_eq!(bench.after(1), Ok(0), "echoes do not prolong it");
        assert_eq!(bench.after(99), Err("echo"), "nor does an echo exit");
        assert_eq!(bench.rest(key), [Interrupt, Interrupt]);
    }

    #[test]
    fn each_stream_counts_for_itself() {
        let mut bench = Bench::new();
        let early = bench.stop();
        assert_eq!(bench.after(0), Ok(0));
        let late = bench.stop();
        assert_eq!(bench.rest(late), [], "what came before it is not its own");
        assert_eq!(bench.after(200), Ok(1));
        assert_eq!(bench.after(200), Ok(0), "only the late one has had fewer than two");
        assert_eq!(bench.after(200), Err("exit"));
        assert_eq!(bench.rest(early), [Interrupt; 2]);
        assert_eq!(bench.rest(late), [Interrupt; 2]);
    }

    #[test]
    fn a_request_without_a_live_stream_exits_unless_it_is_an_echo() {
        let mut bench = Bench::new();
        let key = bench.stop();
        assert_eq!(bench.rest(key), []);
        assert_eq!(bench.after(0), Ok(1));
        assert!(bench.0.leave(key).is_none(), "its waker was taken");
        assert_eq!(bench.after(99), Err("echo"));
        assert_eq!(bench.after(1), Err("exit"));
        assert!(bench.0.streams.is_empty());

        let mut bench = Bench::new();
        let key = bench.stop();
        assert!(bench.0.leave(key).is_none());
        assert_eq!(bench.after(0), Err("exit, unasked"));
    }

    #[test]
    fn a_stream_gets_its_own_signals_only() {
        let mut bench = Bench::new();
        let (reload, both) = (bench.reload(), bench.stop());
        let ctrl_c = bench.0.join(&[Interrupt], true);
        assert_eq!(bench.signal(Terminate, 0), Ok(0));
        assert_eq!(bench.signal(Hangup, 200), Ok(0));
        assert_eq!(bench.rest(reload), [Hangup]);
        assert_eq!(bench.rest(both), [Terminate]);
        assert_eq!(bench.rest(ctrl_c), []);
    }

    #[test]
    fn a_reload_comes_as_often_as_the_signal_and_never_exits() {
        let mut bench = Bench::new();
        let (reload, stop) = (bench.reload(), bench.stop());
        assert_eq!(bench.rest(reload), []);
        for _ in 0..10 {
            assert_eq!([bench.signal(Hangup, 0), bench.signal(Hangup, 0)], [Ok(1), Ok(0)]);
            assert_eq!(bench.rest(reload), [Hangup], "two before the first was yielded are one");
        }
        assert_eq!(bench.after(0), Ok(0), "a reload has no echo");
        assert_eq!(bench.signal(Hangup, 0), Ok(1), "and is none");
        assert_eq!((bench.rest(reload), bench.rest(stop)), (vec![Hangup], vec![Interrupt]));
        drop(bench.0.leave(reload));
        assert_eq!(bench.signal(Hangup, 200), Err("ignore"));
    }

    #[test]
    fn a_reload_that_stops_a_server_counts() {
        let mut bench = Bench::new();
        let key = bench.reload();
        assert_eq!([bench.signal(Hangup, 0), bench.signal(Hangup, 500)], [Ok(0); 2]);
        bench.0.ask_to_stop(key);
        assert_eq!(bench.rest(key), [Hangup], "the first request");
        assert_eq!([bench.signal(Hangup, 200), bench.signal(Hangup, 50)], [Ok(1), Err("echo")]);
        assert_eq!(bench.signal(Hangup, 200), Err("exit"));
        assert_eq!(bench.rest(key), [Hangup]);
    }

    #[test]
    fn what_was_not_asked_for_keeps_its_effect() {
        let mut bench = Bench::new();
        let _stop = bench.stop();
        assert_eq!([bench.signal(Hangup, 0), bench.signal(Hangup, 0)], [Err("default"); 2]);
        assert_eq!(bench.after(0), Ok(0), "and is no echo of it");
    }

    #[test]
    fn a_displaced_waker_comes_back() {
        let mut bench = Bench::new();
        let key = bench.stop();
        assert!(bench.0.poll(key, Waker::noop().clone()).1.is_none());
        assert!(bench.0.poll(key, Waker::noop().clone()).1.is_some());
        assert!(bench.0.leave(key).is_some());
    }
}
