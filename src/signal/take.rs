//! Takes signals from the system on Unix: installs a handler for each signal that is asked for, for the life of the
//! process.
//!
//! One thread reads each signal. It needs no executor and no reactor, so the third signal exits even if those hang. A
//! thread can also unblock a signal for itself, and then the process receives it.
//!
//! `ctrlc` takes SIGINT. `signal-hook` takes the others; its handlers call those that were installed before. `ctrlc`
//! may be built with its feature `termination`, which cannot be seen at compile time:
//!
//! - If SIGTERM is wanted as well, it is taken first. `ctrlc` with the feature then finds a handler, changes nothing,
//!   and returns an error. `ctrlc` without the feature takes SIGINT.
//! - If SIGINT alone is wanted, the dispositions before and after are compared. If `ctrlc` has taken more, its callback
//!   is disabled, and `signal-hook` takes these signals as well, to give them their default effect.

use super::disposition::{Disposition, Dispositions};
use super::{Note, Signal, lock, on_signal};
use crate::text::{explained, explained_by};
use log::Level;
use nix::sys::signal::{SigSet, Signal as Number};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

/// The signals that are taken. The lock is held during an installation, so that there is one at a time.
static TAKEN: Mutex<Taken> = Mutex::new(Taken { by: 0, signals: Vec::new() });

struct Taken {
    /// The id of the process with the threads that read the signals; 0: none yet. A forked child has none of these
    /// threads.
    by: u32,
    signals: Vec<Signal>,
}

/// Whether the callback of `ctrlc` does nothing, because `signal-hook` reads SIGINT.
static CTRLC_IS_DISABLED: AtomicBool = AtomicBool::new(false);

/// Takes the signals that are not taken yet. The caller logs the notes when it holds no lock.
pub(super) fn take(signals: &[Signal]) -> (io::Result<()>, Vec<Note>) {
    let mut notes = Vec::new();
    if let Err(error) = take_again_if_forked() {
        return (Err(error), notes);
    }
    let mut taken = lock(&TAKEN);
    set_owner(&mut taken, std::process::id());
    let wanted: Vec<_> = signals.iter().copied().filter(|signal| !taken.signals.contains(signal)).collect();
    (wanted.into_iter().try_for_each(|signal| take_one(signal, &mut taken.signals, &mut notes)), notes)
}

/// A copy of [`Taken::by`] that is read without the lock: a hint.
static OWNER: AtomicU32 = AtomicU32::new(0);

fn set_owner(taken: &mut Taken, here: u32) {
    taken.by = here;
    OWNER.store(here, Ordering::Release);
}

/// Starts the reading threads again in a forked child. The child has the handlers of its parent, but no thread that
/// reads what they write.
pub(super) fn take_again_if_forked() -> io::Result<()> {
    let here = std::process::id();
    let owner = OWNER.load(Ordering::Acquire);
    if owner == 0 || owner == here {
        return Ok(());
    }
    let mut taken = lock(&TAKEN);
    if taken.by == here {
        return Ok(());
    }
    let before = std::mem::take(&mut taken.signals);
    CTRLC_IS_DISABLED.store(true, Ordering::SeqCst);
    set_owner(&mut taken, here);
    for signal in before {
        read_on_a_thread(signal)?;
        taken.signals.push(signal);
    }
    Ok(())
}

