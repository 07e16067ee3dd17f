//! A WebDriver client: a test opens pages in Chromium without a screen, which chromedriver controls.
//!
//! The parent module has the module `process`. Screenshots are saved in the target directory, below `tmp`.

use super::process::Process;
use data_encoding::BASE64;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// How long the browser may take for one step: a safety net.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the path of a program.
fn installed(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let found = env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("{name} is not installed (Debian: `apt install chromium chromium-driver`): this test is skipped");
    }
    found
}

/// A browser, with a profile of its own. Dropping it ends it.
pub struct Browser {
    driver: u16,
    session: String,
    // In this order: chromedriver ends, then what is left of the browser, and then its files are removed.
    _chromedriver: Process,
    _profile: Profile,
}

impl Browser {
    /// Starts Chromium. Returns `None`, with a note, if `chromium` or `chromedriver` is not installed: the test is then
    /// skipped.
    pub fn start() -> Option<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let (chromium, chromedriver) = (installed("chromium")?, installed("chromedriver")?);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let profile = Profile(env::temp_dir().join(format!("ebbtide-browser-{}-{number}", std::process::id())));
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
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let started = browser.ask("POST", "", Some(json!({ "capabilities": { "alwaysMatch": wanted } })));
        browser.session = format!("/{}", started["sessionId"].as_str().expect("a session has an id"));
        Some(browser)
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
    pub fn open(&self, url: &str) -> Tab<'_> {
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
        let folder = format!("{}/", self.0.display()); // the id of another test may begin with this one's
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let uses = |id: &i32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&folder)
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
pub struct Tab<'a> {
    browser: &'a Browser,
    handle: Value,
}

impl Tab<'_> {
    fn ask(&self, method: &str, command: &str, body: Option<Value>) -> Value {
        self.browser.ask("POST", "/window", Some(json!({ "handle": self.handle })));
        self.browser.ask(method, command, body)
    }

    /// Runs the body of a function in the page, and returns its result.
    pub fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", Some(json!({ "script": script, "args": [] })))
    }

    fn element(&self, selector: &str) -> String {
        let found = self.ask("POST", "/element", Some(json!({ "using": "css selector", "value": selector })));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        id.expect("an element has an id").to_owned()
    }

    /// Types into an empty field, as with the keyboard.
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.ask("POST", &format!("/element/{element}/clear"), Some(json!({})));
        self.ask("POST", &format!("/element/{element}/value"), Some(json!({ "text": text })));
    }

    pub fn press_enter(&self, selector: &str) {
        let element = self.element(selector);
        self.ask("POST", &format!("/element/{element}/value"), Some(json!({ "text": "\u{e007}" })));
    }

    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.ask("POST", &format!("/element/{element}/click"), Some(json!({})));
    }

    /// Runs the script again and again until `accept` returns `Some`.
    #[track_caller]
    pub fn wait_until<T>(&self, waited_for: &str, script: &str, accept: impl Fn(&Value) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            let shown = self.run(script);
            if let Some(accepted) = accept(&shown) {
                return accepted;
            }
            assert!(began.elapsed() < PATIENCE, "waited for {waited_for}: {shown:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives the window this size, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        self.ask("POST", "/window/rect", Some(json!({ "width": width, "height": height })));
    }

    /// Returns the messages in the console since the last call, of all windows: errors, and what the content security
    /// policy has blocked.
    pub fn console(&self) -> Vec<String> {
        let entries = self.ask("POST", "/se/log", Some(json!({ "type": "browser" })));
        let entries = entries.as_array().expect("a list of entries");
        entries.iter().map(|entry| entry["message"].as_str().expect("it has a text").to_owned()).collect()
    }

    /// Saves a picture of what the window shows.
    pub fn save_screenshot(&self, name: &str) {
        let png = self.ask("GET", "/screenshot", None);
        let png = BASE64.decode(png.as_str().expect("it is text").as_bytes()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, png).unwrap();
        println!("a screenshot: {}", path.display());
    }
}
