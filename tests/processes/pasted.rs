//! Programs that readers copy compile in an empty package, and those of the guide print what the guide shows.
//!
//! There are three kinds of programs: the examples, and each `rust` block with a `fn main` in README.md and in
//! docs/guide.md. Each is a `src/bin/NAME.rs` in a fresh package that has only the dependencies that its text names.
//! Programs with the same dependencies share a package. The packages are a workspace in the target folder, which
//! resolves offline by a copy of this crate's Cargo.lock.
//!
//! | program | its dependencies are those of | checked |
//! |---|---|---|
//! | example | the `toml` block of its header | compiles without a warning, and uses each dependency |
//! | block of a page | the `toml` blocks before it, else all of the page, else [`USUAL`] | compiles without a warning |
//! | block of the guide, followed by a `text` block | the same | also prints exactly that |
//!
//! No test uses a fixed port: a program of a page has `127.0.0.1:0` in place of `127.0.0.1:8888`, and gets the same as
//! its argument. In its output each port of that address becomes 8888. A `…` in an expected line stands for any text,
//! and a line `…` for any lines. A program that takes signals and still runs after [`UNTIL_SIGINT`] gets a SIGINT.
//!
//! A program that needs a feature of this crate is skipped in a build without it: then the dependencies of the feature
//! may not have been downloaded.

use crate::examples;
use crate::support::process::{ANY_PORT, Process, locked};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The dependencies of a program on a page that names no others.
const USUAL: &str = r#"
async-std = { version = "1.13", features = ["attributes"] }
ebbtide = "0.1"
femme = "2.2"
"#;

/// Longer than a program takes that sends itself a signal.
const UNTIL_SIGINT: Duration = Duration::from_secs(10);

/// The address in the programs of the pages.
const FIXED_PORT: &str = "127.0.0.1:8888";

/// The features of this crate, and whether this build has them.
const FEATURES: [(&str, bool); 7] = [
    ("admin", cfg!(feature = "admin")),
    ("http", cfg!(feature = "http")),
    ("smol", cfg!(feature = "smol")),
    ("tls", cfg!(feature = "tls")),
    ("proxy-protocol", cfg!(feature = "proxy-protocol")),
    ("systemd", cfg!(all(feature = "systemd", target_os = "linux"))),
    ("upgrade", cfg!(all(feature = "upgrade", unix))),
];

#[test]
fn each_example_compiles_with_the_dependencies_of_its_header_and_uses_them_all() {
    let programs = examples::sources().into_iter().map(|(name, source)| {
        let header = header(&source);
        let dependencies = blocks(&header).find(|block| block.info == "toml");
        let dependencies = dependencies.unwrap_or_else(|| panic!("the header of `{name}` names its dependencies"));
        Program { name, source, dependencies: entries(&dependencies.text), uses_all: true, prints: None }
    });
    Pasted::new("examples", programs.collect()).cargo("check");
}

#[test]
fn each_whole_program_of_the_readme_compiles() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    Pasted::new("readme", programs_of("readme", &page)).cargo("check");
}

#[test]
fn each_whole_program_of_the_guide_prints_what_the_guide_shows() {
    let page = fs::read_to_string(root().join("docs/guide.md")).unwrap();
    let pasted = Pasted::new("guide", programs_of("guide", &page));
    let folder = pasted.cargo("build");
    // A few at a time: they show what happens within tenths of a second, and must not hold each other up.
    let programs: Vec<_> = pasted.programs.iter().filter(|program| program.prints.is_some()).collect();
    for some in programs.chunks(3) {
        thread::scope(|scope| {
            for program in some {
                let path = folder.join(format!("{}{}", program.name, env::consts::EXE_SUFFIX));
                scope.spawn(move || program.run(&path));
            }
        });
    }
}

#[test]
fn a_missing_dependency_an_unused_one_and_a_warning_are_found() {
    let source = "fn main() {\n    femme::start();\n}\n";
    let program = |name: &str, source: &str, dependencies: &str| Program {
        name: name.to_owned(),
        source: source.to_owned(),
        dependencies: entries(dependencies),
        uses_all: true,
        prints: None,
    };
    let programs = vec![
        program("good", source, "[dependencies]\nfemme = \"2.2\"\n"),
        program("lacking", source, ""),
        program("unused", "fn main() {}\n", "femme = \"2.2\""),
        program("warned", "fn main() {\n    let a = 1;\n}\n", ""),
    ];
    let errors = Pasted::new("self_test", programs).try_cargo("check").unwrap_err();
    for expected in ["`femme`", "extern crate `femme` is unused in crate `unused`", "unused variable: `a`"] {
        assert!(errors.contains(expected), "no `{expected}`: {errors}");
    }
    assert!(!errors.contains("good"), "{errors}");
}

