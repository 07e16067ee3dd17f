//! Runs a program as a process: what it prints is an event to wait for, and it does not outlive its test.
//!
//! A program is either a built example or a test binary itself, which then plays another part (see [`this_binary`]).
//! No port is fixed: a program is given `127.0.0.1:0`, and says in its first line where it listens.

#[cfg(unix)]
use nix::sys::signal::{Signal, kill, killpg};
#[cfg(unix)]
use nix::unistd::Pid;
use std::env;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may be silent, or take to end, before the test gives up. A safety net: nothing is timed by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The address to give to a program: any free port of this machine.
pub const ANY_PORT: &str = "127.0.0.1:0";

const LISTENING: &str = "Server listening on ";

/// A built example. `cargo test` builds them beside the tests: `deps/TEST` and `examples/EXAMPLE` in one folder.
pub fn example(name: &str) -> Command {
    let deps = env::current_exe().expect("a test knows its own path");
    let profile = deps.ancestors().nth(2).expect("a test lies in `deps`, in the folder of its profile");
    let path: PathBuf = profile.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "there is no `{}`; run `cargo build --examples` first, for the profile of this test",
        path.display()
    );
    let mut command = Command::new(path);
    command.env("RUST_BACKTRACE", "0");
    command
}

/// A program of `tests/programs`, which is built first, beside the rest of what this build has made.
///
/// The packages are those of this crate's Cargo.lock, which are here already: nothing is fetched.
pub fn other_program(name: &str) -> Command {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let deps = env::current_exe().expect("a test knows its own path");
        let package = deps.ancestors().nth(3).expect("a test lies in `deps`, in a profile's folder").join("programs");
        std::fs::create_dir_all(&package).unwrap();
        // Two suites at once share it, and each waits for the other: its lock goes with its process at the latest.
        let _alone = locked(&package.join("lock"));
        let copy = |from: &str, to: &str| {
            let (from, to) = (root.join(from), package.join(to));
            std::fs::create_dir_all(to.parent().expect("it is in the package")).unwrap();
            let text = std::fs::read_to_string(&from).unwrap().replace("../..", &root.display().to_string());
            let is_new = std::fs::read_to_string(&to).ok().as_ref() != Some(&text);
            if is_new {
                std::fs::write(&to, text).unwrap(); // what has not changed keeps its time, and is not built again
            }
            is_new
        };
        // Cargo takes from it what the package does not need, and that would look like a change.
        if copy("Cargo.lock", "Cargo.lock.of-the-crate") {
            copy("Cargo.lock", "Cargo.lock");
        }
        copy("tests/programs/Cargo.toml", "Cargo.toml");
        copy("tests/programs/src/lib.rs", "src/lib.rs");
        for program in std::fs::read_dir(root.join("tests/programs/src/bin")).unwrap() {
            let name = program.unwrap().file_name().into_string().unwrap();
            copy(&format!("tests/programs/src/bin/{name}"), &format!("src/bin/{name}"));
        }
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--offline", "--manifest-path"]).arg(package.join("Cargo.toml"));
        let built = cargo.arg("--target-dir").arg(package.join("target")).output().expect("cargo runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        package.join("target").join("debug")
    });
    let mut command = Command::new(folder.join(format!("{name}{}", env::consts::EXE_SUFFIX)));
    command.env("RUST_BACKTRACE", "0");
    command
}

#[cfg(unix)]
fn locked(path: &std::path::Path) -> nix::fcntl::Flock<std::fs::File> {
    let file = std::fs::File::create(path).unwrap();
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap()
}

#[cfg(not(unix))]
fn locked(_path: &std::path::Path) {}

/// A shell script that starts the tests with `&`, or `nohup`, has them ignore signals, and so what they start, which would
/// then be deaf. A signal that has a handler here, be it one that does nothing, has its default effect there.
#[cfg(unix)]
fn give_no_ignored_signals_on() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or_default();
        for signal in [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 1) {
            signal_hook::flag::register(signal, Arc::default()).expect("a handler can be installed");
        }
    });
}

