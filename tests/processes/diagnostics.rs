//! What the compiler says of the common mistakes: once, or at most three times, and with what to write instead.

use crate::support::files::Folder;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;
use std::{env, fs};

/// Compiles a program that uses the crate, and returns what the compiler prints; nothing if it has no complaint.
fn compile(program: &str) -> String {
    let folder = Folder::new();
    let source = folder.path("program.rs");
    fs::write(&source, format!("#![allow(dead_code, unused)]\nuse ebbtide::{{Connection, Server}};\n{program}"))
        .unwrap();
    let (library, dependencies) = library();
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--color=never", "--extern"])
        .arg(format!("ebbtide={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", dependencies.display()))
        .arg("--out-dir")
        .arg(folder.itself())
        .arg(&source)
        .output()
        .expect("the compiler that has compiled this test runs");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The crate as it was compiled last, beside this test, and the folder of what it depends on.
fn library() -> (PathBuf, PathBuf) {
    let folder = env::current_exe().unwrap().parent().unwrap().to_owned();
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libebbtide-") && name.ends_with(".rlib")
    };
    let age = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let libraries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_library);
    (libraries.max_by_key(age).expect("the crate was compiled for this test"), folder)
}

fn errors_in(printed: &str) -> usize {
    printed.lines().filter(|line| line.starts_with("error") && !line.starts_with("error: aborting")).count()
}

/// The program has at most so many errors, and among what is printed is all of this.
fn says(program: &str, at_most: usize, parts: &[&str]) {
    let printed = compile(program);
    let errors = errors_in(&printed);
    assert!((1..=at_most).contains(&errors), "{errors} errors:\n{printed}");
    for part in parts {
        assert!(printed.contains(part), "it does not say `{part}`:\n{printed}");
    }
}

const HANDLER: &str = "a handler must return `()` or `Result<(), E>`";

#[test]
fn a_handler_that_returns_a_number_is_told_to_end_with_ok() {
    let program = "async fn handler(_: Connection) -> std::io::Result<u64> { Ok(0) }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    says(program, 1, &[HANDLER, "end the handler with `.await?; Ok(())`"]);
}

#[test]
fn a_handler_with_a_boxed_error_is_told_of_box_error() {
    let program = "async fn handler(_: Connection) -> Result<(), Box<dyn std::error::Error>> { Ok(()) }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    says(program, 1, &[HANDLER, "use `ebbtide::BoxError`"]);
}

#[test]
fn a_handler_with_an_error_of_its_own_is_told_to_implement_error() {
    let program = "struct Mine;
        async fn handler(_: Connection) -> Result<(), Mine> { Ok(()) }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    says(program, 1, &[HANDLER, "implement `std::error::Error` for it"]);
}

#[test]
fn a_handler_that_cannot_move_between_threads_is_named_once() {
    let program = "async fn handler(conn: Connection) {
            let local = std::rc::Rc::new(());
            conn.peer_closed().await;
            drop(local);
        }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    says(program, 1, &["cannot be sent between threads safely", "Rc<()>"]);
}

#[test]
fn a_handler_in_a_scope_is_told_the_same() {
    let program = "async fn handler(_: Connection) -> std::io::Result<u64> { Ok(0) }
        async fn run(server: Server) -> std::io::Result<()> { server.scope(handler, async |_| {}).await?; Ok(()) }";
    says(program, 3, &[HANDLER, "end the handler with `.await?; Ok(())`"]);
}

#[test]
fn a_body_that_returns_a_value_is_told_to_end_with_ok() {
    let program = "async fn run(server: Server) -> std::io::Result<()> {
            server.scope(async |_: Connection| {}, async |_| 42).await?;
            Ok(())
        }";
    says(
        program,
        3,
        &["the body of a scope must return `()` or `Result<T, BoxError>`", "end the body with `Ok(value)`"],
    );
}