/// Takes one signal, unless it is ignored.
fn take_one(signal: Signal, taken: &mut Vec<Signal>, notes: &mut Vec<Note>) -> io::Result<()> {
    let mut note = |level, signal, text| notes.push(Note { level, signal, text });
    let before = Dispositions::now();
    let disposition = before.as_ref().map(|found| found.of(signal));
    if disposition == Some(Disposition::Ignored) {
        let (level, text) = match signal {
            // Nothing usual ignores SIGTERM, and without it only SIGKILL stops a server.
            Signal::Terminate => (
                Level::Warn,
                "the program that started this one has set it so (`trap '' TERM`?), and it cannot stop this one: \
                 start it without that, or stop it by another signal",
            ),
            _ => (Level::Info, "the program that started this one has set it so (`nohup`, or `&` in a shell script)"),
        };
        note(level, signal, format!("{signal} stays ignored: {text}"));
        return Ok(());
    }
    if disposition == Some(Disposition::Caught) {
        let text = format!("{signal} has a handler already, of another part of this program: it is called first");
        note(Level::Info, signal, text);
    }
    let blocked = is_blocked_here(signal);
    if blocked {
        let by = "by the program that started this one, or by this thread";
        let text =
            format!("{signal} was blocked, {by}, and would have had no effect: a thread unblocks it and listens");
        note(Level::Warn, signal, text);
    }
    let is_plain = !blocked && disposition != Some(Disposition::Caught);
    if signal == Signal::Interrupt && is_plain && ctrlc::try_set_handler(on_ctrl_c).is_ok() {
        let more: Vec<_> = match (before, Dispositions::now()) {
            (Some(before), Some(after)) => Signal::ALL
                .into_iter()
                .filter(|other| *other != signal && !taken.contains(other) && before.of(*other) != after.of(*other))
                .collect(),
            _ => Vec::new(),
        };
        if more.is_empty() {
            taken.push(signal);
            return Ok(());
        }
        for other in more {
            read_on_a_thread(other)?;
            taken.push(other);
            let text = format!(
                "{other} keeps its effect, though the crate `ctrlc` has a handler for it: another crate of this \
                 program turns on its feature `termination`"
            );
            note(Level::Info, other, text);
        }
    }
    // Also if `ctrlc` returned an error: it has the feature, or the program itself has set a handler through it.
    read_on_a_thread(signal)?;
    if signal == Signal::Interrupt {
        CTRLC_IS_DISABLED.store(true, Ordering::SeqCst);
    }
    taken.push(signal);
    Ok(())
}

/// The callback of `ctrlc`, which calls it on its own thread.
fn on_ctrl_c() {
    if !CTRLC_IS_DISABLED.load(Ordering::SeqCst) {
        on_signal(Signal::Interrupt);
    }
}

/// Starts a thread that reads this signal for the life of the process. The handler is installed when this returns.
fn read_on_a_thread(signal: Signal) -> io::Result<()> {
    let (installed, result) = mpsc::sync_channel(1);
    let read = move || {
        let mut signals = match signal_hook::iterator::Signals::new([signal.number()]) {
            Ok(signals) => signals,
            Err(error) => return drop(installed.send(Err(error))),
        };
        let unblocked = set_of(signal).thread_unblock().map_err(io::Error::from);
        drop(installed.send(unblocked));
        for _ in signals.forever() {
            on_signal(signal);
        }
    };
    let started = thread::Builder::new().name(format!("ebbtide-{signal}")).spawn(read);
    let died = |_| Err(explained(io::ErrorKind::Other, "the thread that reads it has ended"));
    let installed = started.and_then(|_detached| result.recv().unwrap_or_else(died));
    installed.map_err(|error| {
        let text = format!("cannot take {signal}: {error}");
        explained_by(error, text)
    })
}

/// Does what the signal does to a program without a handler: ends the process by that signal.
pub(super) fn default_effect(signal: Signal) {
    let _ended = signal_hook::low_level::emulate_default_handler(signal.number());
}

/// Returns whether this thread blocks the signal. Then all threads do, unless the program itself sets a mask.
fn is_blocked_here(signal: Signal) -> bool {
    SigSet::thread_get_mask().is_ok_and(|mask| set_of(signal).iter().any(|number| mask.contains(number)))
}

fn set_of(signal: Signal) -> SigSet {
    SigSet::from(match signal {
        Signal::Interrupt => Number::SIGINT,
        Signal::Terminate => Number::SIGTERM,
        Signal::Hangup => Number::SIGHUP,
        Signal::User1 => Number::SIGUSR1,
    })
}
