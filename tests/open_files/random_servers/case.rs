//! What one case is: a server, its clients, and a way out, all built from the case's seed.
//!
//! Half of the cases are *tame*: the grace is long, and no client or handler keeps a drain from ending. There every
//! request that was sent before the server was asked to stop must be answered. The others are *wild*: there any reply
//! may be cut, but nothing may be left, and the counts must add up.

use super::environment::Faults;
use super::plan::{Client, Manner, Order, client};
use super::settings::{MS, Settings};
use crate::support::dice::Dice;
use std::time::Duration;

/// Where the connections of one listener come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Base {
    Tcp,
    /// An inherited socket may have other holders, so a shutdown leaves its backlog to them.
    Inherited,
    InheritedUnix,
    Unix,
    Abstract,
    Memory,
    Custom,
}

/// How a listener's connections begin. Without the feature a layer is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Proxy {
    No,
    Optional,
    Required,
}

#[derive(Clone, Copy, Debug)]
pub struct Door {
    pub base: Base,
    pub proxy: Proxy,
    pub tls: bool,
    /// Another process, so to say, has the inherited socket too.
    pub is_held: bool,
    pub nonblocking: bool,
    /// Accepts of a custom listener that fail before each client.
    pub faults: Faults,
}

/// How the server is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exit {
    BodyOk,
    BodyErr,
    BodyPanics,
    Shutdown,
    Within(Duration),
    Stream,
    Future,
    ListenerFails,
    ListenerPanics,
    HandlerFails,
    // These cut.
    Cancel,
    StreamTwice,
    ShutdownThenCancel,
    Timeout,
    TaskCancelled,
    Unwinds,
    DropInDrain,
    NeverServed,
    NeverPolled,
}

pub const GRACEFUL: &[Exit] = &[
    Exit::BodyOk,
    Exit::BodyErr,
    Exit::BodyPanics,
    Exit::Shutdown,
    Exit::Stream,
    Exit::Future,
    Exit::ListenerFails,
    Exit::ListenerPanics,
    Exit::HandlerFails,
];
pub const ABRUPT: &[Exit] = &[
    Exit::Within(Duration::from_millis(20)),
    Exit::Cancel,
    Exit::StreamTwice,
    Exit::ShutdownThenCancel,
    Exit::Timeout,
    Exit::TaskCancelled,
    Exit::Unwinds,
    Exit::DropInDrain,
    Exit::NeverServed,
    Exit::NeverPolled,
];

/// When the server is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    AtOnce,
    /// After so many yields.
    Yields(usize),
    After(Duration),
    /// When so many handlers run, or a little later if they do not.
    Handlers(usize),
    /// When every client is done whose connection the server does not have to end: they must all get that far.
    AllDone,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub tame: bool,
    /// It has fewer places than clients.
    pub crowded: bool,
    pub http: bool,
    pub doors: Vec<Door>,
    pub settings: Settings,
    pub clients: Vec<Client>,
    /// Tasks of the server itself.
    pub tasks: usize,
    pub exit: Exit,
    pub moment: Moment,
}

