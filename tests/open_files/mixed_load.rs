//! R11: generations of servers under a mixed load, each left in a random way, leave no descriptor, no thread and no
//! memory behind.
//!
//! In a generation two servers run at the same time, one of which speaks HTTP. Each has listeners of all kinds, with and
//! without TLS and PROXY headers. The clients, the handlers and the ways out are those of `random_servers`, and so are
//! the checks after each server. Between two generations nothing runs: then the process must hold what it held after
//! the first ones.
//!
//! An hour, with a row of figures each minute:
//!
//! ```sh
//! EBBTIDE_SOAK_MINUTES=60 cargo test --release --all-features --test open_files mixed_load -- --nocapture
//! ```
#![cfg(target_os = "linux")]

use crate::random_servers::case::{ABRUPT, Base, Case, Door, Exit, GRACEFUL, Moment, Proxy};
use crate::random_servers::checks::Got;
use crate::random_servers::clients::Asks;
use crate::random_servers::doors::OpenDoor;
use crate::random_servers::exits::Scene;
use crate::random_servers::plan::{Client, Order, client};
use crate::random_servers::settings::{MS, Settings};
use crate::random_servers::witness::Witness;
use crate::random_servers::{hide_ordered_panics, leave, open};
use crate::soak::Holds;
use crate::support::dice::{Dice, lock};
use crate::support::gate::{self, Role, side_by_side};
use crate::support::{FOR_EVER, NET};
use async_io::Timer;
use ebbtide::{Counts, Handle};
use futures_concurrency::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the load lasts if `EBBTIDE_SOAK_MINUTES` is not set.
const IN_CI: Duration = Duration::from_secs(2);
/// A generation that is not over so long after its load hangs.
const LIMIT: Duration = NET;
/// Clients of each server at a time.
const LANES: usize = 24;
/// The live bytes may differ by so much between two quiet moments: the tables and queues of the executor and of the
/// reactor keep the size of their peak, and double when a later peak is higher.
const TABLES: usize = 64 << 10;

/// How long everything lasts.
struct Length {
    /// Generations before the first look: pools, tables and queues grow to their sizes.
    warm_up: u64,
    whole: Duration,
    /// Between two rows of figures.
    row: Duration,
    /// The load of a generation.
    shortest: Duration,
    longest: Duration,
}

impl Length {
    fn new() -> Self {
        match std::env::var("EBBTIDE_SOAK_MINUTES") {
            Err(_) => Self { warm_up: 3, whole: IN_CI, row: MS(1000), shortest: MS(200), longest: MS(500) },
            Ok(text) => {
                let minutes: u64 =
                    text.parse().unwrap_or_else(|_| panic!("EBBTIDE_SOAK_MINUTES is a number, not `{text}`"));
                Self {
                    warm_up: 5,
                    whole: Duration::from_secs(60 * minutes),
                    row: Duration::from_secs(60),
                    shortest: Duration::from_secs(1),
                    longest: Duration::from_secs(15),
                }
            }
        }
    }

    /// Returns the time of a generation's load.
    fn generation(&self, dice: &mut Dice) -> Duration {
        self.shortest + MS(dice.below((self.longest - self.shortest).as_millis() as usize) as u64)
    }
}

/// Sums over all generations.
#[derive(Default)]
struct Totals {
    generations: u64,
    accepted: u64,
    refused: u64,
    ends: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, counts: &Counts) {
        self.accepted += counts.accepted();
        self.refused += counts.refused();
        for (reason, number) in counts.by_reason().filter(|&(_, number)| number > 0) {
            *self.ends.entry(reason.as_str()).or_default() += number;
        }
    }

    fn row(&self, time: Duration, holds: &Holds) {
        let ends: Vec<_> = self.ends.iter().map(|(reason, number)| format!("{reason} {number}")).collect();
        println!(
            "{:>6.0} s | {:>5} | {:>9} | {:>7} | {:>5} | {:>7} | {:>8} KiB | {:>9} | {}",
            time.as_secs_f32(),
            self.generations,
            self.accepted,
            self.refused,
            holds.descriptors,
            holds.threads,
            holds.resident_kib,
            holds.live_bytes,
            ends.join(", ")
        );
    }
}

