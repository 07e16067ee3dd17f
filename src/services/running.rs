//! [`Running`]: a group from the first poll of `run` to the end of its last service.
//!
//! One task, that of `run`, polls everything: the servers' futures, the tasks' handles, the shutdown streams. They are
//! few, so each wake-up polls all of them.
//!
//! 1. The services are started in order. If one of them stops the group at once, those behind it are never started.
//! 2. The first reason to stop fixes the cause and the deadline ([`Stop`]).
//! 3. From the last to the first, each service is asked to stop once the one behind it has ended. A server keeps the
//!    deadline by itself; a task is cancelled when it has passed.
//! 4. A cancel ends all of them at once.

use super::Control;
use super::error::ServiceError;
use super::observer::{GroupObserver, GroupPhase, GroupView, Observed};
use super::reports::{ServiceEnd, ServiceReports};
use super::service::{Ended, Service, ServiceFailure, log_dropped, log_dropped_panic};
use crate::group::Executor;
use crate::panic::{self, Payload, catch, drop_caught, log_line};
use crate::run::report::Cause;
use crate::server::config::GRACE;
use crate::server::progress::LogQueue;
use crate::server::shutdown::ShutdownStream;
use crate::span::Span;
use crate::sync::event::EventPlace;
use async_io::Timer;
use log::Level;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often a line reports that a task which is cancelled blocks its thread.
const BLOCKED: Duration = Duration::from_secs(1);

/// Services in the order in which they were added. The drop cancels and joins them in the reverse order.
#[derive(Debug, Default)]
pub(super) struct Services(pub(super) Vec<Service>);

impl Drop for Services {
    fn drop(&mut self) {
        while let Some(last) = self.0.pop() {
            drop_caught(last);
        }
    }
}

/// A shutdown stream of the group.
pub(super) struct Following {
    stream: ShutdownStream,
    /// How many items it has had.
    items: usize,
    /// It has ended, panicked, or cancelled the group.
    is_done: bool,
}

impl Following {
    pub(super) fn new(stream: ShutdownStream) -> Self {
        Self { stream, items: 0, is_done: false }
    }
}

/// Why the group stops, and until when.
#[derive(Clone, Copy, Debug)]
struct Stop {
    /// For the reports of the servers that are asked.
    cause: Cause,
    at: Instant,
    /// `None`: no limit.
    deadline: Option<Instant>,
}

impl Stop {
    fn at_once(cause: Cause) -> Self {
        let now = Instant::now();
        Self { cause, at: now, deadline: Some(now) }
    }
}

/// A group that runs. Its drop cancels and joins all services, in the reverse order.
pub(super) struct Running {
    services: Services,
    streams: Vec<Following>,
    control: Arc<Control>,
    /// Places among the waiters for the two events of `control`.
    places: [EventPlace; 2],
    /// The limit of the exit, if it was set.
    grace: Option<Option<Duration>>,
    /// Runs the tasks and the queue of log lines.
    executor: Executor,
    is_started: bool,
    stop: Option<Stop>,
    is_cancelled: bool,
    /// The server whose end stopped the group.
    culprit: Option<usize>,
    /// Failures, with the services' indexes, in the order in which they were noticed.
    failures: Vec<(usize, ServiceFailure)>,
    /// The panic of a server's future, with the server's index. It continues once all have ended.
    panic: Option<(usize, Payload)>,
    /// For the deadline of the task that is asked to stop; then for the lines about a task that blocks its thread.
    timer: Timer,
    /// Made for the first line.
    lines: Option<LogQueue>,
    /// `Some` until the start, if there is an observer.
    observer: Option<Box<dyn GroupObserver>>,
    /// The same from the start on.
    observed: Option<Observed>,
}

impl Running {
    pub(super) fn new(
        (services, streams): (Services, Vec<Following>),
        control: Arc<Control>,
        grace: Option<Option<Duration>>,
        executor: Executor,
        observer: Option<Box<dyn GroupObserver>>,
    ) -> Self {
        Self {
            services,
            streams,
            control,
            places: Default::default(),
            grace,
            executor,
            is_started: false,
            stop: None,
            is_cancelled: false,
            culprit: None,
            failures: Vec::new(),
            panic: None,
            timer: Timer::never(),
            lines: None,
            observer,
            observed: None,
        }
    }

