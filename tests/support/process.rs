//! Runs programs as processes. A test waits for the lines that a program prints, and the program is killed at the end
//! of its test at the latest.
//!
//! A program is a built example, a program of `tests/programs`, or the test binary itself in another part (see
//! [`this_binary`]). No port is fixed: a program is given `127.0.0.1:0`, and prints in its first line where it listens.

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

/// How long a test waits for a line or for the end of a program. A safety net: no test passes because this time is
/// over.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The address that a program is given to listen on: any free port.
pub const ANY_PORT: &str = "127.0.0.1:0";

const LISTENING: &str = "Server listening on ";

/// Returns the command for a built example. `cargo test` builds examples beside the tests: `deps/TEST` and
/// `examples/EXAMPLE` are in one folder.
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

/// Returns the command for a program of `tests/programs`. The first call builds these programs, in a folder of this
/// build.
///
/// Their dependencies are those of this crate's Cargo.lock, which have already been fetched: the build is offline.
pub fn other_program(name: &str) -> Command {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let deps = env::current_exe().expect("a test knows its own path");
        let package = deps.ancestors().nth(3).expect("a test lies in `deps`, in a profile's folder").join("programs");
        std::fs::create_dir_all(&package).unwrap();
        // Two test runs may use this folder at once: one waits for the other. The kernel releases the lock when its
        // process ends.
        let _alone = locked(&package.join("lock"));
        let copy = |from: &str, to: &str| {
            let (from, to) = (root.join(from), package.join(to));
            std::fs::create_dir_all(to.parent().expect("it is in the package")).unwrap();
            let text = std::fs::read_to_string(&from).unwrap().replace("../..", &root.display().to_string());
            let is_new = std::fs::read_to_string(&to).ok().as_ref() != Some(&text);
            if is_new {
                // A file that has not changed keeps its modification time, so Cargo does not build it again.
                std::fs::write(&to, text).unwrap();
            }
            is_new
        };
        // Cargo removes from its Cargo.lock what the package does not need. So the original is kept beside it, to see
        // whether it has changed.
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
pub fn locked(path: &std::path::Path) -> nix::fcntl::Flock<std::fs::File> {
    let file = std::fs::File::create(path).unwrap();
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap()
}

#[cfg(not(unix))]
pub fn locked(_path: &std::path::Path) {}

/// Makes sure that the programs do not inherit ignored signals.
///
/// If a shell script starts the tests with `&` or `nohup`, they ignore some signals, and so would every program that
/// they start. A signal with a handler, even one that does nothing, gets its default effect in a new program (execve).
#[cfg(unix)]
fn reset_ignored_signals() {
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

/// Returns the command that starts this test binary again, to run only `test` of `module`. That test plays the part
/// that `program` names. It has to exit the process itself: otherwise the test harness prints lines of its own.
pub fn this_binary(module: &str, test: &str, program: &str) -> Command {
    let (_, module) = module.split_once("::").expect("the name of the crate comes first");
    let mut command = Command::new(env::current_exe().expect("a test knows its own path"));
    // With one thread the harness prints `test …` without a newline first, and the program's output would follow it.
    command.args([&format!("{module}::{test}"), "--exact", "--nocapture", "--test-threads=2"]).env(PROGRAM, program);
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Returns which part this process has to play; `None` in an ordinary test run.
pub fn part_to_play() -> Option<String> {
    env::var(PROGRAM).ok()
}

const PROGRAM: &str = "EBBTIDE_TEST_PROGRAM";

/// Prints the crate's log lines of level info and above to standard output, as `WARN text`.
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

/// Runs a test twice at the same time: with the default number of executor threads, and with one. The test gets the
/// function that starts its programs.
pub fn with_each_executor(test: impl Fn(fn(&mut Command) -> Process) + Sync) {
    thread::scope(|scope| {
        let one = scope.spawn(|| test(|command| Process::start(one_thread(command))));
        test(|command| Process::start(usual_threads(command)));
        if let Err(payload) = one.join() {
            eprintln!("this failure is of the run with one executor thread");
            std::panic::resume_unwind(payload);
        }
    });
}

/// One executor thread, whichever runtime the program uses.
fn one_thread(program: &mut Command) -> &mut Command {
    program.env("ASYNC_STD_THREAD_COUNT", "1").env("SMOL_THREADS", "1")
}

/// As many executor threads as processors. smol has one by default.
fn usual_threads(program: &mut Command) -> &mut Command {
    let threads = thread::available_parallelism().unwrap().to_string();
    program.env_remove("ASYNC_STD_THREAD_COUNT").env("SMOL_THREADS", threads)
}

/// Running program. Dropping it kills the program and the processes that the program has started.
pub struct Process {
    child: Child,
    /// Set once the child has been waited for. From then on its id may belong to another process.
    status: Option<ExitStatus>,
    /// The lines of its two outputs; a thread for each output adds them.
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

    /// Starts the program with this standard input; [`say`](Self::say) works only with a pipe.
    pub fn start_with(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        #[cfg(unix)]
        reset_ignored_signals();
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let name = format!("{command:?}");
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let printed = Arc::new(Printed::default());
        printed.follow(child.stdout.take().expect("it is a pipe"), |lines| &mut lines.stdout);
        printed.follow(child.stderr.take().expect("it is a pipe"), |lines| &mut lines.stderr);
        Self { child, status: None, printed, started, name }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the program, and not to the processes that it has started.
    #[cfg(unix)]
    pub fn send(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// Writes a line to the program's standard input.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is a pipe");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("its standard input is closed ({error}): {self}"));
    }

    /// Closes the program's standard input: the program reads EOF.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the line `Server listening on …`, and returns its port.
    pub fn port(&self) -> u16 {
        let line = self.wait_for(LISTENING);
        let (_, port) = line.rsplit_once(':').unwrap_or_else(|| panic!("no port in `{line}`"));
        port.parse().unwrap_or_else(|error| panic!("no port in `{line}`: {error}"))
    }

    /// Waits for the first line on standard output that contains `text`, and returns it.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(1, text)
    }

    /// Waits for the `n`th line, from 1, on standard output that contains `text`, and returns it.
    pub fn wait_for_nth(&self, n: usize, text: &str) -> String {
        let find = |lines: &Lines| lines.stdout.text.iter().filter(|line| line.contains(text)).nth(n - 1).cloned();
        let over = |lines: &Lines| find(lines).is_some() || lines.stdout.ended;
        let found = find(&self.printed.wait(PATIENCE, over));
        found.unwrap_or_else(|| panic!("waited for `{text}` ({n} times): {self}"))
    }

    /// Waits for a line on standard error that contains `text`.
    pub fn wait_for_error(&self, text: &str) {
        let has_it = |lines: &Lines| lines.stderr.text.iter().any(|line| line.contains(text));
        let found = has_it(&self.printed.wait(PATIENCE, |lines| has_it(lines) || lines.stderr.ended));
        assert!(found, "waited for `{text}` on standard error: {self}");
    }

    /// Waits for at most `limit`, and returns whether a line on standard output contains `text`.
    pub fn prints_within(&self, limit: Duration, text: &str) -> bool {
        let has_it = |lines: &Lines| lines.stdout.text.iter().any(|line| line.contains(text));
        has_it(&self.printed.wait(limit, |lines| has_it(lines) || lines.stdout.ended))
    }

    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the state of a child can be read");
        }
        self.status.is_none()
    }

    /// Waits until the program and every process that it has started have closed their outputs, and the program has
    /// ended.
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let ended = self.printed.wait(PATIENCE, Lines::have_ended).have_ended();
        assert!(ended, "its output is still open after {PATIENCE:?}: {self}");
        // A program that has closed its output ends at once, but there is no event for that.
        while self.is_running() {
            assert!(Instant::now() < deadline, "it has closed its output and still runs: {self}");
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
            // The child has not been waited for, so the id is still its own. Its process group contains the processes
            // that it has started.
            #[cfg(unix)]
            let _gone = killpg(pid(self.id()), Signal::SIGKILL);
            let _gone = self.child.kill();
            let _status = self.child.wait();
        }
    }
}

