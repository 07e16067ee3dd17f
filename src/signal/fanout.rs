//! Decides which streams get a signal, which signals are echoes, and when the process exits.
//!
//! Pure: the caller passes the time in, wakes the wakers and exits. The docs of [`Signals`](super::Signals) have the
//! rules.

use super::Signal;
use slab::Slab;
use std::collections::VecDeque;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// A signal that follows the last counted one within this time is its echo: `timeout` signals its child and then its
/// group, and a supervisor may send SIGINT and SIGTERM at once. No person presses Ctrl-C twice in that time.
const ECHO: Duration = Duration::from_millis(100);

/// How many requests a stream counts: a graceful and an immediate one. There is no third kind.
const ENOUGH: u8 = 2;

/// The live streams, and when the last request was counted.
pub(super) struct Fanout {
    streams: Slab<Entry>,
    /// The time of the last counted request. An echo does not change it, so a signal that repeats without end is not
    /// one long echo.
    last: Option<Instant>,
    /// What happens to a signal without a stream, in the order of [`Signal::ALL`].
    unheard: [Unheard; Signal::ALL.len()],
}

/// Effect of a signal that no live stream takes. Each new stream of the signal may raise it; nothing lowers it.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Unheard {
    /// No stream of it was ever made: it keeps the effect that it had.
    Default,
    /// It had streams, and their signals were not requests to stop.
    Ignore,
    /// It had a stream whose signals were requests to stop.
    Exit,
}

/// One live stream.
struct Entry {
    signals: &'static [Signal],
    /// Its signals are requests to stop, and are counted.
    stop: bool,
    /// How many requests it has counted, up to [`ENOUGH`].
    counted: u8,
    /// The signals that are not yielded yet: at most [`ENOUGH`] requests, or one of each signal.
    queue: VecDeque<Signal>,
    /// The waker of the last poll that returned `Pending`. The next signal takes it, so it is set only while the queue
    /// is empty.
    waker: Option<Waker>,
}

/// What the caller has to do with a signal, after it has released the lock.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing: the signal is an echo of the one before it.
    Echo,
    /// Wake these tasks: the signal is in their streams' queues.
    Deliver(Vec<Waker>),
    /// Log a line: no stream of the signal is alive, and its signals never were requests to stop.
    Ignore,
    /// Give the signal its default effect: it was not asked for.
    Default,
    /// Exit the process: no live stream can count another request.
    Exit {
        /// Whether a request was counted before.
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

    /// Makes the stream's signals requests to stop. What it has not yielded yet is one request.
    pub(super) fn ask_to_stop(&mut self, key: usize) {
        let entry = &mut self.streams[key];
        if !entry.stop {
            entry.stop = true;
            entry.counted = u8::from(!entry.queue.is_empty());
            let signals = entry.signals;
            self.raise(signals, Unheard::Exit);
        }
    }

    /// Raises the effect of these signals without a stream to at least `to`.
    fn raise(&mut self, signals: &[Signal], to: Unheard) {
        for signal in signals {
            let unheard = &mut self.unheard[*signal as usize];
            if *unheard < to {
                *unheard = to;
            }
        }
    }

    /// Removes a stream. Returns its waker, which the caller drops after it has released the lock.
    pub(super) fn leave(&mut self, key: usize) -> Option<Waker> {
        self.streams.try_remove(key).and_then(|entry| entry.waker)
    }

    /// Takes the next signal from the queue, or stores `waker` for the next one. Returns also the waker that is not
    /// needed, the given or the stored one, which the caller drops after it has released the lock.
    pub(super) fn poll(&mut self, key: usize, waker: Waker) -> (Poll<Signal>, Option<Waker>) {
        let entry = &mut self.streams[key];
        match entry.queue.pop_front() {
            Some(signal) => (Poll::Ready(signal), Some(waker)),
            None => (Poll::Pending, entry.waker.replace(waker)),
        }
    }

    /// Puts a signal that arrived at `now` into the queues of its streams.
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

    /// A fanout with a clock that only the test moves.
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

        /// Sends SIGINT, `ms` milliseconds after the last signal.
        fn after(&mut self, ms: u64) -> Result<usize, &'static str> {
            self.signal(Interrupt, ms)
        }

        /// Sends a signal, `ms` milliseconds after the last: returns how many tasks it wakes, or the verdict's name.
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

        /// Returns what a stream yields until it is pending.
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
        assert_eq!(bench.after(500), Ok(0), "no poll since the last signal");
        assert_eq!(bench.rest(key), [Interrupt, Interrupt]);
    }

    #[test]
    fn requests_within_100_ms_of_the_last_counted_one_count_once() {
        let mut bench = Bench::new();
        let key = bench.stop();
        assert_eq!(bench.after(0), Ok(0));
        assert_eq!([bench.after(0), bench.signal(Terminate, 60), bench.after(39)], [Err("echo"); 3]);
        assert_eq!(bench.after(1), Ok(0), "echoes do not prolong the time");
        assert_eq!(bench.after(99), Err("echo"), "an echo does not exit");
        assert_eq!(bench.rest(key), [Interrupt, Interrupt]);
    }

    #[test]
    fn each_stream_counts_for_itself() {
        let mut bench = Bench::new();
        let early = bench.stop();
        assert_eq!(bench.after(0), Ok(0));
        let late = bench.stop();
        assert_eq!(bench.rest(late), [], "signals before the stream was made are not its own");
        assert_eq!(bench.after(200), Ok(1));
        assert_eq!(bench.after(200), Ok(0), "only the late stream has counted fewer than two");
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
    fn a_reload_is_yielded_for_each_signal_and_never_exits() {
        let mut bench = Bench::new();
        let (reload, stop) = (bench.reload(), bench.stop());
        assert_eq!(bench.rest(reload), []);
        for _ in 0..10 {
            assert_eq!([bench.signal(Hangup, 0), bench.signal(Hangup, 0)], [Ok(1), Ok(0)]);
            assert_eq!(bench.rest(reload), [Hangup], "two before the first was yielded are one");
        }
        assert_eq!(bench.after(0), Ok(0), "a reload has no echo");
        assert_eq!(bench.signal(Hangup, 0), Ok(1), "and is no echo");
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
        assert_eq!(bench.after(0), Ok(0), "and SIGHUP has no echo");
    }

    #[test]
    fn a_displaced_waker_is_returned() {
        let mut bench = Bench::new();
        let key = bench.stop();
        assert!(bench.0.poll(key, Waker::noop().clone()).1.is_none());
        assert!(bench.0.poll(key, Waker::noop().clone()).1.is_some());
        assert!(bench.0.leave(key).is_some());
    }
}