/// The running test binary once more, to run only `test` of `module`, which plays the part that `program` names. It has
/// to end the process itself, or the test harness adds its lines.
pub fn this_binary(module: &str, test: &str, program: &str) -> Command {
    let (_, module) = module.split_once("::").expect("the name of the crate comes first");
    let mut command = Command::new(env::current_exe().expect("a test knows its own path"));
    // With more than one thread the harness does not begin a line that the program would then go on with.
    command.args([&format!("{module}::{test}"), "--exact", "--nocapture", "--test-threads=2"]).env(PROGRAM, program);
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Which part the running test binary is to play; `None` in the test run proper.
pub fn part_to_play() -> Option<String> {
    env::var(PROGRAM).ok()
}

const PROGRAM: &str = "EBBTIDE_TEST_PROGRAM";

/// From now on this process prints what the crate logs, from level info on: `WARN text`.
pub fn print_log() {
    struct Print;
    impl log::Log for Print {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target() == "ebbtide"
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                println!("{} {}", record.level(), record.args());
            }
        }

        fn flush(&self) {}
    }
    log::set_logger(&Print).expect("it is the only logger of this process");
    log::set_max_level(log::LevelFilter::Info);
}

/// Runs the same test with the executor's usual threads and with one, side by side. The test is given the function that
/// starts its programs.
pub fn with_each_executor(test: impl Fn(fn(&mut Command) -> Process) + Sync) {
    thread::scope(|scope| {
        let one = scope.spawn(|| test(|command| Process::start(command.env("ASYNC_STD_THREAD_COUNT", "1"))));
        test(|command| Process::start(command.env_remove("ASYNC_STD_THREAD_COUNT")));
        if let Err(payload) = one.join() {
            eprintln!("the above was with ASYNC_STD_THREAD_COUNT=1");
            std::panic::resume_unwind(payload);
        }
    });
}

/// A running program. Dropped, it is killed, with the processes that it has started.
pub struct Process {
    child: Child,
    /// Set once the child has been waited for: its id may then be somebody else's.
    status: Option<ExitStatus>,
    /// Written by a thread for each of its outputs.
    printed: Arc<Printed>,
    started: Instant,
    /// Its command line, for messages.
    name: String,
}

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    /// From its start to its end.
    pub took: Duration,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::piped())
    }

    /// The same with a standard input of the caller's; nothing can be said to it then.
    pub fn start_with(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        #[cfg(unix)]
        give_no_ignored_signals_on();
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let name = format!("{command:?}");
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let printed = Arc::new(Printed::default());
        printed.follow(child.stdout.take().expect("it was asked for"), |lines| &mut lines.stdout);
        printed.follow(child.stderr.take().expect("it was asked for"), |lines| &mut lines.stderr);
        Self { child, status: None, printed, started, name }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the program, and to nothing that it has started.
    #[cfg(unix)]
    pub fn send(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// Gives it a line on its standard input.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it was asked for");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("it does not listen ({error}): {self}"));
    }

    /// The port of the line `Server listening on …`.
    pub fn port(&self) -> u16 {
        let line = self.wait_for(LISTENING);
        let (_, port) = line.rsplit_once(':').unwrap_or_else(|| panic!("no port in `{line}`"));
        port.parse().unwrap_or_else(|error| panic!("no port in `{line}`: {error}"))
    }

    /// The first line on standard output that contains `text`.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(1, text)
    }

    /// The `n`th line on standard output that contains `text`, from 1.
    pub fn wait_for_nth(&self, n: usize, text: &str) -> String {
        let find = |lines: &Lines| lines.stdout.text.iter().filter(|line| line.contains(text)).nth(n - 1).cloned();
        let over = |lines: &Lines| find(lines).is_some() || lines.stdout.ended;
        let found = find(&self.printed.wait(PATIENCE, over));
        found.unwrap_or_else(|| panic!("waited for `{text}` ({n} times): {self}"))
    }

    /// Until a line on standard error contains `text`.
    pub fn wait_for_error(&self, text: &str) {
        let has_it = |lines: &Lines| lines.stderr.text.iter().any(|line| line.contains(text));
        let found = has_it(&self.printed.wait(PATIENCE, |lines| has_it(lines) || lines.stderr.ended));
        assert!(found, "waited for `{text}` on standard error: {self}");
    }

    /// Whether a line on standard output contains `text`, now or before `limit` is over.
    pub fn prints_within(&self, limit: Duration, text: &str) -> bool {
        let has_it = |lines: &Lines| lines.stdout.text.iter().any(|line| line.contains(text));
        has_it(&self.printed.wait(limit, |lines| has_it(lines) || lines.stdout.ended))
    }

    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be asked for");
        }
        self.status.is_none()
    }

    /// Waits until the program has ended, and everything that it has started with it: until nobody can print any more.
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let ended = self.printed.wait(PATIENCE, Lines::have_ended).have_ended();
        assert!(ended, "it does not end: {self}");
        // Who closes its output last ends at once; there is only no event for it.
        while self.is_running() {
            assert!(Instant::now() < deadline, "it has closed its output and does not end: {self}");
            thread::sleep(Duration::from_millis(1));
        }
        let took = self.started.elapsed();
        let lines = self.printed.lock();
        let (stdout, stderr) = (lines.stdout.text.clone(), lines.stderr.text.clone());
        drop(lines);
        Ended { status: self.status.expect("it has ended"), stdout, stderr, took }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            // Not waited for yet, so the id is its own; its group has all that it has started.
            #[cfg(unix)]
            let _gone = killpg(pid(self.id()), Signal::SIGKILL);
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
    }
}