    /// Ready once all services have ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_control(cx);
        if !std::mem::replace(&mut self.is_started, true) {
            self.start(cx);
        }
        self.poll_streams(cx);
        for index in 0..self.services.0.len() {
            self.poll_service(index, cx);
        }
        while let Some(stop) = self.stop {
            let Some(last) = self.services.0.iter().rposition(|service| service.end.is_none()) else { break };
            if !self.services.0[last].is_asked {
                self.ask(last, stop);
            } else if self.poll_deadline(last, stop, cx).is_pending() {
                break;
            }
            self.poll_service(last, cx);
        }
        if self.observed.as_ref().is_some_and(|observed| observed.is_changed) {
            self.report_change();
        }
        match self.services.0.iter().all(|service| service.end.is_some()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Starts the services in order, until the group stops.
    fn start(&mut self, cx: &mut Context<'_>) {
        if let Some(observer) = self.observer.take() {
            let lines = self.lines().clone();
            let log = Box::new(move |level, text: String| lines.put(level, move || log_line(&level, None, &text)));
            self.observed = Some(Observed::begin(observer, &self.services, self.executor.clone(), log));
            if self.stop.is_some() {
                self.report_change(); // a handle has asked for it before the start
            }
        }
        for index in 0..self.services.0.len() {
            if self.stop.is_some() {
                return;
            }
            self.services.0[index].start(&self.executor);
            self.poll_service(index, cx);
        }
    }

    /// Looks at the requests of handles.
    fn poll_control(&mut self, cx: &mut Context<'_>) {
        let control = Arc::clone(&self.control);
        let [shutdown, cancel] = &mut self.places;
        let (shutdown, cancel) = (shutdown.poll(&control.shutdown, cx), cancel.poll(&control.cancel, cx));
        if cancel.is_ready() {
            self.cancel(Cause::Cancel, "it was cancelled");
        } else if shutdown.is_ready() {
            self.stop(Cause::Shutdown, Level::Info, "a shutdown was requested");
        }
    }

    /// The first item of a shutdown stream stops the group, the second cancels it. A panic counts as the first.
    fn poll_streams(&mut self, cx: &mut Context<'_>) {
        let mut streams = std::mem::take(&mut self.streams);
        for following in &mut streams {
            while !following.is_done {
                let stream = following.stream.get_mut().as_mut();
                match catch(|| stream.poll_next(cx)) {
                    Ok(Poll::Pending) => break,
                    Ok(Poll::Ready(None)) => following.is_done = true,
                    Ok(Poll::Ready(Some(by))) => {
                        let cause = by.map_or(Cause::Stream, Cause::Signal);
                        following.items += 1;
                        following.is_done = following.items == 2;
                        match following.is_done {
                            false => self.request(cause),
                            true => self.cancel(cause, &format!("{cause} again")),
                        }
                    }
                    Err(payload) => {
                        following.is_done = true;
                        self.stream_panicked(panic::message(&payload));
                        panic::discard(payload);
                    }
                }
            }
        }
        self.streams = streams;
    }

    /// A stream requests the stop. If another one did before, the lame duck of the server that is asked now ends.
    fn request(&mut self, cause: Cause) {
        if self.stop.is_none() {
            return self.stop(cause, Level::Info, &cause.to_string());
        }
        if let Some(asked) = self.services.0.iter().rfind(|service| service.is_asked && service.end.is_none()) {
            asked.ask_again(cause);
        }
    }

    /// A panic of a stream is a request, and is logged even if the group stops already.
    fn stream_panicked(&mut self, message: &str) {
        let why = format!("a shutdown stream panicked: {message}");
        if self.stop.is_none() {
            return self.stop(Cause::Stream, Level::Error, &why);
        }
        self.request(Cause::Stream);
        self.log(Level::Error, None, format!("in a group of services that stops, {why}"));
    }

    /// Polls one service, and draws the conclusions of its end.
    fn poll_service(&mut self, index: usize, cx: &mut Context<'_>) {
        if self.stop.is_none() {
            if let Poll::Ready(cause) = self.services.0[index].poll_requested(cx) {
                self.culprit = Some(index);
                let of_others = if matches!(cause, Cause::Signal(_)) { cause } else { Cause::Shutdown };
                let why = format!("the server `{}` stops, because {cause}", self.services.0[index].name);
                self.stop(of_others, Level::Info, &why);
            }
        }
        let Poll::Ready(ended) = self.services.0[index].poll(cx) else { return };
        self.note_change();
        match ended {
            Ended::Well => {}
            Ended::Failed(failure) => self.fail(index, failure),
            Ended::ServePanicked(payload) => {
                let name = &self.services.0[index].name;
                let why = format!("the server `{name}` panicked: {}", panic::message(&payload));
                self.note(Level::Error, index, &why);
                match &self.panic {
                    None => self.panic = Some((index, payload)),
                    Some(_) => panic::discard(payload), // the first one continues
                }
            }
        }
    }

    /// Keeps a failure, and stops the group.
    fn fail(&mut self, index: usize, failure: ServiceFailure) {
        let (name, text) = (&self.services.0[index].name, failure.text());
        let (level, why) = match &failure {
            ServiceFailure::Server(_) => (Level::Warn, format!("the server `{name}` failed: {text}")),
            ServiceFailure::Task(_) => (Level::Warn, format!("the task `{name}` failed: {text}")),
            ServiceFailure::TaskPanicked(_) => (Level::Error, format!("the task `{name}` panicked: {text}")),
            ServiceFailure::TaskDropped => (Level::Error, format!("the executor has dropped the task `{name}`")),
        };
        self.failures.push((index, failure));
        self.note(level, index, &why);
    }

    /// Stops the group because of a failure, which is logged even if the group stops already.
    fn note(&mut self, level: Level, index: usize, why: &str) {
        match self.stop {
            None => self.stop(Cause::Shutdown, level, why),
            Some(_) => self.log(level, Some(index), format!("in a group of services that stops, {why}")),
        }
    }

    /// Begins to stop, unless that has begun.
    fn stop(&mut self, cause: Cause, level: Level, why: &str) {
        if self.stop.is_some() {
            return;
        }
        let at = Instant::now();
        let allowance = self.grace.unwrap_or_else(|| self.longest_allowance());
        let deadline = allowance.and_then(|allowance| at.checked_add(allowance));
        self.stop = Some(Stop { cause, at, deadline });
        self.report_change(); // before a server is asked: the deadline is the group's
        let limit = match allowance {
            Some(allowance) => format!("for at most {}", Span(allowance)),
            None => "without a limit".to_owned(),
        };
        let text = match self.left() {
            0 => format!("the last service of its group has ended: {why}"),
            1 => format!("stopping a service {limit}: {why}"),
            left => format!("stopping {left} services, one after the other, {limit}: {why}"),
        };
        self.log(level, None, text);
    }

    /// Returns how many services have not ended.
    fn left(&self) -> usize {
        self.services.0.iter().filter(|service| service.end.is_none()).count()
    }

    /// Returns the longest time that a server's exit may last; the default grace if there is no server.
    fn longest_allowance(&self) -> Option<Duration> {
        let mut all = self.services.0.iter().filter_map(Service::allowance).peekable();
        match all.peek() {
            Some(_) => all.try_fold(Duration::ZERO, |longest, own| own.map(|own| longest.max(own))),
            None => Some(GRACE),
        }
    }

    fn ask(&mut self, index: usize, stop: Stop) {
        self.services.0[index].ask(stop.cause, stop.deadline);
        self.note_change();
        self.timer = stop.deadline.map_or_else(Timer::never, Timer::at);
        self.log(Level::Info, Some(index), format!("asked the {:?} to stop", self.services.0[index]));
    }

    /// Ready if a task that was asked to stop has to be polled again, because its deadline has passed.
    fn poll_deadline(&mut self, index: usize, stop: Stop, cx: &mut Context<'_>) -> Poll<()> {
        if self.services.0[index].needs_cancel() {
            if stop.deadline.is_none_or(|deadline| Instant::now() < deadline) && self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
            self.services.0[index].cancel(Cause::Cancel);
            self.note_change();
            self.timer.set_after(BLOCKED);
            let task = format!("cancelled the {:?} at the end of the grace period", self.services.0[index]);
            self.log(Level::Warn, Some(index), task);
            return Poll::Ready(());
        }
        while self.services.0[index].is_task() && self.poll_timer(cx).is_ready() {
            self.timer.set_after(BLOCKED);
            let why = "which blocks its thread (work that blocks is for `spawn_blocking`)";
            self.log(Level::Warn, Some(index), format!("still waiting for the {:?}, {why}", self.services.0[index]));
        }
        Poll::Pending
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.timer).poll(cx).map(drop)
    }