const HEAD: &str =
    "    time |  gen. |  accepted | refused | files | threads |     resident | live bytes | ends, by their reasons";

#[test]
fn r11_generations_under_a_mixed_load_leave_nothing_behind() {
    hide_ordered_panics();
    gate::run(Role::Alone, FOR_EVER * 24, &String::new, || {
        let (length, mut dice, mut totals) = (Length::new(), Dice::new(0x50a4), Totals::default());
        for _ in 0..length.warm_up {
            generation(&mut totals, &mut dice, &length);
        }
        let before = settled();
        println!("{HEAD}");
        totals.row(Duration::ZERO, &before);
        let (start, mut rows) = (Instant::now(), 0);
        while start.elapsed() < length.whole {
            generation(&mut totals, &mut dice, &length);
            let after = assert_level(before, &totals);
            if start.elapsed() >= length.row * (rows + 1) || start.elapsed() >= length.whole {
                totals.row(start.elapsed(), &after);
                rows = (start.elapsed().as_millis() / length.row.as_millis()) as u32;
            }
        }
        let ends: u64 = totals.ends.values().sum();
        assert_eq!(totals.accepted, ends, "R9: ends {:?}", totals.ends);
        assert!(totals.ends.contains_key("completed"), "no connection has completed: {:?}", totals.ends);
    });
}

/// Waits until descriptors and threads are the same for a second: threads for blocking work end when they are idle.
fn settled() -> Holds {
    let (end, mut since, mut last) = (Instant::now() + NET, Instant::now(), Holds::now());
    while since.elapsed() < Duration::from_secs(1) && Instant::now() < end {
        std::thread::sleep(MS(20));
        let now = Holds::now();
        if (now.descriptors, now.threads) != (last.descriptors, last.threads) {
            since = Instant::now();
        }
        last = now;
    }
    last
}

/// Waits until the process holds no more than before. Fails if it does not come to that.
fn assert_level(before: Holds, totals: &Totals) -> Holds {
    let end = Instant::now() + NET / 4;
    loop {
        let now = Holds::now();
        let grown = now.live_bytes.saturating_sub(before.live_bytes);
        if now.descriptors <= before.descriptors && now.threads <= before.threads && grown <= TABLES {
            return now;
        }
        assert!(
            Instant::now() < end,
            "left behind after {} generations and {} connections: {now:?}, before: {before:?}",
            totals.generations,
            totals.accepted
        );
        std::thread::sleep(MS(5));
    }
}

/// Runs two servers, one of them with HTTP, until both have ended.
fn generation(totals: &mut Totals, dice: &mut Dice, length: &Length) {
    totals.generations += 1;
    let (number, time) = (totals.generations, length.generation(dice));
    let all = Mutex::new(totals);
    let servers = [false, true].map(|http| (http, dice.fork()));
    let with_dice = |http: bool| servers[usize::from(http)].1.clone();
    side_by_side(&[false, true], |http| {
        let case = case(&mut with_dice(http), http, time);
        let alive = format!(": generation {number}, HTTP: {http}, {:?}", case.exit);
        let dice = with_dice(http);
        let counts = gate::run(Role::Beside, time + LIMIT, &|| alive.clone(), move || run(&case, number, dice));
        lock(&all).add(&counts);
    });
}

/// The listeners of a server. The last one can be told to fail.
const DOORS: [(Base, Proxy, bool); 13] = [
    (Base::Tcp, Proxy::No, false),
    (Base::Tcp, Proxy::No, true),
    (Base::Tcp, Proxy::Required, false),
    (Base::Tcp, Proxy::Optional, true),
    (Base::Inherited, Proxy::No, false),
    (Base::InheritedUnix, Proxy::No, false),
    (Base::Unix, Proxy::No, false),
    (Base::Unix, Proxy::Required, true),
    (Base::Abstract, Proxy::No, false),
    (Base::Memory, Proxy::No, false),
    (Base::Memory, Proxy::No, true),
    (Base::Custom, Proxy::Optional, false),
    (Base::Custom, Proxy::No, false),
];

