//! What looks at the open files of the whole process, or uses them all up.

mod r08_accepting_survives;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod ten_thousand;
