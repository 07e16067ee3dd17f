//! The compiler's errors for common mistakes: one error, or at most three, with what to write instead.

use crate::support::files::Folder;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;
use std::{env, fs};

/// Compiles a program that uses the crate, and returns what the compiler prints: nothing if the program is correct.
fn compile(program: &str) -> String {
    let folder = Folder::new();
    let source = folder.path("program.rs");
    fs::write(
        &source,
        format!("#![allow(dead_code, unused)]\nuse ebbtide::{{Connection, Handle, Server}};\n{program}"),
    )
    .unwrap();
    let (library, dependencies) = library("ebbtide");
    let (runtime, _) = self::library("async_std");
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--color=never", "--extern"])
        .arg(format!("ebbtide={}", library.display()))
        .arg("--extern")
        .arg(format!("async_std={}", runtime.display()))
        .arg("-L")
        .arg(format!("dependency={}", dependencies.display()))
        .arg("--out-dir")
        .arg(folder.itself())
        .arg(&source)
        .output()
        .expect("`rustc` can be started");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the latest library of a crate, which is beside this test's binary, and the folder of its dependencies.
fn library(crate_name: &str) -> (PathBuf, PathBuf) {
    let folder = env::current_exe().unwrap().parent().unwrap().to_owned();
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(&format!("lib{crate_name}-")) && name.ends_with(".rlib")
    };
    let age = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let libraries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_library);
    (libraries.max_by_key(age).expect("the crate was compiled for this test"), folder)
}

fn errors_in(printed: &str) -> usize {
    printed.lines().filter(|line| line.starts_with("error") && !line.starts_with("error: aborting")).count()
}

/// Checks that the program has one to `at_most` errors, and that the compiler prints all of `parts`.
fn fails_with(program: &str, at_most: usize, parts: &[&str]) {
    let printed = compile(program);
    let errors = errors_in(&printed);
    assert!((1..=at_most).contains(&errors), "{errors} errors:\n{printed}");
    for part in parts {
        assert!(printed.contains(part), "`{part}` is not printed:\n{printed}");
    }
}

const HANDLER: &str = "a handler must return `()` or `Result<(), E>`";

#[test]
fn the_error_for_a_handler_that_returns_a_number_advises_ok() {
    let program = "async fn handler(_: Connection) -> std::io::Result<u64> { Ok(0) }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    fails_with(program, 1, &[HANDLER, "end the handler with `.await?; Ok(())`"]);
}

#[test]
fn the_error_for_a_handler_with_a_boxed_error_advises_box_error() {
    let program = "async fn handler(_: Connection) -> Result<(), Box<dyn std::error::Error>> { Ok(()) }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    fails_with(program, 1, &[HANDLER, "use `ebbtide::BoxError`"]);
}

#[test]
fn the_error_for_a_handler_with_an_error_type_of_its_own_advises_to_implement_error() {
    let program = "struct Mine;
        async fn handler(_: Connection) -> Result<(), Mine> { Ok(()) }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    fails_with(program, 1, &[HANDLER, "implement `std::error::Error` for it"]);
}

#[test]
fn a_handler_that_cannot_be_sent_between_threads_gives_one_error() {
    let program = "async fn handler(conn: Connection) {
            let local = std::rc::Rc::new(());
            conn.peer_closed().await;
            drop(local);
        }
        async fn run(server: Server) -> std::io::Result<()> { server.serve(handler).await?; Ok(()) }";
    fails_with(program, 1, &["cannot be sent between threads safely", "Rc<()>"]);
}

#[test]
fn the_error_for_a_handler_in_a_scope_gives_the_same_advice() {
    let program = "async fn handler(_: Connection) -> std::io::Result<u64> { Ok(0) }
        async fn run(server: Server) -> std::io::Result<()> { server.scope(handler, async |_| {}).await?; Ok(()) }";
    fails_with(program, 3, &[HANDLER, "end the handler with `.await?; Ok(())`"]);
}