/// Sends a signal to one process. The process must not have been waited for: its id could belong to another one.
#[cfg(unix)]
pub fn send(id: u32, signal: Signal) {
    kill(pid(id), signal).unwrap_or_else(|error| panic!("cannot send {signal} to process {id}: {error}"));
}

#[cfg(unix)]
fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process ids are small"))
}

/// The message for a failing test: command line, state, and everything that the program has printed.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alive = match self.status {
            Some(status) => status.to_string(),
            None => format!("process {} still runs, or has not been waited for", self.id()),
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
    /// Notified after each line, and when an output is closed.
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    stdout: Output,
    stderr: Output,
}

#[derive(Default)]
struct Output {
    text: Vec<String>,
    /// Whether every process that had it has closed it.
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

    /// Adds each line of the pipe, from a thread of its own, until EOF.
    fn follow(self: &Arc<Self>, pipe: impl Read + Send + 'static, output: fn(&mut Lines) -> &mut Output) {
        let this = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { break };
                output(&mut this.lock()).text.push(String::from_utf8_lossy(&line).into_owned());
                this.changed.notify_all();
            }
            output(&mut this.lock()).ended = true;
            this.changed.notify_all();
        });
    }

    /// Waits until `over` returns true, but for at most `limit`.
    fn wait(&self, limit: Duration, over: impl Fn(&Lines) -> bool) -> MutexGuard<'_, Lines> {
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |lines| !over(lines));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
