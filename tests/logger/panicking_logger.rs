//! A logger that panics, as one that prints does once its terminal is closed, loses log lines and changes nothing else.
//!
//! The story: standard output was closed. At the first Ctrl-C the line "asked to shut down" was logged before the
//! request was made, and the logger panicked. So the first Ctrl-C did nothing.

use crate::support::*;
use async_std::task;
use ebbtide::{Cause, OnFailure};

struct Panics;

impl log::Log for Panics {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target() != "ebbtide" {
            return; // a panic in a line of the runtime is outside this crate
        }
        // Formats the line first, as a real logger does: a `Display` may panic too.
        let line = record.args().to_string();
        panic!("cannot log: {line}");
    }

    fn flush(&self) {}
}

fn install_panicking_logger() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = info.to_string();
            if !text.contains("cannot log") && !text.contains("as ordered") {
                eprintln!("{text}");
            }
        }));
        log::set_logger(&Panics).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

#[test]
fn a_shutdown_stream_still_drains_and_then_cancels() {
    install_panicking_logger();
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.grace(FOR_EVER);
        let mut clients: Vec<_> =
            [POLITE, STUBBORN, FAILS, PANICS, REPLIES].iter().map(|&it| order(server.local_addr(), it)).collect();
        let (ask, asked) = async_std::channel::unbounded();
        let serving = task::spawn(server.shutdown_on(asked).serve(handlers.handler()));
        handlers.started(5).await;
        ask.send(()).await.unwrap();
        assert_eq!(rest(&mut clients[0]), "bye");
        ask.send(()).await.unwrap();
        let report = serving.await.unwrap();
        assert_eq!(report.cause(), Cause::Stream);
        let counts = (report.completed(), report.failed(), report.panicked(), report.cancelled());
        assert_eq!(counts, (2, 1, 1, 1), "{report}");
        assert_eq!(handlers.live.count(), 0);
        assert_eq!(rest(&mut clients[4]), "whole reply");
    });
}

#[test]
fn a_drop_still_joins() {
    install_panicking_logger();
    test(async {
        let handlers = Handlers::new();
        let server = bind().await;
        let handle = server.handle();
        let mut client = order(server.local_addr(), STUBBORN);
        let serving = task::spawn(server.serve(handlers.handler()));
        handlers.started(1).await;
        serving.cancel().await;
        assert_eq!(handlers.live.count(), 0);
        assert_eq!(handle.closed().await.cancelled(), 1);
        assert_eq!(rest(&mut client), "");
    });
}

#[test]
fn a_failure_still_stops_the_server_and_is_returned() {
    install_panicking_logger();
    test(async {
        let handlers = Handlers::new();
        let server = bind().await.on_failure(OnFailure::Shutdown);
        let mut client = order(server.local_addr(), FAILS);
        let error = server.serve(handlers.handler()).await.unwrap_err();
        assert_eq!(error.report().cause(), Cause::HandlerFailed);
        assert_eq!(rest(&mut client), "");
    });
}
