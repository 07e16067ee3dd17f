//! A small epoll wrapper: its wait is exact to the nanosecond, or does not sleep at all.

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

pub(super) struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// Never sleep: for a process with its own core that must send on time.
    pub(super) spin: bool,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(1024), spin: false })
    }

    pub(super) fn add(&self, source: impl AsFd, token: usize, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token as u64), flags)?)
    }

    /// Waits until something happens or `deadline` is reached.
    pub(super) fn wait(&mut self, deadline: Instant) -> io::Result<()> {
        let left = if self.spin { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
        let left =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&left)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the token and the flags of each event of the last wait.
    pub(super) fn events(&self) -> impl Iterator<Item = (usize, EventFlags)> {
        self.events.iter().map(|event| (usize::try_from(event.data.u64()).unwrap_or(usize::MAX), event.flags))
    }
}