impl Case {
    pub fn new(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let tame = dice.chance(50);
        let exit = match tame || dice.chance(40) {
            true => dice.pick(GRACEFUL),
            false => dice.pick(ABRUPT),
        };
        let mut doors: Vec<_> = (0..=dice.below(3)).map(|_| door(dice)).collect();
        if matches!(exit, Exit::ListenerFails | Exit::ListenerPanics) {
            doors.push(Door::plain(Base::Custom, Proxy::No, false));
        }
        let newcomers = tame && dice.chance(30);
        let clients: Vec<_> = (0..dice.below(9)).map(|_| client(dice, doors.len(), tame, newcomers)).collect();
        let mut settings = if tame { Settings::tame(dice, newcomers) } else { Settings::wild(dice) };
        if matches!(exit, Exit::HandlerFails | Exit::ListenerFails | Exit::ListenerPanics) {
            // A server that is full accepts nobody who could fail.
            settings = Settings { max_connections: 100, per_ip: None, ..settings };
            (settings.idle, settings.first_byte, settings.age) = (None, None, None); // would cut a handler that must fail
            settings.stops_on_failure |= exit == Exit::HandlerFails;
        }
        let http = dice.chance(20) && exit != Exit::HandlerFails;
        let mut case =
            Self { tame, crowded: false, http, doors, settings, clients, tasks: 0, exit, moment: Moment::AtOnce };
        for client in &mut case.clients {
            if tame && http && client.manner == Manner::HalfOrder {
                client.manner = Manner::Silent; // half a head is waited for, 10 seconds
            }
        }
        if !tame && dice.chance(20) && !matches!(exit, Exit::NeverServed | Exit::NeverPolled) {
            case.crowd(dice);
        }
        case.tasks = if dice.chance(25) { 1 + dice.below(3) } else { 0 };
        case.moment = if case.crowded { Moment::AllDone } else { case.moment(dice) };
        let around = &mut Dice::new(!seed); // of its own, so that it changes nothing else
        for door in &mut case.doors {
            door.surround(around);
            // A server that ends by itself would leave the clients in the backlog to the other holder, and so without an end.
            door.is_held &= case.moment != Moment::AllDone;
        }
        case
    }

    /// Makes it crowded: more clients than places, and all of them come to an end. So each must get a place.
    fn crowd(&mut self, dice: &mut Dice) {
        self.crowded = true;
        self.settings.max_connections = dice.pick(&[1, 1, 2]);
        self.settings.per_ip = None;
        self.clients = (0..8 + dice.below(8)).map(|_| client(dice, self.doors.len(), true, false)).collect();
        for client in self.clients.iter_mut().filter(|it| it.holds()) {
            (client.manner, client.order) = (Manner::Plain, dice.pick(&[Order::Reply, Order::Panics, Order::Fails]));
        }
    }

    fn moment(&self, dice: &mut Dice) -> Moment {
        let holding = self.clients.iter().filter(|it| it.holds()).count();
        let can_end = holding < self.settings.max_connections && self.settings.per_ip.is_none();
        match dice.below(5) {
            0 => Moment::AtOnce,
            1 => Moment::Yields(dice.below(100)),
            2 => Moment::After(MS(dice.below(30) as u64)),
            3 if can_end && !matches!(self.exit, Exit::NeverServed | Exit::NeverPolled) => Moment::AllDone,
            _ => Moment::Handlers(dice.below(self.clients.len() + 1)),
        }
    }

    /// Whether this client's request must be answered if it was sent before the server was asked to stop.
    pub fn must_answer(&self, client: &Client) -> bool {
        use Manner::{HalfCloses, Newcomer, Plain, SlowReader, SlowWriter, Urgent};
        let asks = matches!(client.manner, Plain | HalfCloses | SlowReader | SlowWriter | Urgent | Newcomer);
        self.tame && asks && client.order.answers()
    }
}

fn door(dice: &mut Dice) -> Door {
    use Base::{Abstract, Custom, Inherited, InheritedUnix, Memory, Tcp, Unix};
    let base = dice.pick(&[Tcp, Tcp, Inherited, InheritedUnix, Unix, Abstract, Memory, Custom]);
    let proxy = if dice.chance(20) { dice.pick(&[Proxy::Optional, Proxy::Required]) } else { Proxy::No };
    Door::plain(base, proxy, dice.chance(15))
}

impl Door {
    /// Returns a door without anything around it.
    pub fn plain(base: Base, proxy: Proxy, tls: bool) -> Self {
        Self { base, proxy, tls, is_held: false, nonblocking: false, faults: Faults::default() }
    }

    fn surround(&mut self, dice: &mut Dice) {
        match self.base {
            Base::Inherited | Base::InheritedUnix => {
                (self.is_held, self.nonblocking) = (dice.chance(50), dice.chance(50));
            }
            Base::Custom => self.faults = Faults::new(dice),
            _ => {}
        }
    }
}