    /// Cancels all services at once.
    fn cancel(&mut self, cause: Cause, why: &str) {
        if std::mem::replace(&mut self.is_cancelled, true) {
            return;
        }
        self.stop.get_or_insert_with(|| Stop::at_once(cause));
        self.report_change();
        let left = self.left();
        for service in self.services.0.iter_mut().rev() {
            service.cancel(cause);
        }
        self.note_change();
        self.timer.set_after(BLOCKED);
        let services = if left == 1 { "service" } else { "services" };
        self.log(Level::Info, None, format!("cancelling {left} {services} at once: {why}"));
    }

    /// Queues a log line, so that a stuck logger holds up neither a request nor a deadline.
    fn log(&mut self, level: Level, index: Option<usize>, text: String) {
        let service = index.map(|index| Arc::clone(&self.services.0[index].name));
        self.lines().put(level, move || log_line(&level, service.as_deref(), &text));
    }

    fn lines(&mut self) -> &LogQueue {
        self.lines.get_or_insert_with(|| LogQueue::new(self.executor.clone()))
    }

    /// The observer has to be called before this poll ends.
    fn note_change(&mut self) {
        if let Some(observed) = &mut self.observed {
            observed.is_changed = true;
        }
    }

    /// Calls the observer with what the group is doing now.
    fn report_change(&mut self) {
        let Some(observed) = &mut self.observed else { return };
        let phase = match (self.is_cancelled, self.is_started) {
            (true, _) => GroupPhase::Cancelling,
            (false, true) => GroupPhase::Running,
            (false, false) => GroupPhase::Starting,
        };
        let services = self.services.0.iter().filter_map(Service::view).collect();
        let deadline = |stop: Stop| if self.is_cancelled { Some(stop.at) } else { stop.deadline };
        let request = self.stop.map(|stop| (stop.at, deadline(stop)));
        if let Some(failure) = observed.changed(GroupView { phase, request, services }) {
            self.log(Level::Warn, None, failure);
        }
    }

