//! The pages for readers name files that exist, and the page of the guarantees names every file of tests.

use std::fs;
use std::path::{Path, PathBuf};

const PAGES: [&str; 6] =
    ["README.md", "docs/guarantees.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md", "bench/README.md"];

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
