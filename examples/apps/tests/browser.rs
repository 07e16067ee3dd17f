//! Uses the chat in a real browser: Chromium without a screen, which chromedriver controls.
//!
//! Without `chromium` and `chromedriver` the test is skipped, with a note. Screenshots are saved in the target
//! directory, below `tmp`.
#![cfg(unix)]

#[path = "../../../tests/support/browser.rs"]
#[allow(dead_code, unreachable_pub)]
mod browser;
#[path = "../../../tests/support/process.rs"]
#[allow(dead_code, unreachable_pub)]
mod process;

use browser::{Browser, Tab};
use nix::sys::signal::Signal;
use process::{ANY_PORT, Process};
use serde_json::json;
use std::process::Command;

fn say(tab: &Tab<'_>, text: &str) {
    tab.type_into("#text", text);
    tab.press_enter("#text");
}

/// The state that the page shows, and the lines of its conversation.
const SHOWN: &str = "return [document.querySelector('#state').textContent, \
     [...document.querySelectorAll('#log li')].map(line => line.textContent)]";

/// Waits until the page shows this state and its conversation ends with the line. Returns the conversation.
#[track_caller]
fn wait_for(tab: &Tab<'_>, state: &str, line: &str) -> Vec<String> {
    tab.wait_until(&format!("`{state}` and `{line}`"), SHOWN, |shown| {
        let shown: (String, Vec<String>) = serde_json::from_value(shown.clone()).expect("a text, and a list of texts");
        let is_reached = shown.0.starts_with(state) && shown.1.last().is_some_and(|last| last == line);
        is_reached.then_some(shown.1)
    })
}

fn start_chat(address: &str) -> Process {
    Process::start(Command::new(env!("CARGO_BIN_EXE_chat")).arg(address).env("RUST_BACKTRACE", "0"))
}

/// Sends SIGTERM, and waits for the end of the server: every member has answered its Close frame.
#[track_caller]
fn terminate(chat: Process) {
    chat.send(Signal::SIGTERM);
    let ended = chat.wait();
    assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(0), &[] as &[String]), "{ended:?}");
    let report = ended.stdout.last().expect("it has printed");
    assert!(report.contains("because SIGTERM was received"), "{ended:?}");
    assert!(report.contains("0 failed, 0 panicked, 0 cancelled"), "{ended:?}");
}

#[test]
fn two_pages_talk_see_the_shutdown_and_survive_a_restart() {
    let Some(browser) = Browser::start() else { return };
    let chat = start_chat(ANY_PORT);
    let port = chat.port();
    let url = format!("http://127.0.0.1:{port}/room/tea%20%26%20cake");
    let (ann, ben) = (browser.open(&url), browser.open(&url));
    assert_eq!(ann.run("return document.querySelector('#room').textContent"), "tea & cake");
    for (tab, name) in [(&ann, "Ann"), (&ben, "Ben")] {
        wait_for(tab, "connected", "connected");
        tab.type_into("#name", name);
    }
    say(&ann, "Hello, Ben!");
    wait_for(&ben, "connected", "Ann: Hello, Ben!");
    let markup = "<img src=x onerror=\"document.title='hit'\"> is only text";
    say(&ben, markup);
    let both = [&ann, &ben].map(|tab| wait_for(tab, "connected", &format!("Ben: {markup}")));
    assert_eq!(both[0], ["connected", "Ann: Hello, Ben!", &format!("Ben: {markup}")]);
    assert_eq!(both[1], both[0]);
    assert_eq!(ann.run("return [document.title, document.images.length]"), json!(["tea & cake – Chat", 0]));
    let lobby = browser.open(&format!("http://127.0.0.1:{port}/")); // another room
    wait_for(&lobby, "connected", "connected");

    terminate(chat);
    for tab in [&ann, &ben, &lobby] {
        wait_for(tab, "reconnecting", "closed 1001: the server shuts down");
    }
    say(&ben, "Back again."); // Enter sends nothing, and the text stays
    ben.save_screenshot("chat-reconnecting.png");

    let chat = start_chat(&format!("127.0.0.1:{port}"));
    for tab in [&ann, &ben, &lobby] {
        wait_for(tab, "connected", "connected");
    }
    ben.press_enter("#text");
    wait_for(&ann, "connected", "Ben: Back again.");
    say(&ann, "So am I.");
    wait_for(&ben, "connected", "Ann: So am I.");
    ann.save_screenshot("chat.png");
    assert_eq!(
        wait_for(&lobby, "connected", "connected"),
        ["connected", "closed 1001: the server shuts down", "connected"]
    );
    drop(browser);
    terminate(chat);
}
