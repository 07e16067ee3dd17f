//! The live page of the admin listener in a real browser: Chromium without a screen, which chromedriver controls.
//!
//! Without `chromium` and `chromedriver` the test is skipped, with a note. Screenshots are saved in the target
//! directory, below `tmp`.
#![cfg(all(feature = "admin", unix))]

#[path = "../support/browser.rs"]
#[allow(dead_code, unreachable_pub)]
mod browser;

use crate::support::process::{self, ANY_PORT, Process, example}; // `self` is for `browser`
use browser::{Browser, Tab};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpStream;

/// The first line of each client, which `examples/admin.rs` makes the label of its connection, and how the page has to
/// show it.
const LABELS: [(&str, &str); 4] = [
    ("<script>document.title = 'hit'</script>", "<script>document.title = 'hit'</script>"),
    ("<img src=x onerror=\"document.title='hit'\">", "<img src=x onerror=\"document.title='hit'\">"),
    ("\u{202e}gpj.exe\u{2066}\u{1b}[31m", r"\u{202e}gpj.exe\u{2066}\u{1b}[31m"),
    ("שלום עולם", "שלום עולם"),
];

/// Returns what the page shows: the state of the stream; of its only server, the phase, the texts of a drain, and the
/// labels of the connections that the filter lets through.
const SHOWN: &str = "
    const shown = name => {
        const part = document.querySelector(`main [data-f=${name}]`);
        return part?.checkVisibility() ? part.textContent : null;
    };
    return {
        stream: document.querySelector('#state').textContent,
        phase: shown('phase'), ready: shown('ready'), left: shown('left'), ended: shown('endedText'),
        used: shown('usedText'),
        labels: [...document.querySelectorAll('main tbody')].filter(body => body.checkVisibility())
            .map(body => body.querySelector('.label').textContent),
    };";

/// Waits until `accept` returns true for what the page shows, and returns it.
#[track_caller]
fn wait_for(page: &Tab<'_>, waited_for: &str, accept: impl Fn(&Value) -> bool) -> Value {
    page.wait_until(waited_for, SHOWN, |shown| accept(shown).then(|| shown.clone()))
}

fn connect(port: u16, label: &str) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    writeln!(client, "{label}").unwrap();
    client
}

/// Saves a picture for each width: a large screen, and a phone.
fn save_screenshots(page: &Tab<'_>, name: &str) {
    for width in [500, 1400] {
        page.resize(width, 900); // Chromium's windows are at least 500 wide
        let fits = page.run("return document.documentElement.scrollWidth <= innerWidth");
        assert_eq!(fits, true, "{name} at {width} px scrolls to the side");
        page.save_screenshot(&format!("live-{name}-{width}.png"));
    }
}

#[test]
fn the_live_page_shows_the_tree_then_what_a_drain_waits_for_and_then_that_the_server_is_closed() {
    let Some(browser) = Browser::start() else { return };
    let program = Process::start(example("admin").args([ANY_PORT, ANY_PORT]));
    let admin = program.wait_for("Admin on ");
    let port = program.port();
    let page = browser.open(admin.trim_start_matches("Admin on "));
    let shown = wait_for(&page, "a server without connections", |shown| shown["phase"] == "serving");
    assert_eq!((&shown["stream"], &shown["ready"]), (&json!("live"), &json!("ready")), "{shown:#}");
    assert_eq!((&shown["left"], &shown["labels"]), (&Value::Null, &json!([])), "{shown:#}");

    let mut clients: Vec<_> = LABELS.iter().map(|(sent, _)| connect(port, sent)).collect();
    let expected: Vec<_> = LABELS.iter().map(|(_, shown)| *shown).collect();
    let labels = |shown: &Value| {
        let mut labels: Vec<String> = serde_json::from_value(shown["labels"].clone()).expect("a list of texts");
        labels.sort_unstable(); // clients may be accepted in any order
        labels
    };
    let mut sorted = expected.clone();
    sorted.sort_unstable();
    wait_for(&page, "the labels of all clients", |shown| labels(shown) == sorted);
    let counts = "return [document.scripts.length, document.images.length, document.title.includes('hit')]";
    assert_eq!(page.run(counts), json!([1, 0, false]), "labels are text");
    save_screenshots(&page, "serving");

    page.type_into("#filter", "script");
    let shown = wait_for(&page, "the filter", |shown| labels(shown).len() == 1);
    assert_eq!(shown["labels"], json!([expected[0]]));
    page.type_into("#filter", " "); // all match
    wait_for(&page, "the labels of all clients again", |shown| labels(shown) == sorted);

    program.send(Signal::SIGTERM);
    wait_for(&page, "the drain", |shown| shown["ended"] == "0 of 4");
    drop(clients.pop());
    let shown = wait_for(&page, "the drain with one connection ended", |shown| shown["ended"] == "1 of 4");
    assert_eq!(shown["phase"], "draining", "{shown:#}");
    assert_eq!(shown["ready"], "not ready", "{shown:#}");
    let left = shown["left"].as_str().expect("a drain says what it waits for");
    assert!(left.starts_with("Waiting for 3 connections"), "{shown:#}");
    save_screenshots(&page, "draining");

    drop(clients);
    wait_for(&page, "the end of the server", |shown| shown["stream"] == "closed" && shown["phase"] == "closed");
    save_screenshots(&page, "closed");
    let ended = program.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let mut faults = page.console();
    faults.retain(|line| !line.contains("net::ERR_")); // it tries to connect again
    assert_eq!(faults, [] as [&str; 0], "no error of the script, and nothing that its policy blocks");
}
