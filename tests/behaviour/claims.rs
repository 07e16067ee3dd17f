//! What the pages claim is checked: each guarantee names tests that exist, each way out has one, and what
//! ARCHITECTURE.md counts and declares absent is so in the source. (`structure` has the absences that are about spawning,
//! sleeping and logging; `documents` has the links.)

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Returns the files below a folder, with their text.
fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => {
                    found.push((path.strip_prefix(root()).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
                }
                _ => {}
            }
        }
    }
    assert!(!found.is_empty());
    found.sort();
    found
}

/// Returns the lines of the crate's code that contain a text, as `file: line`. Without comments and unit tests.
fn code_with(what: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files("src").iter().filter(|(path, _)| !path.to_string_lossy().contains("tests")) {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains(what)) {
            found.push(format!("{}: {}", path.strip_prefix("src").unwrap().display(), line.trim()));
        }
    }
    found
}

/// Returns the cells of a page's table rows that begin with a text.
fn rows(page: &str, begin: &str) -> Vec<Vec<String>> {
    let lines = page.lines().map(|line| line.trim_start_matches("//! ")).filter(|line| line.starts_with(begin));
    lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Returns the labels and the targets of a text's links.
fn links(text: &str) -> Vec<(&str, &str)> {
    let links = text.split('[').skip(1).filter_map(|rest| rest.split_once("](").zip(Some(rest)));
    links.map(|((label, rest), _)| (label.trim_matches('`'), rest.split(')').next().unwrap())).collect()
}

/// Returns whether the file, or one of the folder beside it, has a test.
fn has_test(path: &Path) -> bool {
    if path.is_dir() && !path.join("mod.rs").exists() {
        return true; // the parts of a test that the row links beside it
    }
    let folder = path.with_extension("");
    let beside = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let files = beside.chain([path.to_owned()]).filter(|file| file.is_file());
    files.into_iter().any(|file| fs::read_to_string(file).unwrap().contains("#[test]"))
}

#[test]
fn each_guarantee_names_tests_that_exist() {
    let page = page("docs/guarantees.md");
    let body =
        page.split("|---|").skip(1).flat_map(|table| table.lines().skip(1).take_while(|line| line.starts_with('|')));
    let mut looked_at = 0;
    for row in body {
        let links = links(row);
        assert!(!links.is_empty(), "a guarantee without a test: {row}");
        for (label, target) in links {
            let path = root().join("docs").join(target);
            let is_module = Path::new(target).file_stem().unwrap().to_str() == Some(label);
            assert!(is_module || label.contains(' ') || label == "models", "`{label}` links {target}");
            assert!(has_test(&path), "{target} has no test");
            looked_at += 1;
        }
    }
    assert!(looked_at > 100, "only {looked_at} links were found");
}

/// `cargo test r04` runs the tests of R4. The tests of R13 are about one thing each (signals, forks, inherited sockets),
/// and have no number.
#[test]
fn each_rule_has_tests_with_its_number() {
    let (page, all) = (page("docs/guarantees.md"), [files("tests"), files("src")].concat());
    let rules = rows(&page, "| R");
    let names: Vec<_> = rules.iter().map(|row| row[0].trim_start_matches('R').parse::<usize>().unwrap()).collect();
    assert_eq!(names, (1..=14).collect::<Vec<_>>());
    assert!(self::page("README.md").contains("the fourteen rules"));
    for number in names.into_iter().filter(|number| *number != 13) {
        let begin = format!("fn r{number:02}_");
        assert!(all.iter().any(|(_, text)| text.contains(&begin)), "no test of R{number} has its number");
    }
}

/// The ways out as README and the crate's page list them, each with its test.
const WAYS_OUT: [(&[&str], &str); 6] = [
    (&["the body of a"], "r01_the_body_returned"),
    (&["of `Handle::shutdown()`", "of [`Handle::shutdown`]"], "r01_the_handle_asked_for_a_shutdown"),
    (&["the body panicked"], "r01_the_body_panicked"),
    (&["a listener failed for good"], "r01_a_listener_failed_for_good"),
    (&["of `Handle::cancel()`", "of [`Handle::cancel`]"], "r01_the_handle_cancelled"),
    (&["the future"], "r01_the_future_was_dropped_by_a_timeout"),
];

#[test]
fn readme_and_the_crates_page_list_the_same_ways_out_and_each_has_a_test() {
    let tests = page("tests/behaviour/r01_one_exit.rs");
    for name in ["README.md", "src/lib.rs"] {
        let text = page(name);
        let table = text.split("| control leaves the server because").nth(1).expect("the table of the ways out");
        let table = table.lines().skip(2).map(|line| line.trim_start_matches("//! "));
        let table: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
        assert_eq!(table.len(), WAYS_OUT.len(), "{name}: {table:#?}");
        for (row, (begins, test)) in table.iter().zip(WAYS_OUT) {
            let row = row.trim_start_matches("| ");
            assert!(begins.iter().any(|begin| row.starts_with(begin)), "{name}: {row}");
            assert!(tests.contains(&format!("fn {test}()")), "there is no test `{test}`");
        }
    }
}

#[test]
fn the_two_walks_through_the_source_name_as_many_files_as_they_say_and_all_exist() {
    let page = page("ARCHITECTURE.md");
    for (begin, end) in [("## One connection", "With the feature"), ("## One shutdown", "## Invariants")] {
        let walk = page.split(begin).nth(1).unwrap().split(end).next().unwrap();
        let named: BTreeSet<_> = walk.split('`').filter(|word| word.ends_with(".rs")).collect();
        let missing: Vec<_> = named.iter().filter(|name| !root().join("src").join(name).exists()).collect();
        assert!(missing.is_empty(), "{begin}: there are no files {missing:?}");
        let said = walk.split(" files.").next().unwrap().rsplit(' ').next().unwrap();
        assert_eq!(said.parse(), Ok(named.len()), "{begin}: {named:?}");
    }
}

/// "No state outside a run, except": each of these has a word there.
const STATE: [(&str, &str); 17] = [
    ("group/executor.rs", "executor"),
    ("group/spawn_time.rs", "beginning of time"),
    ("group/wait_graph.rs", "graph of waits"),
    ("listener/unix/stale.rs", "temporary file"),
    ("origin.rs", "the process in which the runtime runs"),
    ("run/completion.rs", "the run of the code that runs"),
    ("signal/stream.rs", "their streams"),
    ("signal/take.rs", "signals that are taken"),
    ("signal/take_windows.rs", "signals that are taken"),
    ("sync.rs", "the thread's number"),
    ("sync/coop.rs", "counts of yields and of refusals"),
    ("sync/model/clock.rs", "the clock of the model"),
    ("systemd.rs", "systemd's sockets"),
    ("transport/scratch.rs", "buffer"),
    ("transport/spurious.rs", "beginning of time"),
    ("transport/tcp_info.rs", "whether the kernel reports"),
    ("upgrade/predecessor.rs", "those of a previous generation"),
];

#[test]
fn state_outside_a_run_is_only_where_architecture_lists_it() {
    let page = page("ARCHITECTURE.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let list = page.split("No state outside a run, except:").nth(1).unwrap().split("## Boundaries").next().unwrap();
    let begins = ["static ", "pub static ", "pub(crate) static ", "thread_local!(static "];
    let found = code_with("static ");
    let found = found.iter().filter_map(|line| line.split_once(": "));
    let found: BTreeSet<_> =
        found.filter(|(_, code)| begins.iter().any(|begin| code.starts_with(begin))).map(|(file, _)| file).collect();
    assert_eq!(found, STATE.iter().map(|(file, _)| *file).collect());
    for (file, word) in STATE {
        assert!(list.contains(word), "ARCHITECTURE.md does not mention the state of {file}: {word}");
    }
}

#[test]
fn a_connections_end_is_counted_in_one_line_and_threads_wait_for_each_other_in_one_file() {
    let counted = code_with("counters.ended(");
    assert_eq!(counted.len(), 1, "{counted:#?}");
    assert!(counted[0].starts_with("connection/task.rs: "), "{counted:#?}");
    let waits = [code_with("Condvar"), code_with("park("), code_with("Barrier")].concat();
    let is_known = |line: &&String| !line.starts_with("group/slot.rs: ") && !line.starts_with("sync.rs: ");
    let unknown: Vec<_> = waits.iter().filter(is_known).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// A jump of the wall clock ends no connection: the wall clock only gives the dates in the lists of the admin listener,
/// and decides which certificates are valid.
#[test]
fn no_time_limit_counts_from_the_wall_clock() {
    let reads = ["SystemTime", "UNIX_EPOCH", "UnixTime"].map(code_with).concat();
    assert!(!reads.is_empty());
    let is_known = |line: &&String| !line.starts_with("admin/lists.rs: ") && !line.starts_with("tls");
    let unknown: Vec<_> = reads.iter().filter(is_known).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn there_is_no_unsafe_code_and_each_dependency_has_its_purpose_beside_it() {
    assert_eq!(code_with("unsafe ").iter().filter(|line| !line.contains("unsafe_code")).count(), 0);
    let cargo = page("Cargo.toml");
    assert!(cargo.contains("unsafe_code = \"forbid\""));
    let mut without = Vec::new();
    let mut kind = "";
    let lines: Vec<_> = cargo.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        if line.starts_with('[') {
            kind = line;
        }
        let is_one =
            !line.starts_with('[') && kind.contains("dependencies]") && !kind.contains("dev-") && line.contains(" = ");
        if is_one && !line.starts_with('#') && !line.contains(" # ") && !lines[n - 1].starts_with('#') {
            without.push(line);
        }
    }
    assert!(without.is_empty(), "dependencies without a purpose: {without:#?}");
}

#[test]
fn readme_lists_each_feature_and_the_oldest_compiler() {
    let (readme, cargo) = (page("README.md"), page("Cargo.toml"));
    let features = cargo.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    let features = features.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    let features: BTreeSet<_> = features.filter(|name| *name != "default").collect();
    let table = readme.split("| feature | adds |").nth(1).unwrap().lines().skip(2);
    let rows = table.take_while(|line| line.starts_with('|')).map(|line| line.split('`').nth(1).unwrap());
    assert_eq!(rows.collect::<BTreeSet<_>>(), features);
    let version = cargo.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(readme.contains(&format!("Rust {version} or later")), "README names another compiler than {version}");
}
