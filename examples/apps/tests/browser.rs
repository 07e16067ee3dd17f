//! Uses the chat in a real browser: Chromium without a screen, which chromedriver controls.
//!
//! Without `chromium` and `chromedriver` the test is skipped, with a note. Screenshots are saved in the target
//! directory, below `tmp`.
#![cfg(unix)]

#[path = "../../../tests/support/process.rs"]
#[allow(dead_code, unreachable_pub)]
mod process;

use data_encoding::BASE64;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use process::{ANY_PORT, Process};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// How long the browser may take for one step: a safety net.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the path of a program.
fn installed(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let found = env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("{name} is not installed (Debian: `apt install chromium chromium-driver`): this test is skipped");
    }
    found
}

/// A browser, with a profile of its own. Its drop ends it.
struct Browser {
    driver: u16,
    session: String,
    // In this order: chromedriver ends, then what is left of the browser, and then its files are removed.
    _chromedriver: Process,
    _profile: Profile,
}

impl Browser {
    fn start(chromium: &Path, chromedriver: &Path) -> Self {
        let profile = Profile(env::temp_dir().join(format!("ebbtide-browser-{}", std::process::id())));
        fs::create_dir_all(&profile.0).unwrap();
        let mut command = Command::new(chromedriver);
        for name in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, &profile.0);
        }
        let chromedriver = Process::start(command.arg("--port=0"));
        let line = chromedriver.wait_for("started successfully on port ");
        let port = line.rsplit(' ').next().and_then(|port| port.trim_end_matches('.').parse().ok());
        let driver = port.unwrap_or_else(|| panic!("no port in `{line}`"));
        let mut browser = Self { driver, session: String::new(), _chromedriver: chromedriver, _profile: profile };
        let data = format!("--user-data-dir={}", browser._profile.0.join("profile").display());
        let of_containers = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let args =
            [&["--headless=new", "--no-proxy-server", "--window-size=720,560", &data][..], &of_containers].concat();
        let options = json!({ "binary": chromium, "args": args });
        let started = browser.ask(
            "POST",
            "",
            Some(json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } })),
        );
        browser.session = format!("/{}", started["sessionId"].as_str().expect("a session has an id"));
        browser
    }

    /// Sends a command of WebDriver, and returns its value.
    fn ask(&self, method: &str, command: &str, body: Option<Value>) -> Value {
        let (ok, value) = self.try_ask(method, command, body).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(ok, "{command}: {value:#}");
        value
    }

    fn try_ask(&self, method: &str, command: &str, body: Option<Value>) -> io::Result<(bool, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.driver))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let fields = format!("host: localhost\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        write!(stream, "{method} /session{}{command} HTTP/1.1\r\n{fields}\r\n{body}", self.session)?;
        // chromedriver does not close the connection.
        let mut answer = BufReader::new(stream);
        let (mut head, mut line) = (String::new(), String::new());
        while answer.read_line(&mut line)? > 2 {
            head += &line.to_lowercase();
            line.clear();
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        answer.read_exact(&mut body)?;
        Ok((head.starts_with("http/1.1 200 "), serde_json::from_slice::<Value>(&body)?["value"].take()))
    }

    /// Opens a page in a window of its own.
    fn open(&self, url: &str) -> Tab<'_> {
        let window = self.ask("POST", "/window/new", Some(json!({ "type": "window" })));
        let tab = Tab { browser: self, handle: window["handle"].clone() };
        tab.ask("POST", "/url", Some(json!({ "url": url })));
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.session.is_empty() {
            return; // the browser did not start
        }
        let _gone = self.try_ask("DELETE", "", None); // it quits, and its driver with it at the latest
    }
}

/// The folder of the browser's profile. Its drop kills the processes that use it, and removes it.
struct Profile(PathBuf);

