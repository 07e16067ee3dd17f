//! The figures that the pages quote from `RESULTS.md` are the ones that are there, so that a new table cannot leave an
//! old sentence behind.

use std::fs;
use std::path::Path;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A page without line breaks, so that a phrase may go over the end of a line.
fn text(name: &str) -> String {
    page(name).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The table of `RESULTS.md`, by the names of its columns.
struct Results {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Results {
    fn read() -> Self {
        let cells =
            |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let page = page("RESULTS.md");
        let mut rows = page.lines().filter(|line| line.starts_with("| ")).map(cells);
        let columns = rows.next().unwrap();
        Self { columns, rows: rows.collect() }
    }

    fn cell(&self, work: &str, threads: &str, server: &str, column: &str) -> &str {
        let at = self.columns.iter().position(|name| name == column).unwrap_or_else(|| panic!("no column `{column}`"));
        let row = self.rows.iter().find(|row| row[..3] == [work, threads, server]);
        &row.unwrap_or_else(|| panic!("no row of `{work}` with {threads}, `{server}`"))[at]
    }

    /// The ratio to the better form of tokio, the first of the cell.
    fn of_tokio(&self, work: &str, threads: &str, server: &str) -> &str {
        let cell = self.cell(work, threads, server, "of tokio");
        cell.split(' ')
            .next()
            .filter(|ratio| ratio.parse::<f64>().is_ok())
            .unwrap_or_else(|| panic!("no ratio: {cell}"))
    }
}

#[test]
fn the_pages_quote_the_last_table() {
    let results = Results::read();
    let of = |work, threads, server| results.of_tokio(work, threads, server);
    let heap = |server| {
        let cell = results.cell("memory-of-10000", "1", server, "heap (resident) B/conn.");
        let (heap, resident) = cell.trim_end_matches(')').split_once(" (").unwrap();
        (heap.parse::<u32>().unwrap() - 1024, with_comma(resident.parse().unwrap()))
    };
    let (ours, tokios, bares) = (heap("ebbtide"), heap("tokio"), heap("async-std"));
    let (one, two) = (of("echo64x1", "1", "ebbtide"), of("echo64x1", "2", "ebbtide"));
    let quotes = [
        ("../README.md", format!("a message then costs {one} of tokio's CPU in place of {two}.")),
        ("README.md", format!("one connection costs {one} of tokio in place of {two}.")),
        (
            "README.md",
            format!(
                "**A short connection** costs {} of tokio with one worker, and {} with two",
                of("connect-close", "1", "ebbtide"),
                of("connect-close", "2", "ebbtide"),
            ),
        ),
        ("README.md", format!("**A short connection with HTTP** ({})", of("http1-close", "1", "ebbtide"))),
        (
            "README.md",
            format!(
                "(`1MiBx4-large-buffer`, {} with `more`, {} with `until_draining`)",
                of("1MiBx4-large-buffer", "1", "ebbtide"),
                of("1MiBx4-large-buffer", "1", "ebbtide-until"),
            ),
        ),
        ("README.md", format!("With 1 KiB ebbtide is at {}.", of("1MiBx4", "1", "ebbtide"))),
        (
            "README.md",
            format!(
                "ebbtide takes {} bytes in the last table, tokio {} and async-std {}. (In the resident set, with the \
                 buffer, ebbtide takes {} bytes and tokio {}.)",
                with_comma(ours.0),
                tokios.0,
                bares.0,
                ours.1,
                tokios.1,
            ),
        ),
        ("README.md", format!("The floor is at {} of tokio here", of("echo64x1", "2", "async-io"))),
    ];
    for (name, quote) in quotes {
        assert!(text(name).contains(&quote), "bench/{name} does not say what RESULTS.md says: {quote}");
    }
    for (work, threads) in [
        ("open-loop-30%", "1"),
        ("open-loop-60%", "1"),
        ("10000-once-a-second", "1"),
        ("open-loop-30%", "2"),
        ("open-loop-60%", "2"),
    ] {
        let [floor, ours, bare] = ["async-io", "ebbtide", "async-std"].map(|server| of(work, threads, server));
        let row = format!("| `{work}` | {threads} | {floor} | {ours} | {bare} |");
        assert!(text("README.md").contains(&row), "bench/README.md does not say what RESULTS.md says: {row}");
    }
}

/// Figures in words, and what they stand for.
#[test]
fn the_readmes_words_fit_the_last_table() {
    let results = Results::read();
    let of = |work, threads| results.of_tokio(work, threads, "ebbtide").parse::<f64>().unwrap();
    let cpu = |work, threads, server| results.cell(work, threads, server, "CPU µs/op").parse::<f64>().unwrap();
    let on_tokio = |work, threads| cpu(work, threads, "ebbtide-on-tokio") / cpu(work, threads, "ebbtide");
    let words = [
        ("about as much CPU as with tokio if the server is busy", of("echo64x64", "1"), 0.95..1.05),
        ("up to six tenths more if each is waited for", of("echo64x1", "2"), 1.5..1.65),
        ("A short connection costs a tenth more than with tokio at its best", of("connect-close", "1"), 1.05..1.15),
        ("with TLS too", of("tls-connect", "1"), 1.05..1.15),
        ("and a quarter more with two workers", of("connect-close", "2"), 1.18..1.32),
        ("(a quarter more with two workers)", of("echo64x64", "2"), 1.18..1.32),
        ("a message costs as much CPU with one thread", on_tokio("echo64x64", "1"), 0.95..1.07),
        ("half as much again with two", on_tokio("echo64x64", "2"), 1.4..1.6),
        ("and a child twice as much", on_tokio("children-of-a-task", "1"), 1.8..2.2),
    ];
    let readme = text("../README.md");
    for (words, ratio, range) in words {
        assert!(readme.contains(words), "the README does not say `{words}` any more: change this test with it");
        assert!(range.contains(&ratio), "`{words}`: RESULTS.md has {ratio}");
    }
}

fn with_comma(number: u32) -> String {
    match number {
        1000.. => format!("{},{:03}", number / 1000, number % 1000),
        _ => number.to_string(),
    }
}
