//! The settings of a case's server.

use crate::support::dice::Dice;
use std::time::Duration;

pub const MS: fn(u64) -> Duration = Duration::from_millis;
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub grace: Option<Duration>,
    pub lame_duck: Duration,
    pub newcomer_time: Duration,
    pub drain_spread: Duration,
    pub task_grace: Duration,
    pub max_connections: usize,
    pub per_ip: Option<usize>,
    pub idle: Option<Duration>,
    pub write: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub age: Option<Duration>,
    pub stops_on_failure: bool,
    pub count_bytes: bool,
}

impl Settings {
    /// Settings with which no limit and no deadline ends anything in a tame case.
    pub fn tame(dice: &mut Dice, newcomers: bool) -> Self {
        Self {
            grace: dice.pick(&[Some(LONG), None]),
            lame_duck: dice.pick(&[MS(0), MS(0), MS(0), MS(10)]),
            newcomer_time: if newcomers { MS(10_000) } else { dice.pick(&[MS(200), MS(400)]) },
            drain_spread: dice.pick(&[MS(0), MS(0), MS(20)]),
            task_grace: LONG,
            max_connections: 100,
            per_ip: None,
            idle: None,
            write: None,
            first_byte: None,
            age: None,
            stops_on_failure: false,
            count_bytes: dice.chance(50),
        }
    }

    /// Settings with which anything may be cut or refused.
    pub fn wild(dice: &mut Dice) -> Self {
        let mut rarely = |durations: &[u64]| dice.chance(15).then(|| MS(dice.pick(durations)));
        let (idle, write, first_byte, age) =
            (rarely(&[1, 10, 50]), rarely(&[5, 50]), rarely(&[1, 20]), rarely(&[1, 30]));
        Self {
            grace: Some(dice.pick(&[MS(0), MS(1), MS(20), MS(100), MS(300)])),
            lame_duck: dice.pick(&[MS(0), MS(0), MS(15)]),
            newcomer_time: dice.pick(&[MS(0), MS(5), MS(500)]),
            drain_spread: dice.pick(&[MS(0), MS(0), MS(30)]),
            task_grace: dice.pick(&[MS(0), MS(5), MS(1000)]),
            max_connections: dice.pick(&[1, 2, 3, 5, 100, 100]),
            per_ip: dice.chance(15).then(|| 1 + dice.below(4)),
            idle,
            write,
            first_byte,
            age,
            stops_on_failure: dice.chance(15),
            count_bytes: dice.chance(50),
        }
    }
}