impl Profile {
    /// Finds processes of the browser by the profile in their command lines: chromedriver starts the browser in a
    /// process group of its own.
    fn processes(&self) -> Vec<Pid> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let uses = |id: &i32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*self.0.to_string_lossy())
        };
        ids.filter(uses).map(Pid::from_raw).collect()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let began = Instant::now();
        loop {
            let left = self.processes();
            for &process in &left {
                let _gone = kill(process, Signal::SIGKILL);
            }
            let _again = fs::remove_dir_all(&self.0); // fails while a process still writes there
            if left.is_empty() && !self.0.exists() {
                return;
            }
            if began.elapsed() > PATIENCE {
                eprintln!("left behind: {left:?}, {}", self.0.display());
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A window of the browser.
struct Tab<'a> {
    browser: &'a Browser,
    handle: Value,
}

impl Tab<'_> {
    fn ask(&self, method: &str, command: &str, body: Option<Value>) -> Value {
        self.browser.ask("POST", "/window", Some(json!({ "handle": self.handle })));
        self.browser.ask(method, command, body)
    }

    fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", Some(json!({ "script": script, "args": [] })))
    }

    fn element(&self, selector: &str) -> String {
        let found = self.ask("POST", "/element", Some(json!({ "using": "css selector", "value": selector })));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        id.expect("an element has an id").to_owned()
    }

    /// Types into an empty field, as with the keyboard.
    fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.ask("POST", &format!("/element/{element}/clear"), Some(json!({})));
        self.ask("POST", &format!("/element/{element}/value"), Some(json!({ "text": text })));
    }

    fn press_enter(&self, selector: &str) {
        let element = self.element(selector);
        self.ask("POST", &format!("/element/{element}/value"), Some(json!({ "text": "\u{e007}" })));
    }

    fn say(&self, text: &str) {
        self.type_into("#text", text);
        self.press_enter("#text");
    }

    /// Returns the state that the page shows, and the lines of its conversation.
    fn shown(&self) -> (String, Vec<String>) {
        let script = "return [document.querySelector('#state').textContent, \
             [...document.querySelectorAll('#log li')].map(line => line.textContent)]";
        serde_json::from_value(self.run(script)).expect("a text, and a list of texts")
    }

    /// Waits until the page shows this state, begins with `before`, and ends with the line.
    #[track_caller]
    fn wait_for(&self, state: &str, line: &str) -> Vec<String> {
        let began = Instant::now();
        loop {
            let shown = self.shown();
            if shown.0.starts_with(state) && shown.1.last().is_some_and(|last| last == line) {
                return shown.1;
            }
            assert!(began.elapsed() < PATIENCE, "waited for `{state}` and `{line}`: {shown:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn save_screenshot(&self, name: &str) {
        let png = self.ask("GET", "/screenshot", None);
        let png = BASE64.decode(png.as_str().expect("it is text").as_bytes()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, png).unwrap();
        println!("a screenshot: {}", path.display());
    }
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
    let (Some(chromium), Some(chromedriver)) = (installed("chromium"), installed("chromedriver")) else { return };
    let chat = start_chat(ANY_PORT);
    let port = chat.port();
    let browser = Browser::start(&chromium, &chromedriver);
    let url = format!("http://127.0.0.1:{port}/room/tea%20%26%20cake");
    let (ann, ben) = (browser.open(&url), browser.open(&url));
    assert_eq!(ann.run("return document.querySelector('#room').textContent"), "tea & cake");
    for (tab, name) in [(&ann, "Ann"), (&ben, "Ben")] {
        tab.wait_for("connected", "connected");
        tab.type_into("#name", name);
    }
    ann.say("Hello, Ben!");
    ben.wait_for("connected", "Ann: Hello, Ben!");
    let markup = "<img src=x onerror=\"document.title='hit'\"> is only text";
    ben.say(markup);
    let both = [&ann, &ben].map(|tab| tab.wait_for("connected", &format!("Ben: {markup}")));
    assert_eq!(both[0], ["connected", "Ann: Hello, Ben!", &format!("Ben: {markup}")]);
    assert_eq!(both[1], both[0]);
    assert_eq!(ann.run("return [document.title, document.images.length]"), json!(["tea & cake – Chat", 0]));
    let lobby = browser.open(&format!("http://127.0.0.1:{port}/")); // another room
    lobby.wait_for("connected", "connected");

    terminate(chat);
    for tab in [&ann, &ben, &lobby] {
        tab.wait_for("reconnecting", "closed 1001: the server shuts down");
    }
    ben.say("Back again."); // Enter sends nothing, and the text stays
    ben.save_screenshot("chat-reconnecting.png");

    let chat = start_chat(&format!("127.0.0.1:{port}"));
    for tab in [&ann, &ben, &lobby] {
        tab.wait_for("connected", "connected");
    }
    ben.press_enter("#text");
    ann.wait_for("connected", "Ben: Back again.");
    ann.say("So am I.");
    ben.wait_for("connected", "Ann: So am I.");
    ann.save_screenshot("chat.png");
    assert_eq!(lobby.shown().1, ["connected", "closed 1001: the server shuts down", "connected"]);
    drop(browser);
    terminate(chat);
}