#[test]
fn a_body_that_ends_with_another_error_type_is_told_of_the_question_mark() {
    let program = "async fn step() -> std::io::Result<u8> { Ok(1) }
        async fn run(server: Server) -> std::io::Result<()> {
            server.scope(async |_: Connection| {}, async |_| step().await).await?;
            Ok(())
        }";
    says(program, 3, &["the body of a scope must return", "end the body with `Ok(call.await?)`"]);
}

#[test]
fn a_port_without_an_address_is_told_how_to_write_one() {
    let program = "async fn run() -> std::io::Result<()> { Server::bind(8080).await?; Ok(()) }";
    says(program, 3, &["is not an address to listen on", "(\"localhost\", 8888)", "Server::bind_unix(path)"]);
}

/// The error type of a body is inferred, in each of the forms that bodies have. A second implementation of `BodyOutput`
/// for a `Result` would break them.
#[test]
fn bodies_need_no_annotation() {
    let forms = [
        "{}",
        "{ step().await?; Ok(()) }",
        "{ Ok(step().await?) }",
        "{ Ok(42) }",
        "{ if server.is_serving() { return Ok(1); } step().await?; Ok(2) }",
        "{ Err(\"text\")?; Ok(()) }",
        "{ Err::<(), _>(std::io::Error::other(\"own\"))?; Ok(()) }",
        "{ loop { step().await.unwrap(); } }",
        "{ server.shutdown().await; }",
        "{ Ok(server.shutdown().await) }",
        "{ if server.is_ready() { panic!(\"oh\") } }",
        "{ panic!(\"at the end\") }",
        "{ \"80\".parse::<u16>()?; step().await?; Ok(server) }",
        "{ let text = borrowed.clone(); Ok(text) }",
    ];
    let functions: Vec<_> = forms
        .iter()
        .enumerate()
        .map(|(n, form)| {
            format!(
                "async fn body_{n}(server: Server, borrowed: String) -> std::io::Result<()> {{
                    server.scope(async |_: Connection| {{}}, async |server| {form}).await?;
                    Ok(())
                }}"
            )
        })
        .collect();
    let program = format!("async fn step() -> std::io::Result<u8> {{ Ok(1) }}\n{}", functions.join("\n"));
    assert_eq!(compile(&program), "");
}

#[test]
fn handlers_have_many_forms() {
    let forms = [
        "async |_: Connection| {}",
        "|_: Connection| async {}",
        "|_: Connection| async { std::io::Result::Ok(()) }",
        "|_: Connection| async { Err::<(), _>(\"text\") }",
        "async |_: Connection| loop { std::future::pending::<()>().await }",
        "async |_: Connection| -> Result<(), ebbtide::BoxError> { Err(\"no\")? }",
        "move |conn| named(conn, state.clone())",
    ];
    let functions: Vec<_> = forms
        .iter()
        .enumerate()
        .map(|(n, form)| {
            format!(
                "async fn handler_{n}(server: Server, state: String) -> std::io::Result<()> {{
                    server.serve({form}).await?;
                    Ok(())
                }}"
            )
        })
        .collect();
    let named = "async fn named(_: Connection, _: String) -> std::io::Result<()> { Ok(()) }";
    assert_eq!(compile(&format!("{named}\n{}", functions.join("\n"))), "");
}

#[test]
fn a_scope_can_be_spawned_whatever_its_body_returns() {
    let bodies = ["{}", "{ Ok(42) }", "{ step().await?; Ok(server) }", "{ loop { step().await.unwrap(); } }"];
    let functions: Vec<_> = bodies
        .iter()
        .enumerate()
        .map(|(n, body)| {
            format!(
                "fn spawn_{n}(server: Server) {{
                    send(async {{ server.scope(async |_: Connection| {{}}, async |server| {body}).await.map(drop) }});
                }}"
            )
        })
        .collect();
    let program = format!(
        "fn send<T>(_: impl std::future::Future<Output = T> + Send + 'static) {{}}
        async fn step() -> std::io::Result<u8> {{ Ok(1) }}
        {}",
        functions.join("\n")
    );
    assert_eq!(compile(&program), "");
}
