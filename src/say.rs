//! The crate's log lines.
//!
//! A logger is user code, and some panic: one that prints panics when standard output is gone, which is just when a terminal
//! was closed and the server is to stop. So a line that cannot be logged is lost, and nothing else with it. (The panic hook
//! still has its say.)

/// Logs with target `ebbtide`: `say!(info, phase:% = phase; "text {value}")`. The first argument is the level, by its name
/// or as an expression; what follows is as in the `log` crate's macros.
macro_rules! say {
    ($level:ident, $($line:tt)+) => {
        $crate::say::shielded(|| ::log::$level!(target: "ebbtide", $($line)+))
    };
    ($level:expr, $($line:tt)+) => {
        $crate::say::shielded(|| ::log::log!(target: "ebbtide", $level, $($line)+))
    };
}

pub(crate) use say;

pub(crate) fn shielded(line: impl FnOnce()) {
    if let Err(payload) = crate::unwind::catch(line) {
        crate::unwind::discard(payload);
    }
}
