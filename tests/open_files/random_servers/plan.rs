//! What a client does, and what it asks of its handler.

use super::settings::MS;
use crate::support::dice::Dice;
use std::time::Duration;

/// What a client asks of its handler: the first byte of its request.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub enum Order {
    // These answer a request that has arrived, and end.
    Reply,
    Echo,
    /// Echoes; each of its reads races, and is often dropped half-polled.
    HalfPolled,
    /// Echoes lines, until EOF or the drain.
    Lines,
    /// Replies; then its tasks write more.
    Tasks,
    /// Leaves a clone of its connection to the test, and a detached task that reads from another.
    Escapes,
    /// Replies from within nested groups and a task set.
    Groups,
    Blocks,
    // These end with the drain.
    Polite,
    // These end without an answer.
    Fails,
    Panics,
    TaskPanics,
    // Only in wild cases.
    Stubborn,
    /// Ignores the drain, and its destructor panics.
    Bomb,
    /// Gives clones away, and ignores the drain.
    Hoards,
    /// Cancels and drains other connections.
    Cuts,
    /// Changes the limit, and pauses.
    Limits,
    /// Shuts its own server down, or cancels it.
    Stops,
}

const TAME: &[Order] = &[
    Order::Reply,
    Order::Echo,
    Order::HalfPolled,
    Order::Lines,
    Order::Tasks,
    Order::Escapes,
    Order::Groups,
    Order::Blocks,
    Order::Polite,
    Order::Fails,
    Order::Panics,
    Order::TaskPanics,
];
const WILD: &[Order] = &[Order::Stubborn, Order::Bomb, Order::Hoards, Order::Cuts, Order::Limits, Order::Stops];

impl Order {
    pub fn of(byte: u8) -> Option<Self> {
        TAME.iter().chain(WILD).copied().find(|&order| order as u8 == byte)
    }

    /// Whether the handler answers a request that has arrived, in a drain too.
    pub fn answers(self) -> bool {
        self as u8 <= Self::Blocks as u8
    }

    /// Whether the handler may outlive its client's wish, until the server stops.
    fn holds(self) -> bool {
        matches!(self, Self::Polite | Self::Stubborn | Self::Bomb | Self::Hoards)
    }
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    Plain,
    HalfCloses,
    SlowReader,
    /// Its request arrives in pieces.
    SlowWriter,
    /// Sends a byte of urgent data first.
    Urgent,
    /// Connects, and sends its request when the drain has begun.
    Newcomer,
    Silent,
    HalfOrder,
    /// Its first bytes are neither a header nor a request.
    Garbage,
    /// Leaves at any moment: its unread bytes cause a reset.
    Leaves,
    Resets,
    // Only in wild cases.
    NeverReads,
    Floods,
}

const MANNERS: &[Manner] = &[
    Manner::Plain,
    Manner::Plain,
    Manner::Plain,
    Manner::HalfCloses,
    Manner::SlowReader,
    Manner::SlowWriter,
    Manner::Urgent,
    Manner::Newcomer,
    Manner::Silent,
    Manner::HalfOrder,
    Manner::Garbage,
    Manner::Leaves,
    Manner::Resets,
];

#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub door: usize,
    /// How long it waits before it connects.
    pub start: Duration,
    pub manner: Manner,
    pub order: Order,
    /// The length of its reply, about.
    pub size: u16,
    /// Bytes of each read, pauses, and the moment of leaving: whatever the manner needs.
    pub whim: usize,
}

impl Client {
    /// Whether its connection may last until the server stops.
    pub fn holds(&self) -> bool {
        use Manner::{Floods, Garbage, HalfOrder, NeverReads, Newcomer, Silent};
        self.order.holds() || matches!(self.manner, Silent | HalfOrder | NeverReads | Floods | Newcomer | Garbage)
    }
}

/// Returns a client of one of so many doors.
pub fn client(dice: &mut Dice, doors: usize, tame: bool, newcomers: bool) -> Client {
    let wild_manner = !tame && dice.chance(20);
    let mut manner = if wild_manner { dice.pick(&[Manner::NeverReads, Manner::Floods]) } else { dice.pick(MANNERS) };
    match manner {
        Manner::Newcomer if !newcomers => manner = Manner::Plain,
        Manner::Silent | Manner::HalfOrder if newcomers => manner = Manner::Newcomer, // would hold the drain up
        _ => {}
    }
    let order = if !tame && dice.chance(40) { dice.pick(WILD) } else { dice.pick(TAME) };
    let size = [0, 1, 20, 700, 20_000, u16::MAX as usize][dice.below(6)];
    Client {
        door: dice.below(doors),
        start: [MS(0), MS(0), MS(1), MS(5), MS(dice.below(30) as u64)][dice.below(5)],
        manner,
        order,
        size: dice.below(size + 1) as u16,
        whim: dice.below(1000),
    }
}
