//! [`Messages`]: what was sent to systemd, and so what has to be sent next. No socket, no clock, no lock.
//!
//! 1. READY, RELOADING, STOPPING and MAINPID are sent in order, each in a datagram of its own: systemd acts on the last of them
//!    in a datagram. One that could not be sent stays at the head of the queue.
//! 2. The others have no queue: what differs from what systemd knows is sent, and what is outdated never is.
//! 3. The queue has at most five entries: a reload that was not sent yet includes the next one.

use sd_notify::NotifyState;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

/// The shortest time between two changes of the status while the servers serve. Less than the pause between two looks,
/// or every second look would be too early.
const WHILE_SERVING: Duration = Duration::from_secs(9);

/// The same once one of them stops. The status then changes every second.
const WHILE_STOPPING: Duration = Duration::from_millis(700);

/// The time beyond the deadline for which systemd is asked: to cancel what is left, to log, and for what the program
/// does after its servers.
const MARGIN: Duration = Duration::from_secs(5);

/// The time for which systemd is asked if the exit has no limit.
const STEP: Duration = Duration::from_secs(60);

/// The longest time for which systemd is asked at once.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// After this time systemd is asked again. A third of [`STEP`], so that two requests in a row may be lost.
const AGAIN: Duration = Duration::from_secs(20);

/// The states of a service that systemd is notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceState {
    Ready,
    Reloading,
    Stopping,
    /// This process is the main process, with this id, instead of the one that sends.
    #[cfg_attr(not(feature = "upgrade"), allow(dead_code, reason = "only `upgrade` hands over"))]
    HandedOver(u32),
}

/// When the last of the servers that stop is out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    At(Instant),
    Unlimited,
}

/// What the servers want systemd to know.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) status: String,
    /// The status is about a new phase, and is sent at once.
    pub(super) is_news: bool,
    /// `None`: no server stops.
    pub(super) end: Option<End>,
}

#[derive(Debug, Default)]
pub(super) struct Messages {
    /// What was decided last, sent or not.
    state: Option<ServiceState>,
    /// What has to be sent, the oldest first.
    unsent: VecDeque<ServiceState>,
    status: String,
    status_at: Option<Instant>,
    /// For which end systemd was asked to wait, and when.
    extended: Option<(End, Instant)>,
    /// All servers have reported that they are alive.
    is_alive: bool,
}

/// One datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) text: String,
    has_state: bool,
    status: Option<String>,
    end: Option<End>,
}

impl Datagram {
    /// Returns the names of its variables, for messages.
    pub(super) fn variables(&self) -> String {
        let names: Vec<_> = self.text.lines().filter_map(|line| line.split('=').next()).collect();
        names.join(", ")
    }
}

impl Messages {
    pub(super) fn state(&self) -> Option<ServiceState> {
        self.state
    }