    /// Returns the reports, or the first failure. All services must have ended.
    pub(super) async fn finish(mut self) -> Result<ServiceReports, ServiceError> {
        let reports = self.reports();
        if let Some(observed) = self.observed.take() {
            if let Some(failure) = observed.end(reports.line()) {
                self.log(Level::Warn, None, failure);
            }
        }
        if let Some(lines) = self.lines.take() {
            lines.finish().await;
        }
        if let Some((_, payload)) = self.panic.take() {
            drop(self);
            resume_unwind(payload);
        }
        let mut failures = std::mem::take(&mut self.failures).into_iter();
        let Some((index, first)) = failures.next() else { return Ok(reports) };
        let service = Arc::clone(&self.services.0[index].name);
        drop_caught(failures); // they are in the reports, and were logged
        Err(ServiceError::new(service, first, reports))
    }

    /// Puts the first failure first, and returns the reports.
    fn reports(&mut self) -> ServiceReports {
        let elapsed = self.stop.map_or(Duration::ZERO, |stop| stop.at.elapsed());
        // A server that stopped the group by a failure has failed first, although its error came after its drain.
        if let Some(first) = self.failures.iter().position(|(index, _)| Some(*index) == self.culprit) {
            self.failures[..=first].rotate_right(1);
        }
        let name = |index: usize| Arc::clone(&self.services.0[index].name);
        let failures = self.failures.iter().map(|(index, failure)| (name(*index), failure.text())).collect();
        let ends = self.services.0.iter().map(|service| {
            let end = service.end.clone().unwrap_or(ServiceEnd::Server(None)); // not reached: all have ended
            (Arc::clone(&service.name), end)
        });
        ServiceReports { ends: ends.collect(), failures, elapsed }
    }
}

fn log_line(level: &Level, service: Option<&str>, text: &str) {
    match service {
        Some(service) => log_line!(*level, service:% = service; "{text}"),
        None => log_line!(*level, "{text}"),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let [shutdown, cancel] = &mut self.places;
        shutdown.give_up(&self.control.shutdown);
        cancel.give_up(&self.control.cancel);
        if self.observed.is_some() {
            self.is_cancelled = true;
            self.stop.get_or_insert_with(|| Stop::at_once(Cause::Dropped));
            self.report_change();
        }
        let names: Vec<_> = self.services.0.iter().map(|service| Arc::clone(&service.name)).collect();
        drop(std::mem::take(&mut self.services)); // cancels and joins all
        for (index, failure) in self.failures.drain(..) {
            log_dropped(&names[index], &failure);
            drop_caught(failure);
        }
        if let Some((index, payload)) = self.panic.take() {
            log_dropped_panic(&names[index], panic::message(&payload));
            panic::discard(payload);
        }
    }
}