#[test]
fn programs_are_found_in_a_page() {
    let page = "\
```toml
[dependencies]
femme = \"2.1\" # old
[profile.dev]
debug = false
```
```rust,no_run
# use a::b;
#[main]
fn main() {}
```

text

```text
one
```
```rust
fn f() {}
```
```rust,compile_fail,E0599
fn main() {}
```
```rust
fn main() { \"127.0.0.1:8888\" }
```
";
    let programs = programs_of("page", page);
    let found: Vec<_> = programs.iter().map(|program| (&*program.name, &*program.source, &program.prints)).collect();
    assert_eq!(
        found,
        [
            ("page_1", "use a::b;\n#[main]\nfn main() {}\n", &Some("one\n".to_owned())),
            ("page_2", "fn main() { \"127.0.0.1:0\" }\n", &None)
        ]
    );
    assert_eq!(programs[0].dependencies["femme"], "\"2.1\"");
    assert_eq!(programs[0].dependencies.len(), 1);
}

#[test]
fn this_crate_is_taken_from_its_folder() {
    let here = format!("path = {:?}", root().display().to_string());
    assert_eq!(local("\"0.1\""), format!("{{ {here}, version = \"0.1\" }}"));
    assert_eq!(
        local("{ version = \"0.1\", features = [\"tls\"] }"),
        format!("{{ {here}, version = \"0.1\", features = [\"tls\"] }}")
    );
    assert_eq!(local("{ path = \"../ebbtide\" }"), format!("{{ {here} }}"));
}

#[test]
fn output_is_compared_exactly_except_for_ports_and_dots() {
    let lines = |lines: &[&str]| lines.iter().map(|line| normalised(line)).collect::<Vec<_>>();
    let printed = lines(&["from 127.0.0.1:1234 to 127.0.0.1:56", "log", "log", "in 5 ms, 1 of 2"]);
    assert_eq!(printed[0], "from 127.0.0.1:8888 to 127.0.0.1:8888");
    assert!(matches(&printed, &["from 127.0.0.1:8888 to 127.0.0.1:8888", "…", "in … ms, … of 2"]));
    assert!(matches(&printed[..1], &["…", "from …", "…"]));
    assert!(!matches(&printed, &["from …", "…", "in … ms"]));
    assert!(!matches(&printed, &["from …", "log", "in …"]));
    assert!(!matches(&printed[..1], &[]));
}

/// A program and what its text promises.
struct Program {
    name: String,
    source: String,
    dependencies: Dependencies,
    /// A dependency that it does not use is an error.
    uses_all: bool,
    prints: Option<String>,
}

/// The lines of a `[dependencies]` section: name and value.
type Dependencies = BTreeMap<String, String>;

fn entries(toml: &str) -> Dependencies {
    let mut section = "[dependencies]";
    let mut entries = Dependencies::new();
    for line in toml.lines() {
        match line.split_once('=') {
            _ if line.starts_with('[') => section = line.trim(),
            Some((name, value)) if section == "[dependencies]" => {
                let value = value.split(" #").next().unwrap_or_default();
                entries.insert(name.trim().to_owned(), value.trim().to_owned());
            }
            _ => {}
        }
    }
    entries
}

impl Program {
    fn needs_a_feature_that_is_off(&self) -> bool {
        let ebbtide = self.dependencies.get("ebbtide").map_or("", String::as_str);
        FEATURES.iter().any(|(name, is_on)| !is_on && ebbtide.contains(&format!("\"{name}\"")))
    }

    /// Returns the package for programs with the same dependencies, and its Cargo.toml.
    fn package(&self) -> (String, String) {
        let mut dependencies = String::new();
        for (name, value) in &self.dependencies {
            let value = if name == "ebbtide" { &local(value) } else { value };
            dependencies += &format!("{name} = {value}\n");
        }
        let lints = if self.uses_all { "unused_crate_dependencies = \"deny\"\n" } else { "" };
        let words = dependencies.replace(&root().display().to_string(), "");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let name = ["pasted"].into_iter().chain(words).collect::<Vec<_>>().join("-");
        let text = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\
             [lints.rust]\nwarnings = {{ level = \"deny\", priority = -1 }}\n{lints}"
        );
        (name, text)
    }

    /// Runs the program, and checks what it prints on standard output and then on standard error.
    fn run(&self, path: &Path) {
        let mut process = Process::start(Command::new(path).arg(ANY_PORT).env("RUST_BACKTRACE", "0"));
        #[cfg(unix)]
        if self.source.contains("signal::") {
            let started = Instant::now();
            while process.is_running() && started.elapsed() < UNTIL_SIGINT {
                thread::sleep(Duration::from_millis(20));
            }
            if process.is_running() {
                process.send(nix::sys::signal::Signal::SIGINT);
            }
        }
        let ended = process.wait();
        let printed: Vec<_> = ended.stdout.iter().chain(&ended.stderr).map(|line| normalised(line)).collect();
        let expected: Vec<_> = self.prints.as_deref().unwrap_or_default().lines().collect();
        assert!(
            matches(&printed, &expected),
            "{} prints {printed:#?} instead of {expected:#?} ({ended:?}):\n{}",
            self.name,
            self.source
        );
    }
}

/// Returns the dependency on this crate as its folder, whether the text names a version or a path.
fn local(value: &str) -> String {
    let here = format!("path = {:?}", root().display().to_string());
    match value.split_once("path = \"") {
        Some((before, after)) => before.to_owned() + &here + after.split_once('"').expect("a path ends").1,
        None => match value.strip_prefix("{ ") {
            Some(rest) => format!("{{ {here}, {rest}"),
            None => format!("{{ {here}, version = {value} }}"),
        },
    }
}

/// A workspace of programs.
struct Pasted {
    folder: PathBuf,
    programs: Vec<Program>,
}

impl Pasted {
    fn new(name: &str, mut programs: Vec<Program>) -> Self {
        programs.retain(|program| !program.needs_a_feature_that_is_off());
        Self { folder: programs_folder().join("pasted").join(name), programs }
    }

    fn cargo(&self, command: &str) -> PathBuf {
        self.try_cargo(command).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Runs `cargo check` or `cargo build`, and returns the folder of what was built, or what cargo prints.
    fn try_cargo(&self, command: &str) -> Result<PathBuf, String> {
        fs::create_dir_all(&self.folder).unwrap();
        let _alone = locked(&programs_folder().join("lock"));
        let target = programs_folder().join("target");
        let mut errors = String::new();
        for package in self.write() {
            // One by one: with a workspace at once each package has the features that another one has turned on.
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args([command, "--quiet", "--offline", "--keep-going", "--package", &package]);
            cargo.arg("--manifest-path").arg(self.folder.join("Cargo.toml")).arg("--target-dir").arg(&target);
            let output = cargo.output().expect("cargo runs");
            if !output.status.success() {
                errors += &String::from_utf8_lossy(&output.stderr);
            }
        }
        if errors.is_empty() { Ok(target.join("debug")) } else { Err(errors) }
    }

    /// Writes the workspace, and returns the names of its packages. Files that have not changed keep their time, so
    /// they are not compiled again; files of programs that are gone are removed.
    fn write(&self) -> BTreeSet<String> {
        let mut files = BTreeMap::new();
        let mut packages = BTreeSet::new();
        for program in &self.programs {
            let (package, manifest) = program.package();
            files.insert(self.folder.join(&package).join("Cargo.toml"), manifest);
            let path = self.folder.join(&package).join("src/bin").join(&program.name).with_extension("rs");
            files.insert(path, program.source.clone());
            packages.insert(package);
        }
        let manifest =
            format!("[workspace]\nresolver = \"3\"\nmembers = {packages:?}\n\n[profile.dev]\ndebug = false\n");
        files.insert(self.folder.join("Cargo.toml"), manifest.replace(['{'], "[").replace(['}'], "]"));
        remove_all_but(&self.folder, &files);
        for (path, text) in &files {
            write_if_new(path, text);
        }
        // Cargo removes from it what the workspace does not need, which would look like a change.
        let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
        if write_if_new(&self.folder.join("Cargo.lock.of-the-crate"), &lock) {
            fs::write(self.folder.join("Cargo.lock"), lock).unwrap();
        }
        packages
    }
}

fn write_if_new(path: &Path, text: &str) -> bool {
    let is_new = fs::read_to_string(path).ok().as_deref() != Some(text);
    if is_new {
        fs::create_dir_all(path.parent().expect("it is in the workspace")).unwrap();
        fs::write(path, text).unwrap();
    }
    is_new
}

/// Removes the files of earlier programs.
fn remove_all_but(folder: &Path, files: &BTreeMap<PathBuf, String>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let is_lock = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("Cargo.lock"));
        if path.is_dir() {
            remove_all_but(&path, files);
        } else if !files.contains_key(&path) && !is_lock {
            fs::remove_file(path).unwrap();
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the folder that [`other_program`](crate::support::process::other_program) builds in: most dependencies are
/// the same.
fn programs_folder() -> PathBuf {
    let deps = env::current_exe().expect("a test knows its own path");
    deps.ancestors().nth(3).expect("a test lies in `deps`, in a profile's folder").join("programs")
}

/// Returns the whole programs of a page: its `rust` blocks with a `fn main`.
fn programs_of(page_name: &str, page: &str) -> Vec<Program> {
    let blocks: Vec<_> = blocks(page).collect();
    let mut programs: Vec<Program> = Vec::new();
    for (at, block) in blocks.iter().enumerate() {
        let mut words = block.info.split(','); // `ignore` has a meaning for doctests alone
        let is_rust = words.next() == Some("rust") && words.all(|word| word != "compile_fail");
        if !is_rust || !block.text.contains("fn main") {
            continue;
        }
        let of = |blocks: &[Block]| {
            blocks.iter().filter(|block| block.info == "toml").flat_map(|block| entries(&block.text)).collect()
        };
        let named: [Dependencies; 3] = [of(&blocks[..at]), of(&blocks), entries(USUAL)];
        let dependencies = named.into_iter().find(|named| !named.is_empty()).unwrap_or_default();
        let next = blocks.get(at + 1).filter(|block| block.info == "text");
        programs.push(Program {
            name: format!("{page_name}_{}", programs.len() + 1),
            source: block.text.lines().map(|line| unhidden(line).replace(FIXED_PORT, ANY_PORT) + "\n").collect(),
            dependencies,
            uses_all: false,
            prints: next.map(|block| block.text.clone()),
        });
    }
    programs
}

/// Returns the line without the `#` by which rustdoc hides it: it is a line of the program.
fn unhidden(line: &str) -> &str {
    if line == "#" { "" } else { line.strip_prefix("# ").unwrap_or(line) }
}

/// A fenced block of a page: what follows the three backticks, and its lines.
pub(crate) struct Block {
    pub(crate) info: String,
    pub(crate) text: String,
}

pub(crate) fn blocks(page: &str) -> impl Iterator<Item = Block> {
    let mut lines = page.lines();
    std::iter::from_fn(move || {
        let info = lines.find_map(|line| line.strip_prefix("```"))?.trim().to_owned();
        let text = lines.by_ref().take_while(|line| *line != "```").map(|line| line.to_owned() + "\n").collect();
        Some(Block { info, text })
    })
}

/// Returns the doc comment at the top of a file, as a page.
pub(crate) fn header(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned() + "\n").collect()
}

/// Tests run on any free port; the texts show the default one.
pub(crate) fn normalised(line: &str) -> String {
    let mut parts = line.split("127.0.0.1:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |line, part| line + FIXED_PORT + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Returns whether lines are as expected. `…` stands for any text, and a line `…` for any number of lines.
pub(crate) fn matches(printed: &[String], expected: &[&str]) -> bool {
    match (printed, expected) {
        (_, ["…", rest @ ..]) => (0..=printed.len()).any(|skipped| matches(&printed[skipped..], rest)),
        ([line, lines @ ..], [first, rest @ ..]) => line_matches(line, first) && matches(lines, rest),
        (lines, rest) => lines.is_empty() && rest.is_empty(),
    }
}

fn line_matches(line: &str, expected: &str) -> bool {
    let Some((before, after)) = expected.split_once('…') else { return line == expected };
    let Some(rest) = line.strip_prefix(before) else { return false };
    let mut starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    starts.any(|at| line_matches(&rest[at..], after))
}
