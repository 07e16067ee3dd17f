//! Checks over the source: what ARCHITECTURE.md and CONTRIBUTING.md declare absent from the source is absent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules of the crate, from the top layer down. A module may use those below it, and none of its own
/// layer.
const LAYERS: &[&[&str]] = &[
    &["admin", "upgrade"],
    &["http", "systemd"],
    &["services"],
    &["server"],
    &["framing"],
    &["connection"],
    &["error", "handler"],
    &["run"],
    &["listener"],
    &["transport", "limits", "tls", "group"],
    &["proxy", "bind_addrs", "signal"],
    &["address", "sync", "span"],
    &["panic", "origin", "runtime"],
    &["text", "random_bytes"],
];

/// Returns the crate's source without its comments, by file.
fn source() -> BTreeMap<PathBuf, String> {
    fn visit(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.insert(
                    path,
                    text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect(),
                );
            }
        }
    }
    let mut files = BTreeMap::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 40, "only {} files of the source were found", files.len());
    files
}

/// Returns the file's path below `src`.
fn name(path: &Path) -> &Path {
    path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap()
}

/// Returns the text without the file's unit tests.
fn without_tests(text: &str) -> &str {
    text.split("\nmod tests {").next().unwrap()
}

/// Returns the lines of all files that contain one of `parts`, as `file: line`, without unit tests.
fn lines_with(parts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in source() {
        let is_test = path.iter().any(|part| part.to_string_lossy().contains("tests"));
        for line in without_tests(&text).lines().filter(|_| !is_test) {
            if parts.iter().any(|part| line.contains(part)) {
                found.push(format!("{}: {}", name(&path).display(), line.trim()));
            }
        }
    }
    found
}

/// Returns the modules of the crate that a text names by `crate::…`.
fn modules_in(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut modules = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            modules.push(name.trim().chars().take_while(|c| is_part(*c)).collect());
        }
    }
    modules
}

/// The map of ARCHITECTURE.md names each module in the table, and each file under its module.
#[test]
fn the_map_has_each_file() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let (table, rest) = page.split_once("The files of each module").unwrap();
    let (lists, _) = rest.split_once("Beside `src`").unwrap();
    for (path, _) in source() {
        let file = name(&path);
        let parts: Vec<_> = file.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned()).collect();
        let is_of_tests = |part: &str| part.ends_with("tests") || part == "invariants" || part == "model";
        if parts[0] == "lib" || parts.iter().any(|part| is_of_tests(part)) {
            continue;
        }
        let (module, stem) = (&parts[0], parts.last().unwrap());
        assert!(table.contains(&format!("`{module}`")), "the map of ARCHITECTURE.md has no module `{module}`");
        if parts.len() > 1 {
            let list = lists.split("\n- ").find(|list| list.starts_with(&format!("**`{module}`**")));
            let list = list.unwrap_or_else(|| panic!("the map of ARCHITECTURE.md has no list of `{module}`"));
            assert!(list.contains(&format!("`{stem}`")), "`{module}` of ARCHITECTURE.md lacks {}", file.display());
        }
    }
}

#[test]
fn modules_use_only_what_is_below_them() {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut upwards = Vec::new();
    let mut arrows = 0;
    for (path, text) in source() {
        let file = name(&path);
        let module = file.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue; // `lib.rs` names all modules
        }
        let from = layer(&module).unwrap_or_else(|| panic!("`{module}` has no place in `LAYERS`"));
        for used in modules_in(without_tests(&text)) {
            match layer(&used) {
                Some(to) if used != module => {
                    arrows += 1;
                    if to <= from {
                        upwards.push(format!("{} uses {used}", file.display()));
                    }
                }
                _ => {} // the module itself, or an item at the root of the crate
            }
        }
    }
    assert!(arrows > 100, "only {arrows} uses of one module by another were found");
    assert_eq!(upwards, [""; 0]);
}

#[test]
fn only_known_lines_spawn_tasks_and_start_threads() {
    // The runtime's `spawn` for each feature, and its one use.
    let spawns = lines_with(&["task::spawn(", "smol::spawn(", "runtime::spawn(", "spawn_local", "spawn_blocking("]);
    let expected = ["group/executor.rs: ", "runtime.rs: ", "runtime.rs: "];
    assert_eq!(spawns.len(), expected.len(), "{spawns:#?}");
    for (line, file) in spawns.iter().zip(expected) {
        assert!(line.starts_with(file), "{line}");
    }
    // For a resolver, for a folder that another program keeps locked, for a logger that may block, and for the start
    // and the end of a process.
    let spawns = lines_with(&["runtime::unblock(", "unblock(log"]);
    let expected = [
        "bind_addrs.rs: ",
        "listener.rs: ",
        "server/progress.rs: ",
        "upgrade/hand_over.rs: ",
        "upgrade/hand_over.rs: ",
        "upgrade/hand_over.rs: ",
    ];
    assert_eq!(spawns.len(), expected.len(), "{spawns:#?}");
    for (line, file) in spawns.iter().zip(expected) {
        assert!(line.starts_with(file), "{line}");
    }
    let threads = lines_with(&["thread::spawn", "thread::Builder", "thread::scope"]);
    let expected = ["admin/own_thread.rs: ", "signal/stream.rs: ", "signal/take.rs: "];
    assert_eq!(threads.len(), expected.len(), "{threads:#?}");
    for (line, file) in threads.iter().zip(expected) {
        assert!(line.starts_with(file), "{line}");
    }
}

