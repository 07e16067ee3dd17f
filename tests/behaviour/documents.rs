//! The Markdown pages match the repository: the files that they name exist, `docs/guarantees.md` links every test file,
//! `docs/logs.md` has every log line, `docs/admin.md` every metric, and every public function has an example.

use std::fs;
use std::path::{Path, PathBuf};

const PAGES: [&str; 11] = [
    "README.md",
    "docs/admin.md",
    "docs/guarantees.md",
    "docs/guide.md",
    "docs/logs.md",
    "docs/reliability.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "bench/README.md",
    "deploy/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files that a page links to or names as `tests/…`, relative to the page's folder.
fn named_files(text: &str) -> Vec<&str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let files = links.filter(|target| !target.contains("://") && !target.starts_with('#'));
    let words = text.split(|c: char| c.is_whitespace() || "`()[],;".contains(c));
    files.chain(words.filter(|word| word.starts_with("tests/") && word.ends_with(".rs"))).collect()
}

#[test]
fn every_file_that_a_page_names_exists() {
    for page in PAGES {
        let path = root().join(page);
        let text = fs::read_to_string(&path).unwrap();
        let missing: Vec<_> = named_files(&text)
            .into_iter()
            .map(|name| name.split('#').next().unwrap())
            .filter(|name| !path.parent().unwrap().join(name).exists())
            .collect();
        assert!(missing.is_empty(), "{page} names files that do not exist: {missing:?}");
    }
}

#[test]
fn the_page_of_guarantees_links_every_test_file() {
    let page = fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let in_folder = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let binaries = in_folder(root().join("tests")).filter(|path| path.join("main.rs").exists());
    let files = binaries.flat_map(in_folder).filter(|path| !path.ends_with("main.rs"));
    let links = files.map(|path| format!("(../{})", path.strip_prefix(root()).unwrap().display()));
    let missing: Vec<_> = links.filter(|link| !page.contains(link)).collect();
    assert!(missing.is_empty(), "docs/guarantees.md does not link: {missing:?}");
}

#[test]
fn the_page_of_the_admin_listener_has_every_metric_and_no_other() {
    let page = fs::read_to_string(root().join("docs/admin.md")).unwrap();
    let code = fs::read_to_string(root().join("src/admin/metrics.rs")).unwrap();
    let (counters, gauges) = code.split_once("const GAUGES").unwrap();
    let names = |code| str::split(code, "name: \"").skip(1).map(|rest: &str| rest.split('"').next().unwrap());
    let counters = names(counters).map(|name| format!("{name}_total"));
    let mut expected: Vec<_> = counters.chain(names(gauges).map(String::from)).collect();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `ebbtide_"));
    let mut listed: Vec<_> = rows.map(|row| format!("ebbtide_{}", row.split('`').next().unwrap())).collect();
    expected.sort_unstable();
    listed.sort_unstable();
    assert!(expected.len() > 10);
    assert_eq!(listed, expected);
}

/// Every public function shows its use in an example, which runs as a doctest.
#[test]
fn every_public_function_has_an_example() {
    fn visit(folder: &Path, functions: &mut usize, without: &mut Vec<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                visit(&path, functions, without);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().map(str::trim_start).collect();
            for (n, line) in lines.iter().enumerate() {
                if !line.starts_with("pub fn ") && !line.starts_with("pub async fn ") {
                    continue;
                }
                *functions += 1;
                let docs = lines[..n].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
                let is_shown = docs.clone().any(|line| line.contains("```") || line.contains("_example!("));
                if !is_shown && !docs.clone().any(|line| line.contains("doc(hidden)")) {
                    without.push(format!("{}: {line}", path.display()));
                }
            }
        }
    }
    let (mut functions, mut without) = (0, Vec::new());
    visit(&root().join("src"), &mut functions, &mut without);
    assert!(functions > 200, "only {functions} public functions were found");
    assert!(without.is_empty(), "public functions without an example: {without:#?}");
}

/// Returns the longest part of a format string between its placeholders: this text is in every line of that format.
fn longest_fixed_part(text: &str) -> String {
    let text = text.replace("\\\n", "");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = text.split('{').flat_map(|part| part.rsplit('}').take(1)).map(str::to_owned);
    parts.max_by_key(String::len).unwrap_or_default()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn the_page_of_log_lines_has_every_line_in_the_section_of_its_level() {
    const SHORTEST: usize = 12;
    let page = fs::read_to_string(root().join("docs/logs.md")).unwrap().replace('`', "");
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let (mut looked_at, mut missing) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for call in ["run_line!(", "log_line!(", "EndLine::new("] {
            for (at, _) in code.match_indices(call) {
                let is_doc = code[..at].rsplit('\n').next().unwrap().trim_start().starts_with("//");
                let Some(literal) = code[at..].split('"').nth(1).filter(|_| !is_doc) else { continue };
                let fixed = longest_fixed_part(literal).replace('`', "");
                if fixed.len() >= SHORTEST {
                    looked_at += 1;
                    let first: String = fixed.trim_matches([' ', ':', '.']).chars().take(30).collect();
                    // If the call names its level, the line has to be in that section.
                    let level = code[at + call.len()..].trim_start().trim_start_matches("Level::");
                    let level = ["error", "warn", "info", "debug"]
                        .into_iter()
                        .find(|name| level.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name)));
                    let section = level.and_then(|level| page.split("\n## ").find(|part| part.starts_with(level)));
                    if !section.unwrap_or(&page).contains(&first) {
                        missing.push(format!("{}: {first}", file.strip_prefix(root()).unwrap().display()));
                    }
                }
            }
        }
    }
    assert!(looked_at > 25, "only {looked_at} log lines were found in the source");
    assert!(missing.is_empty(), "docs/logs.md does not have: {missing:#?}");
}
