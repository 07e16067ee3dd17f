//! Several processes that bind the same Unix socket: at the same moment, and one after the other.
#![cfg(unix)]

use crate::support::files::Folder;
use crate::support::on_thread;
use crate::support::process::{PATIENCE, Process, part_to_play, this_binary};
use ebbtide::Listener;
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

/// Not a test by itself: the program that the tests run. It reads a line before it binds, and a line before it stops.
#[test]
fn the_program() {
    let Some(path) = part_to_play() else { return };
    let line = || io::stdin().lines().next().map(|line| line.unwrap());
    println!("READY");
    let _go = line();
    match Listener::unix(&path) {
        Ok(listener) => {
            println!("WON {listener}");
            let _stop = line();
            // The file must be found although the working directory has changed.
            std::env::set_current_dir("/").unwrap();
            drop(listener);
            println!("LEFT");
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => println!("LOST {error}"),
        Err(error) => println!("FAILED {error}"),
    }
    std::process::exit(0);
}

fn programs<const N: usize>(folder: &Folder, name: &str) -> [Process; N] {
    let programs =
        [(); N].map(|()| Process::start(this_binary(module_path!(), "the_program", name).current_dir(folder.itself())));
    programs.iter().for_each(|program| drop(program.wait_for("READY")));
    programs
}

#[test]
fn exactly_one_of_many_processes_that_find_a_stale_file_binds() {
    on_thread(|| {
        let folder = Folder::new();
        let path = folder.path("processes.sock");
        drop(UnixListener::bind(&path).unwrap()); // leaves a file, as a process does that was killed
        let mut programs: [_; 8] = programs(&folder, "processes.sock");
        programs.iter_mut().for_each(|program| program.say("go"));
        for program in &programs {
            assert!(program.prints_within(PATIENCE, "processes.sock"), "{program}");
        }
        let (mut won, lost): (Vec<_>, Vec<_>) =
            programs.into_iter().partition(|program| program.prints_within(Duration::ZERO, "WON"));
        assert_eq!(won.len(), 1);
        for program in lost {
            let ended = program.wait();
            assert!(
                ended.stdout.iter().any(|line| line.contains("LOST cannot listen on `processes.sock`")),
                "{ended:?}"
            );
        }
        UnixStream::connect(&path).expect("the winner listens at its path");
        won[0].say("stop");
        won[0].wait_for("LEFT");
        assert!(!path.exists(), "the file must be removed although its path was relative");
    });
}

/// A lock by `flock` belongs to no particular program: another one may lock the folder for a purpose of its own.
#[test]
fn a_process_that_keeps_the_folder_locked_does_not_keep_others_from_starting_and_stopping() {
    on_thread(|| {
        let folder = Folder::new();
        let path = folder.path("locked.sock");
        drop(UnixListener::bind(&path).unwrap());
        let mut locking =
            Process::start(Command::new("flock").arg(folder.itself()).args(["sh", "-c", "echo ON; read off"]));
        if !locking.prints_within(PATIENCE, "ON") {
            return println!("skipped: there is no `flock` (util-linux): {locking}");
        }
        let [mut program] = programs(&folder, "locked.sock");
        program.say("go");
        program.wait_for("WON");
        UnixStream::connect(&path).expect("the program listens at its path");
        program.say("stop");
        program.wait_for("LEFT");
        assert!(!path.exists(), "the file must be removed although the folder is locked");
        assert!(locking.is_running());
        locking.say("off");
    });
}

#[test]
fn the_file_of_a_process_that_was_killed_is_replaced() {
    on_thread(|| {
        let folder = Folder::new();
        let path = folder.path("killed.sock");
        let [mut killed] = programs(&folder, "killed.sock");
        killed.say("go");
        killed.wait_for("WON");
        let taken = Listener::unix(&path).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse, "{taken}");
        killed.send(nix::sys::signal::Signal::SIGKILL);
        drop(killed.wait());
        assert!(path.exists(), "a killed process leaves its file behind");
        drop(Listener::unix(&path).unwrap());
        assert!(!path.exists());
    });
}
