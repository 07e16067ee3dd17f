//! Random servers, with random clients, are left in random ways at random moments. After each of them every rule of
//! the crate that such a case can break is checked: R1–R14.
//!
//! ```sh
//! EBBTIDE_RANDOM_CASES=10000 cargo test --release --all-features --test open_files random_servers -- --nocapture
//! EBBTIDE_RANDOM_SEED=7 cargo test --all-features --test open_files random_servers -- --nocapture # one case
//! ```
//!
//! A seed fixes what is built and what everyone does. How the threads interleave is as random as ever; so a rare failure
//! is repeated with `EBBTIDE_RANDOM_CASES=1000` beside the seed: this case, so many times.
#![cfg(target_os = "linux")]
#![allow(unreachable_pub)] // as in `tests/support`: each module is used by its siblings

pub mod case;
pub mod checks;
pub mod clients;
pub mod doors;
pub mod environment;
pub mod exits;
mod handlers;
mod http;
mod orders;
pub mod plan;
pub mod settings;
pub mod witness;

use crate::soak::Holds;
use crate::support::dice::{lock, seeds};
use crate::support::gate::{self, Role, side_by_side};
use crate::support::{FOR_EVER, NET};
use case::Case;
use checks::Checks;
use clients::Asks;
use doors::OpenDoor;
use ebbtide::Server;
use environment::Lines;
use exits::Scene;
use futures_lite::future::poll_once;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use witness::Witness;

const IN_CI: usize = 300;
/// Cases that run at the same time. Most of their time they wait.
const AT_A_TIME: usize = 8;
/// So many cases run before the open files are counted.
const BATCH: usize = 60;
/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(45);

#[test]
fn random_servers_are_left_in_random_ways_and_break_no_rule() {
    hide_ordered_panics();
    let seeds = seeds(IN_CI);
    gate::run(Role::Alone, FOR_EVER * 24, &String::new, move || {
        let start = Instant::now();
        run_batch(&[0]); // makes keys, threads and buffers, which stay
        let before = settled(usize::MAX);
        for (n, batch) in seeds.chunks(BATCH).enumerate() {
            run_batch(batch);
            find_leak(batch, before);
            if n % 10 == 9 {
                println!("{} cases ({:.0?})", (n + 1) * BATCH, start.elapsed());
            }
        }
        println!("{} cases ({:.1?}), {before} open files before and after", seeds.len(), start.elapsed());
    });
}

/// Prints the panics that no case has ordered, and no other.
pub fn hide_ordered_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if !text.contains("as ordered") || text.contains("EBBTIDE_RANDOM_SEED") {
            eprintln!("{text}");
        }
    }));
}

/// Runs cases beside each other. Panics with the seed of one that fails.
fn run_batch(seeds: &[u64]) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None::<u64>));
    let lanes: Vec<_> = (0..AT_A_TIME.min(seeds.len())).collect();
    side_by_side(&lanes, |_| {
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            if lock(&failed).is_some() {
                return;
            }
            let alive = || format!(": {}\n{}", repeat(seed), describe(seed));
            let run = || gate::run(Role::Beside, LIMIT, &alive, move || run_case(seed));
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                *lock(&failed) = Some(seed);
            }
        }
    });
    if let Some(seed) = *lock(&failed) {
        panic!("a case fails: {}", repeat(seed));
    }
}

fn repeat(seed: u64) -> String {
    format!("EBBTIDE_RANDOM_SEED={seed} cargo test --all-features --test open_files random_servers -- --nocapture")
}

fn describe(seed: u64) -> String {
    format!("{:#?}", Case::new(seed))
}

/// Waits until at most `most` files are open. Returns how many are.
fn settled(most: usize) -> usize {
    let end = Instant::now() + NET / 4;
    loop {
        let open = Holds::now().descriptors;
        if open <= most || Instant::now() > end {
            return open;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Panics with the seed of the case that leaves files open, if one of the batch does.
fn find_leak(batch: &[u64], before: usize) {
    let open = settled(before);
    if open <= before {
        return;
    }
    for &seed in batch {
        let before = Holds::now().descriptors;
        run_batch(&[seed]);
        assert!(settled(before) <= before, "a case leaves files open: {}\n{}", repeat(seed), describe(seed));
    }
    panic!("{open} files are open, {before} were: a case of {batch:?} leaves them open, but not each time");
}

/// Opens the listeners of a case. Returns its server, and where clients connect.
pub fn open(case: &Case, name: String, witness: &Arc<Witness>) -> (Server, Vec<OpenDoor>) {
    let (listeners, doors): (Vec<_>, Vec<_>) = case.doors.iter().map(|&door| OpenDoor::new(door)).unzip();
    let mut listeners = listeners.into_iter();
    let first = Server::new(listeners.next().expect("a server has a listener")).name(name);
    (exits::configure(case, listeners.fold(first, Server::add_listener), witness), doors)
}

/// Leaves the server of a case, and checks what must hold at once.
pub fn leave<'a>(scene: &Scene<'a>, server: Server) -> Checks<'a> {
    let Scene { case, witness, handle, .. } = *scene;
    let outcome = scene.leave(server);
    for what in scene.doors.iter().filter_map(OpenDoor::release) {
        witness.violation(format!("R13: {what}"));
    }
    let at_once = async_io::block_on(poll_once(handle.closed()));
    let report = at_once.expect("`Handle::closed` is ready when control has returned");
    let checks = Checks { case, witness, handle, outcome, report };
    checks.closed();
    checks
}

/// Builds the case, runs it to its end, and checks everything. Panics with what it has found.
fn run_case(seed: u64) {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let case = Case::new(seed);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let witness = Witness::new(&case);
    let name = format!("case {seed}, {run}");
    let lines = Lines::new(&name);
    let (server, doors) = open(&case, name, &witness);
    let handle = server.handle();
    let (done, all_done) = async_std::channel::unbounded();
    let asks: Vec<_> = case
        .clients
        .iter()
        .enumerate()
        .map(|(n, &plan)| {
            let asks = Asks { n, plan, door: &doors[plan.door], http: case.http, witness: &witness, handle: &handle };
            (asks, (!plan.holds()).then(|| done.clone()))
        })
        .collect();
    drop(done);
    let (checks, (met, phases)) = std::thread::scope(|scope| {
        let clients = scope.spawn(|| clients::run_all(asks, &handle));
        let scene = Scene { case: &case, doors: &doors, witness: &witness, handle: &handle, all_done: &all_done };
        let checks = leave(&scene, server);
        (checks, clients.join().expect("clients do not panic"))
    });
    checks.server(&doors);
    checks.clients(&met, &phases);
    lines.check(checks.report.counts(), &phases, &witness);
    let violations = lock(&witness.violations);
    assert!(
        violations.is_empty(),
        "{violations:#?}\n{}\n{:?}\n{}\n{case:#?}\n{:?}\n{:?}",
        repeat(seed),
        checks.outcome,
        checks.report,
        met.iter().map(|met| (met.sent_in_time, met.got.len(), met.end)).collect::<Vec<_>>(),
        lock(&witness.events),
    );
}
