//! Tests that count the open files of the whole process, or use all of them.

mod r08_accepting_survives;
mod random_servers;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod ten_thousand;