/// Returns a server that is left in a random way when its load has lasted for this time.
fn case(dice: &mut Dice, http: bool, time: Duration) -> Case {
    let exit = loop {
        let exits = if dice.chance(50) { GRACEFUL } else { ABRUPT };
        match dice.pick(exits) {
            Exit::HandlerFails if http => {} // a fault of a service is no fault of its handler
            exit => break exit,
        }
    };
    let moment = match exit {
        Exit::NeverServed | Exit::NeverPolled => MS(50), // its clients wait in vain
        _ => time,
    };
    let settings = Settings {
        grace: Some(dice.pick(&[MS(0), MS(20), MS(300), MS(2000)])),
        newcomer_time: dice.pick(&[MS(0), MS(50)]),
        max_connections: dice.pick(&[8, 30, 100]),
        per_ip: dice.chance(30).then_some(6),
        idle: Some(MS(400)),
        write: Some(MS(300)),
        first_byte: Some(MS(200)),
        age: Some(MS(700)), // ends also handlers that ignore everything
        stops_on_failure: exit == Exit::HandlerFails,
        ..Settings::wild(dice)
    };
    Case {
        tame: false,
        crowded: false,
        http,
        doors: DOORS.map(|(base, proxy, tls)| Door::plain(base, proxy, tls)).to_vec(),
        settings,
        clients: Vec::new(), // they come by `lane`
        tasks: dice.below(4),
        exit,
        moment: Moment::After(moment),
    }
}

/// Runs a server under load, leaves it, and checks everything. Panics with what it has found.
fn run(case: &Case, number: u64, mut dice: Dice) -> Counts {
    let witness = Witness::new(case);
    let (server, doors) = open(case, format!("generation {number}, HTTP: {}", case.http), &witness);
    let handle = server.handle();
    let (_done, all_done) = async_std::channel::unbounded();
    let checks = std::thread::scope(|scope| {
        let load = Load { case, doors: &doors, witness: &witness, handle: &handle };
        let lanes: Vec<_> = (0..LANES).map(|n| Box::pin(load.lane(n, dice.fork()))).collect();
        let clients = scope.spawn(|| async_io::block_on(lanes.join()));
        let scene = Scene { case, doors: &doors, witness: &witness, handle: &handle, all_done: &all_done };
        let checks = leave(&scene, server);
        clients.join().expect("clients do not panic");
        checks
    });
    checks.server(&doors);
    let violations = lock(&witness.violations);
    assert!(
        violations.is_empty(),
        "generation {number}: {violations:#?}\n{:?}\n{:?}\n{case:?}",
        checks.outcome,
        checks.report
    );
    checks.report.counts().clone()
}

/// What the clients of a server share.
#[derive(Clone, Copy)]
struct Load<'a> {
    case: &'a Case,
    doors: &'a [OpenDoor],
    witness: &'a Witness,
    handle: &'a Handle,
}

impl Load<'_> {
    /// Runs one client after the other until the server was left.
    async fn lane(self, n: usize, mut dice: Dice) {
        while !self.witness.left.1.is_closed() {
            let plan = self.client(&mut dice);
            let door = &self.doors[plan.door];
            let asks = Asks { n, plan, door, http: self.case.http, witness: self.witness, handle: self.handle };
            let patience = MS(dice.pick(&[20, 200, 2000]));
            let loses_patience = async {
                Timer::after(patience).await;
                None
            };
            let met = (async { Some(asks.run().await) }, loses_patience).race().await;
            let got = met.as_ref().and_then(|met| Got::new(self.case, n, &plan, met));
            if got.is_some_and(|got| got.is_wrong()) {
                self.witness.violation(format!("R10: client {n} has read wrong bytes: {plan:?}"));
            }
            let escaped = std::mem::take(&mut *lock(&self.witness.escaped)); // the server must not run out of files
            drop(escaped);
        }
    }

    fn client(&self, dice: &mut Dice) -> Client {
        let mut client = client(dice, self.doors.len(), false, false);
        client.order = match client.order {
            Order::Stops => Order::Reply, // would end the load
            Order::Fails | Order::Panics | Order::TaskPanics if self.case.settings.stops_on_failure => Order::Echo,
            order => order,
        };
        client
    }
}