    /// Returns whether something could not be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || self.is_alive
    }

    /// Another process is the main process from now on. Nothing follows that. With a watchdog it has the whole time until
    /// its first ping is due.
    #[cfg(feature = "upgrade")]
    pub(super) fn hand_over(&mut self, id: u32, watchdog: bool) {
        self.unsent.retain(|state| *state != ServiceState::Stopping); // the service does not stop
        self.state = Some(ServiceState::HandedOver(id));
        self.unsent.push_back(ServiceState::HandedOver(id));
        self.is_alive = watchdog;
    }

    /// Changes the service's state, which is then to be sent. Nothing follows `Stopping`.
    pub(super) fn change_to(&mut self, state: ServiceState) {
        let is_last = matches!(self.state, Some(ServiceState::Stopping | ServiceState::HandedOver(_)));
        if is_last || self.state == Some(state) {
            return;
        }
        self.state = Some(state);
        match self.unsent.make_contiguous() {
            // The last reload was not sent, so this one continues it.
            [.., ServiceState::Reloading, ServiceState::Ready] if state == ServiceState::Reloading => {
                self.unsent.pop_back();
            }
            _ => self.unsent.push_back(state),
        }
    }

    /// All servers are alive: WATCHDOG is to be sent.
    pub(super) fn alive(&mut self) {
        self.is_alive |= !self.is_handed_over();
    }

    fn is_handed_over(&self) -> bool {
        matches!(self.state, Some(ServiceState::HandedOver(_)))
    }

    /// Returns what has to be sent now. Once it was sent, the caller calls [`sent`](Self::sent), and then this again.
    pub(super) fn next(&self, wanted: &Wanted, now: Instant) -> io::Result<Option<Datagram>> {
        let state = self.unsent.front().copied();
        let is_last = self.unsent.len() <= 1;
        let mut states = match state {
            Some(ServiceState::Ready) => vec![NotifyState::Ready],
            Some(ServiceState::Reloading) => vec![NotifyState::Reloading, NotifyState::monotonic_usec_now()?],
            Some(ServiceState::Stopping) => vec![NotifyState::Stopping],
            Some(ServiceState::HandedOver(id)) => vec![NotifyState::MainPid(id)],
            None => Vec::new(),
        };
        let end = wanted.end.filter(|end| is_last && !self.is_handed_over() && self.asks_for(*end, now));
        if let Some(end) = end {
            states.push(NotifyState::ExtendTimeoutUsec(extension(end, now)));
        }
        let has_status = self.state.is_some() && !self.is_handed_over();
        let status = is_last && has_status && self.is_due(wanted, state.is_some(), now);
        if status {
            states.push(NotifyState::Status(&wanted.status));
        }
        if is_last && self.is_alive {
            states.push(NotifyState::Watchdog);
        }
        if states.is_empty() {
            return Ok(None);
        }
        let mut text = String::new();
        for state in &states {
            let _ = writeln!(text, "{state}"); // never fails
        }
        let status = status.then(|| wanted.status.clone());
        Ok(Some(Datagram { text, has_state: state.is_some(), status, end }))
    }

    /// Notes that this datagram was sent.
    pub(super) fn sent(&mut self, datagram: Datagram, now: Instant) {
        if datagram.has_state {
            self.unsent.pop_front();
        }
        if let Some(end) = datagram.end {
            self.extended = Some((end, now));
        }
        if let Some(status) = datagram.status {
            (self.status, self.status_at) = (status, Some(now));
        }
        if datagram.text.contains("WATCHDOG=1") {
            self.is_alive = false;
        }
    }

    fn asks_for(&self, end: End, now: Instant) -> bool {
        match self.extended {
            None => true, // also at the deadline: a cancel takes its time
            Some((before, at)) => {
                let is_over = matches!(end, End::At(deadline) if deadline <= now); // now systemd's own limit counts
                !is_over && (before != end || now.saturating_duration_since(at) >= AGAIN)
            }
        }
    }

    fn is_due(&self, wanted: &Wanted, has_state: bool, now: Instant) -> bool {
        let pause = if self.state == Some(ServiceState::Stopping) { WHILE_STOPPING } else { WHILE_SERVING };
        let is_time = |at: Instant| now.saturating_duration_since(at) >= pause;
        self.status != wanted.status && (has_state || wanted.is_news || self.status_at.is_none_or(is_time))
    }
}