/// Sends a signal to one process, which must not have been waited for.
#[cfg(unix)]
pub fn send(id: u32, signal: Signal) {
    kill(pid(id), signal).unwrap_or_else(|error| panic!("cannot send {signal} to process {id}: {error}"));
}

#[cfg(unix)]
fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process ids are small"))
}

/// What is to be known when a test gives up on it.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alive = match self.status {
            Some(status) => status.to_string(),
            None => format!("process {} has not been seen to end", self.id()),
        };
        let lines = self.printed.lock();
        write!(f, "{}: {alive} after {:.1?}", self.name, self.started.elapsed())?;
        for (name, output) in [("stdout", &lines.stdout), ("stderr", &lines.stderr)] {
            write!(f, "\n--- {name} ({}):\n{}", if output.ended { "closed" } else { "open" }, output.text.join("\n"))?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Printed {
    lines: Mutex<Lines>,
    /// Notified after each line, and after each end.
    news: Condvar,
}

#[derive(Default)]
struct Lines {
    stdout: Output,
    stderr: Output,
}

#[derive(Default)]
struct Output {
    text: Vec<String>,
    /// Closed by all who had it.
    ended: bool,
}

impl Lines {
    fn have_ended(&self) -> bool {
        self.stdout.ended && self.stderr.ended
    }
}

impl Printed {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes each line on a thread of its own, until the end.
    fn follow(self: &Arc<Self>, pipe: impl Read + Send + 'static, output: fn(&mut Lines) -> &mut Output) {
        let this = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { break };
                output(&mut this.lock()).text.push(String::from_utf8_lossy(&line).into_owned());
                this.news.notify_all();
            }
            output(&mut this.lock()).ended = true;
            this.news.notify_all();
        });
    }

    /// Until `over` says so, or the limit is over.
    fn wait(&self, limit: Duration, over: impl Fn(&Lines) -> bool) -> MutexGuard<'_, Lines> {
        let waited = self.news.wait_timeout_while(self.lock(), limit, |lines| !over(lines));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
