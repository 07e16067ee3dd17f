//! The pages for readers name files that exist; the page of the guarantees names every file of tests, and that of the log
//! lines every line.

use std::fs;
use std::path::{Path, PathBuf};

const PAGES: [&str; 7] = [
    "README.md",
    "docs/guarantees.md",
    "docs/logs.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "bench/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The targets of the links of a page that are files, and the files that it names as `tests/…`, from its folder.
fn names(text: &str) -> Vec<&str> {
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
        let missing: Vec<_> = names(&text)
            .into_iter()
            .map(|name| name.split('#').next().unwrap())
            .filter(|name| !path.parent().unwrap().join(name).exists())
            .collect();
        assert!(missing.is_empty(), "{page} names what is not there: {missing:?}");
    }
}

#[test]
fn every_file_of_tests_is_on_the_page_of_the_guarantees() {
    let page = fs::read_to_string(root().join("docs/guarantees.md")).unwrap();
    let in_folder = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let binaries = in_folder(root().join("tests")).filter(|path| path.join("main.rs").exists());
    let files = binaries.flat_map(in_folder).filter(|path| !path.ends_with("main.rs"));
    let links = files.map(|path| format!("(../{})", path.strip_prefix(root()).unwrap().display()));
    let missing: Vec<_> = links.filter(|link| !page.contains(link)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

/// The longest part of a text that is the same in every line: what stands between its placeholders.
fn same_in_all(text: &str) -> String {
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
fn every_log_line_is_on_the_page_of_the_log_lines() {
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
                let same = same_in_all(literal).replace('`', "");
                if same.len() >= SHORTEST {
                    looked_at += 1;
                    let first: String = same.trim_matches([' ', ':', '.']).chars().take(30).collect();
                    // Where the call names its level, the line is in that section.
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
    assert!(looked_at > 25, "they are found: {looked_at}");
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
}