/// `main` prints the `Debug` of the error inside an `io::Error`, so this error must be one whose `Debug` is a sentence:
/// see `text.rs`.
#[test]
fn io_errors_are_made_in_known_places_that_give_them_a_sentence() {
    let made = lines_with(&["io::Error::new(", "io::Error::other(", "map_err(io::Error::other)", "Self::other("]);
    // An error of the crate whose `Debug` is a sentence; a custom listener's error, unchanged; and texts.
    let expected = ["group/join_handle.rs: ", "listener/custom.rs: ", "text.rs: ", "tls.rs: "];
    for line in made.iter().filter(|line| !line.contains("assert")) {
        assert!(expected.iter().any(|file| line.starts_with(file)), "use `text::explained`: {line}");
    }
    assert!(made.len() > 3, "too few places were found: {made:#?}");
}

/// A timer is a deadline, an interval of the log, or a pause that an event ends. Code that sleeps and then looks again
/// is in this list, and ARCHITECTURE.md has the reason.
#[test]
fn only_known_places_look_again_after_a_sleep() {
    let sleeps = lines_with(&["thread::sleep", "task::sleep", "sleep(", "Timer::interval"]);
    let is_other = |line: &str| line.contains("sleep_until") || line.contains("fn sleep("); // of hyper's `Timer`
    let polling: Vec<_> = sleeps.iter().filter(|line| !is_other(line)).collect();
    assert_eq!(polling.len(), 1, "{polling:#?}");
    assert!(polling[0].starts_with("listener/unix/stale.rs: "), "{polling:?}");
    let awaited = lines_with(&["Timer::after("]);
    let awaited: Vec<_> = awaited.iter().filter(|line| line.contains(".await")).collect();
    let expected = [
        "admin/live.rs: ",
        "admin/probes.rs: ",
        "connection.rs: ",
        "http.rs: ",
        "server/accept.rs: ",
        "server/progress.rs: ",
        "server/shutdown.rs: ",
        "server/shutdown.rs: ",
        "server/vanished.rs: ",
        "transport/peek.rs: ",
    ];
    assert_eq!(awaited.len(), expected.len(), "{awaited:#?}");
    for (line, file) in awaited.iter().zip(expected) {
        assert!(line.starts_with(file), "{line}");
    }
}

#[test]
fn one_module_names_the_runtime_and_signals_do_not_use_the_server() {
    let named = lines_with(&["async_std::", "smol::", "tokio::", "async_executor::", "blocking::"]);
    let named: Vec<_> = named.iter().filter(|line| !line.contains(": # ")).collect(); // hidden lines of an example
    assert!(named.len() > 1, "{named:#?}");
    // The admin listener has an executor of its own, which needs no runtime.
    let is_own = |line: &str| line.starts_with("admin/own_thread.rs: ") && line.contains("async_executor::");
    assert!(named.iter().all(|line| line.starts_with("runtime.rs: ") || is_own(line)), "{named:#?}");
    let in_group: Vec<_> = lines_with(&["async_io"]).into_iter().filter(|line| line.starts_with("group")).collect();
    assert_eq!(in_group, [""; 0]);
    for (path, text) in source() {
        if name(&path).starts_with("signal") || name(&path) == Path::new("signal.rs") {
            let used = modules_in(without_tests(&text));
            assert!(used.iter().all(|module| module == "panic" || module == "text"), "{}: {used:?}", path.display());
        }
    }
}

#[test]
fn every_log_line_goes_through_the_macro_that_catches_a_loggers_panic() {
    let direct =
        lines_with(&["log::error!", "log::warn!", "log::info!", "log::debug!", "log::trace!", "log::log!", "println!"]);
    // Only the macro itself calls the logger. `random_bytes` is a part of the tests.
    let is_known = |line: &String| line.starts_with("panic.rs: ") || line.starts_with("random_bytes.rs: ");
    assert!(direct.iter().all(is_known), "{direct:#?}");
}

#[test]
fn locks_are_taken_through_one_function() {
    // `sync::lock` ignores poisoning, and uses loom's locks in a model. The allowed files use `try_lock`, or are never
    // part of a loom model.
    let direct = lines_with(&[".lock()", ".try_lock()"]);
    let allowed = ["sync.rs: ", "transport/boxed.rs: ", "signal.rs: ", "systemd.rs: ", "group/join_handle.rs: "];
    for line in &direct {
        assert!(allowed.iter().any(|file| line.starts_with(file)), "{line}");
    }
}