#[test]
fn the_error_for_a_body_that_returns_a_value_advises_ok() {
    let program = "async fn run(server: Server) -> std::io::Result<()> {
            server.scope(async |_: Connection| {}, async |_| 42).await?;
            Ok(())
        }";
    fails_with(
        program,
        3,
        &["the body of a scope must return `()` or `Result<T, BoxError>`", "end the body with `Ok(value)`"],
    );
}

#[test]
fn the_error_for_a_body_that_ends_with_another_error_type_advises_the_question_mark() {
    let program = "async fn step() -> std::io::Result<u8> { Ok(1) }
        async fn run(server: Server) -> std::io::Result<()> {
            server.scope(async |_: Connection| {}, async |_| step().await).await?;
            Ok(())
        }";
    fails_with(program, 3, &["the body of a scope must return", "end the body with `Ok(call.await?)`"]);
}

#[test]
fn the_error_for_a_port_without_an_address_shows_valid_addresses() {
    let program = "async fn run() -> std::io::Result<()> { Server::bind(8080).await?; Ok(()) }";
    fails_with(program, 3, &["is not an address to listen on", "(\"localhost\", 8888)", "Server::bind_unix(path)"]);
}

/// A mistake: its name; its program, which is put into a function that has a `server`; the largest number of errors;
/// and what the first error must contain. Of the compiler's own text the parts are only names, since the rest changes
/// from version to version.
type Mistake<'a> = (&'a str, &'a str, usize, &'a [&'a str]);

/// Functions that the programs use.
const BESIDE: &str = "
    async fn handler(_: Connection) {}
    async fn step() -> std::io::Result<u8> { Ok(1) }
    struct Mine;
    async fn fails() -> Result<(), Mine> { Err(Mine) }
";

/// Returns the first error, up to the next one.
fn first_error(printed: &str) -> &str {
    let start = printed.find("error").unwrap_or(0);
    let end = printed[start..].find("\n\nerror").map_or(printed.len(), |end| start + end);
    &printed[start..end]
}

#[test]
fn the_first_of_at_most_three_errors_names_a_common_mistake() {
    let wrong_output = "a handler must return `()` or `Result<(), E>`";
    let mistakes: [Mistake<'_>; 32] = [
        (
            "a captured Rc",
            "let n = std::rc::Rc::new(1); \
             server.serve(move |_: Connection| { let n = n.clone(); async move { drop(n) } }).await.unwrap();",
            3,
            &["Rc<i32>", "Server::serve"],
        ),
        (
            "an Rc over an await",
            "server.serve(|c: Connection| async move { let n = std::rc::Rc::new(1); c.peer_closed().await; drop(n) }) \
             .await.unwrap();",
            1,
            &["Rc<i32>", "`n`"],
        ),
        (
            "a lock over an await",
            "let n = std::sync::Arc::new(std::sync::Mutex::new(1)); \
             server.serve(move |c: Connection| { \
             let n = n.clone(); async move { let n = n.lock().unwrap(); c.peer_closed().await; drop(n) } \
             }).await.unwrap();",
            1,
            &["MutexGuard", "`n`"],
        ),
        (
            "a handler that borrows",
            "let text = String::new(); server.serve(|_: Connection| async { drop(&text) }).await.unwrap();",
            2,
            &["`text`", "move"],
        ),
        (
            "an async closure that captures",
            "let text = String::new(); server.serve(async |_: Connection| drop(&text)).await.unwrap();",
            1,
            &["`text`", "'static"],
        ),
        (
            "an async move closure that captures",
            "let text = String::new(); server.serve(async move |_: Connection| drop(&text)).await.unwrap();",
            1,
            &["async closure does not implement `Fn`"],
        ),
        (
            "state that is moved out",
            "let text = String::new(); server.serve(move |_: Connection| async move { drop(text) }).await.unwrap();",
            1,
            &["`text`", "`Fn` closure"],
        ),
        (
            "state that is changed",
            "let mut n = 0; server.serve(move |_: Connection| { n += 1; async {} }).await.unwrap();",
            1,
            &["`n`", "`Fn` closure"],
        ),
        (
            "an error type of one's own",
            "server.serve(|_: Connection| fails()).await.unwrap();",
            1,
            &[wrong_output, "implement `std::error::Error` for it"],
        ),
        (
            "a boxed error that cannot be sent",
            "server.serve(|_: Connection| async { Result::<(), Box<dyn std::error::Error>>::Ok(()) }).await.unwrap();",
            1,
            &[wrong_output, "use `ebbtide::BoxError`"],
        ),
        (
            "a handler that returns an option",
            "server.serve(|_: Connection| async { Some(()) }).await.unwrap();",
            1,
            &[wrong_output],
        ),
        (
            "a handler that returns text",
            "server.serve(|_: Connection| async { \"hello\" }).await.unwrap();",
            1,
            &[wrong_output],
        ),
        ("a future in place of a function", "server.serve(async {}).await.unwrap();", 1, &["Connection)` closure"]),
        (
            "a handler that is not async",
            "server.serve(|_: Connection| ()).await.unwrap();",
            1,
            &["`()` is not a future"],
        ),
        (
            "a handler of another stream",
            "async fn other(_: std::net::TcpStream) {} server.serve(other).await.unwrap();",
            1,
            &["Connection) -> _"],
        ),
        (
            "a handler with two arguments",
            "async fn other(_: Connection, _: u8) {} server.serve(other).await.unwrap();",
            1,
            &["takes 2 arguments", "expected to take 1 argument"],
        ),
        (
            "a closure whose error type is unknown",
            "server.serve(async |c: Connection| { c.more().await?; Ok(()) }).await.unwrap();",
            2,
            &["type annotations needed", "Result"],
        ),
        (
            "a closure whose error is converted into an unknown type",
            "server.serve(async |_: Connection| Err(\"no\".into())).await.unwrap();",
            1,
            &["type annotations needed", "E0283"],
        ),
        (
            "no await after bind",
            "Server::bind(\"127.0.0.1:0\").serve(handler).await.unwrap();",
            1,
            &["`serve`", "impl Future<Output"],
        ),
        (
            "no question mark after bind",
            "Server::bind(\"127.0.0.1:0\").await.serve(handler).await.unwrap();",
            1,
            &["`serve`", "Result"],
        ),
        (
            "no await after serve",
            "async fn other(server: Server) -> std::io::Result<()> { server.serve(handler)?; Ok(()) }",
            1,
            &["`?` operator", "Serve", ".await"],
        ),
        (
            "serve that is never awaited",
            "#[deny(unused_must_use)] fn run(server: Server) { server.serve(handler); }",
            1,
            &["a server accepts no client before this is awaited"],
        ),
        ("a body that is not async", "server.scope(handler, |_| 42).await.unwrap();", 3, &["is not a future"]),
        (
            "a body without its argument",
            "server.scope(handler, async || {}).await.unwrap();",
            1,
            &["takes 0 arguments", "expected to take 1 argument"],
        ),
        (
            "a body that returns an error without a conversion",
            "server.scope(handler, async |_| if true { Err(std::fmt::Error) } else { Ok(()) }).await.unwrap();",
            3,
            &["the body of a scope must return", "Err(error.into())"],
        ),
        (
            "a body whose error is none",
            "server.scope(handler, async |_| { fails().await?; Ok(()) }).await.unwrap();",
            1,
            &["`Mine`", "Error"],
        ),
        (
            "a server that is served twice",
            "server.serve(handler).await.unwrap(); server.serve(handler).await.unwrap();",
            1,
            &["moved value: `server`"],
        ),
        (
            "a connection after its move",
            "async fn other(c: Connection) { handler(c).await; c.peer_addr(); }",
            1,
            &["moved value: `c`", "clone"],
        ),
        (
            "a connection that is not mutable",
            "use async_std::io::ReadExt; async fn other(c: Connection) { let _ = c.read(&mut [0]).await; }",
            1,
            &["`c` as mutable", "mut c"],
        ),
        (
            "reading without the trait",
            "async fn other(mut c: Connection) { let _ = c.read(&mut [0]).await; }",
            1,
            &["`read`", "ReadExt"],
        ),
        (
            "a task that borrows",
            "async fn other(c: Connection) { let text = String::new(); c.spawn(async { drop(&text) }); }",
            1,
            &["`text`", "move"],
        ),
        (
            "a task that cannot be sent",
            "async fn other(c: Connection) { let n = std::rc::Rc::new(1); c.spawn(async move { drop(n) }); }",
            1,
            &["Rc<i32>"],
        ),
    ];
    for (name, program, at_most, parts) in mistakes {
        let program = format!("{BESIDE} async fn program(server: Server) {{ {program} }}");
        let printed = compile(&program);
        let (errors, first) = (errors_in(&printed), first_error(&printed));
        assert!((1..=at_most).contains(&errors), "{name}: {errors} errors:\n{printed}");
        for part in parts {
            assert!(first.contains(part), "{name}: the first error does not contain `{part}`:\n{printed}");
        }
    }
}

/// Some compilers list all types that could be given. Such a list is long and has no order, so the remedy must precede
/// it.
#[test]
fn the_remedy_precedes_lists_of_types() {
    let programs = [
        ("Server::bind(8080).await.unwrap();", "give `\"127.0.0.1:8888\"`"),
        ("server.serve(|_: Connection| async { 1 }).await.unwrap();", "end the handler with"),
        ("server.scope(handler, async |_| 1).await.unwrap();", "end the body with"),
    ];
    for (program, remedy) in programs {
        let printed = compile(&format!("{BESIDE} async fn program(server: Server) {{ {program} }}"));
        let before = printed.split("other types implement trait").next().unwrap();
        assert!(before.contains(remedy), "{printed}");
    }
    // A set of tasks whose result cannot be sent, and a duration without a unit.
    let printed =
        compile("fn run() { let mut set = ebbtide::TaskSet::new(); set.spawn(async { std::rc::Rc::new(1) }); }");
    assert!(errors_in(&printed) <= 2 && first_error(&printed).contains("cannot be sent"), "{printed}");
    let printed = compile("fn run(server: Server) -> Server { server.grace(5) }");
    assert!(errors_in(&printed) == 1 && printed.contains("Option<Duration>"), "{printed}");
}

/// The compiler shows the source line of the bound that is not met. A comment at its end names the right form.
#[test]
fn the_error_for_an_argument_of_the_wrong_type_shows_the_right_form() {
    let limit = "such as `Duration::from_secs(";
    let mistakes = [
        ("shutdown_on(ebbtide::signal::termination())", "`signal::termination()` is a `Result`: add `?`"),
        ("grace(5)", limit),
        ("first_byte_timeout(5)", limit),
        ("idle_timeout(5)", limit),
        ("write_timeout(5)", limit),
        ("ack_timeout(5)", limit),
        ("max_connection_age(5)", limit),
    ];
    for (mistake, remedy) in mistakes {
        fails_with(&format!("fn run(server: Server) -> Server {{ server.{mistake} }}"), 1, &[remedy]);
    }
}

#[test]
fn the_error_for_an_async_closure_with_state_shows_the_closure_that_clones_it() {
    let remedy = "// shared state: move |conn| handler(conn, Arc::clone(&state))";
    for call in ["serve(HANDLER)", "scope(HANDLER, async |_| {})"] {
        for (handler, at_most) in
            [("async move |_: Connection| drop(&state)", 2), ("move |_: Connection| async move { drop(state) }", 1)]
        {
            let call = call.replace("HANDLER", handler);
            let program = format!("async fn run(server: Server, state: String) {{ server.{call}.await.unwrap(); }}");
            fails_with(&program, at_most, &[remedy]);
        }
    }
}

/// The compiler infers the error type of a body in each form that a body may have. A second implementation of
/// `BodyOutput` for a `Result` would break that.
#[test]
fn bodies_of_every_form_need_no_annotation() {
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
fn handlers_of_every_form_compile() {
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