/// Returns for how many microseconds from now systemd is asked to wait.
fn extension(end: End, now: Instant) -> u32 {
    let time = match end {
        End::At(deadline) => deadline.saturating_duration_since(now).saturating_add(MARGIN).min(LONGEST),
        End::Unlimited => STEP,
    };
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wanted(status: &str, end: Option<End>) -> Wanted {
        Wanted { status: status.to_owned(), is_news: false, end }
    }

    /// Sends all that is to be sent, and returns the variables of each datagram in one line. The clock's value is left
    /// out.
    fn send_all(messages: &mut Messages, wanted: &Wanted, now: Instant) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(datagram) = messages.next(wanted, now).unwrap() {
            let clock = |line: &str| line.split("USEC=").next().filter(|_| line.starts_with("MONO")).map(str::to_owned);
            let lines: Vec<_> = datagram.text.lines().map(|line| clock(line).unwrap_or(line.to_owned())).collect();
            all.push(lines.join(" "));
            messages.sent(datagram, now);
            assert!(all.len() < 10, "{all:?}");
        }
        all
    }

    #[test]
    fn nothing_is_sent_before_the_service_is_ready() {
        let mut messages = Messages::default();
        assert_eq!(send_all(&mut messages, &wanted("starting", None), Instant::now()), [""; 0]);
        messages.change_to(ServiceState::Ready);
        let sent = send_all(&mut messages, &wanted("serving", None), Instant::now());
        assert_eq!(sent, ["READY=1 STATUS=serving"]);
    }

    #[test]
    fn states_are_sent_in_order_and_none_after_stopping() {
        let (mut messages, now) = (Messages::default(), Instant::now());
        messages.change_to(ServiceState::Ready);
        messages.change_to(ServiceState::Reloading);
        messages.change_to(ServiceState::Ready);
        messages.change_to(ServiceState::Reloading); // the first reload was not sent yet
        messages.change_to(ServiceState::Ready);
        messages.change_to(ServiceState::Stopping);
        messages.change_to(ServiceState::Ready); // too late
        assert!(messages.has_unsent());
        let end = Some(End::At(now + 8 * SECOND));
        let sent = send_all(&mut messages, &wanted("draining", end), now);
        let expected =
            ["READY=1", "RELOADING=1 MONOTONIC_", "READY=1", "STOPPING=1 EXTEND_TIMEOUT_USEC=13000000 STATUS=draining"];
        assert_eq!(sent, expected);
        assert!(!messages.has_unsent());
    }

    #[test]
    fn the_status_changes_rarely_while_serving_and_every_second_while_stopping() {
        let (mut messages, start) = (Messages::default(), Instant::now());
        messages.change_to(ServiceState::Ready);
        assert_eq!(send_all(&mut messages, &wanted("1", None), start), ["READY=1 STATUS=1"]);
        assert_eq!(send_all(&mut messages, &wanted("2", None), start + SECOND), [""; 0]);
        assert_eq!(send_all(&mut messages, &wanted("1", None), start + 10 * SECOND), [""; 0]);
        assert_eq!(send_all(&mut messages, &wanted("3", None), start + 10 * SECOND), ["STATUS=3"]);
        let news = Wanted { is_news: true, ..wanted("4", None) };
        assert_eq!(send_all(&mut messages, &news, start + 11 * SECOND), ["STATUS=4"]);
        messages.change_to(ServiceState::Stopping);
        for n in 12..15 {
            let status = n.to_string();
            let sent = send_all(&mut messages, &wanted(&status, None), start + n * SECOND);
            assert!(sent.len() == 1 && sent[0].ends_with(&format!("STATUS={n}")), "{sent:?}");
        }
    }

    #[test]
    fn systemd_is_asked_to_wait_at_the_request_at_each_move_of_the_deadline_and_again_every_20_s() {
        let (mut messages, start) = (Messages::default(), Instant::now());
        messages.change_to(ServiceState::Stopping);
        let mut ask = |end: End, at: u32| {
            let sent = send_all(&mut messages, &wanted("", Some(end)), start + at * SECOND).join(" ");
            sent.split_once("USEC=").map(|(_, micros)| micros.parse::<u32>().unwrap() / 1_000_000)
        };
        let at = |seconds| End::At(start + seconds * SECOND);
        assert_eq!(ask(End::Unlimited, 0), Some(60));
        assert_eq!(ask(End::Unlimited, 19), None);
        assert_eq!(ask(End::Unlimited, 20), Some(60));
        assert_eq!(ask(at(100), 21), Some(84)); // it was moved
        assert_eq!(ask(at(100), 40), None);
        assert_eq!(ask(at(100), 41), Some(64));
        assert_eq!(ask(at(50), 42), Some(13));
        assert_eq!(ask(at(50), 50), None); // it is over
        assert_eq!(ask(at(50), 100), None);
        assert_eq!(ask(at(1_000_000), 101), Some(3600));
    }

    #[test]
    fn a_cancel_asks_for_the_margin_alone() {
        let (mut messages, now) = (Messages::default(), Instant::now());
        messages.change_to(ServiceState::Stopping);
        let sent = send_all(&mut messages, &wanted("cancelling", Some(End::At(now))), now + SECOND);
        assert_eq!(sent, ["STOPPING=1 EXTEND_TIMEOUT_USEC=5000000 STATUS=cancelling"]);
    }

    #[test]
    fn what_could_not_be_sent_is_the_next_again() {
        let (mut messages, now) = (Messages::default(), Instant::now());
        messages.change_to(ServiceState::Ready);
        messages.alive();
        let first = messages.next(&wanted("1", None), now).unwrap().unwrap();
        assert_eq!(first.text, "READY=1\nSTATUS=1\nWATCHDOG=1\n");
        assert!(messages.has_unsent());
        assert_eq!(send_all(&mut messages, &wanted("2", None), now), ["READY=1 STATUS=2 WATCHDOG=1"]);
        assert!(!messages.has_unsent());
    }
}
