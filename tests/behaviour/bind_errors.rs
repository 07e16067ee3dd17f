//! Errors of a bind: each message contains the address, what is wrong with it, and what to do.
//!
//! Tests that need other rights or another machine are `missing_addresses` and `unprivileged` in `tests/processes`.
//! The unit tests of `bind_addrs` have every form of a wrong text.

use crate::support::files::Folder;
use crate::support::*;
use ebbtide::{ListenOptions, Listener, Server};
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};

/// Asserts that the message is one line and contains these words, and that `Debug`, which `main` prints, shows it too.
fn assert_error(error: &io::Error, kind: ErrorKind, words: &[&str]) {
    let shown = error.to_string();
    println!("{shown}");
    assert!(shown.starts_with("cannot listen") && !shown.contains('\n'), "{shown}");
    for word in words {
        assert!(shown.contains(word), "the message does not contain `{word}`: {shown}");
    }
    assert_eq!(error.kind(), kind, "{shown}");
    assert_eq!(format!("{error:?}"), format!("Custom {{ kind: {kind:?}, error: {shown} }}"));
}

#[test]
fn the_error_for_a_text_that_is_no_address_shows_what_to_write() {
    test(async {
        let table: [(&str, &[&str]); 12] = [
            ("127.0.0.1;80", &["a `:` stands before its port", "write `127.0.0.1:80`"]),
            ("127.0.0.1:80:90", &["two ports", "`127.0.0.1:90`"]),
            ("127.0.0.1:80,[::1]:80", &["several addresses as a list"]),
            ("127.0.0.1:99999", &["`127.0.0.1:99999`", "port `99999`", "0 to 65535"]),
            ("localhost", &["`localhost`", "has no port", "`localhost:8888`"]),
            ("", &["the address is empty", "`127.0.0.1:8888`"]),
            ("http://localhost:8080/", &["is a URL", "`localhost:8080`"]),
            (" localhost:80", &["a space", "`localhost:80`"]),
            (":8080", &["has no host", "`0.0.0.0:8080`", "`[::]:8080`"]),
            ("::1:8080", &["brackets", "`[::1]:8080`"]),
            ("/run/echo.sock", &["Server::bind_unix(\"/run/echo.sock\")"]),
            ("127.0.0.1:80\u{1b}[31m\n", &["\\u{1b}[31m\\n"]),
        ];
        for (text, words) in table {
            assert_error(&Server::bind(text).await.unwrap_err(), ErrorKind::InvalidInput, words);
            assert_error(&Server::bind(["127.0.0.1:0", text]).await.unwrap_err(), ErrorKind::InvalidInput, words);
        }
        assert_error(&Server::bind(("[::1]", 80)).await.unwrap_err(), ErrorKind::InvalidInput, &["(\"::1\", 80)"]);
        let none: [&str; 0] = [];
        assert_error(
            &Server::bind(none).await.unwrap_err(),
            ErrorKind::InvalidInput,
            &["the list of addresses is empty"],
        );
    });
}

#[test]
fn the_error_for_an_address_of_another_machine_suggests_the_wildcard_addresses() {
    test(async {
        // These addresses are reserved for documentation, so no machine has them.
        for foreign in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            let error = Server::bind(foreign).await.unwrap_err();
            if error.kind() == ErrorKind::AddrNotAvailable {
                assert_error(
                    &error,
                    ErrorKind::AddrNotAvailable,
                    &[foreign, "no network interface", "`0.0.0.0` or `[::]`"],
                );
            } else {
                assert!(error.to_string().contains("has no IPv6"), "{error}");
            }
        }
    });
}

#[test]
fn the_error_for_a_link_local_address_without_interface_shows_how_to_name_one() {
    test(async {
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return println!("skipped: this machine has no IPv6");
        }
        if cfg!(target_os = "linux") {
            let error = Server::bind("[fe80::1]:8080").await.unwrap_err();
            assert_error(
                &error,
                ErrorKind::InvalidInput,
                &["`[fe80::1]:8080`", "needs its interface", "`[fe80::1%eth0]:8080`"],
            );
        }
    });
}

#[test]
fn the_error_for_a_port_in_use_names_the_program_that_has_it_where_that_is_visible() {
    test(async {
        let server = bind().await;
        let address = tcp(server.local_addr());
        let error = Server::bind(address).await.unwrap_err();
        let owner =
            if cfg!(target_os = "linux") { "this program listens there itself" } else { "something listens there" };
        assert_error(&error, ErrorKind::AddrInUse, &[&format!("`{address}`"), owner]);
        assert!(!error.to_string().contains("only_v6"), "no socket on `[::]` takes the port: {error}");
        #[cfg(unix)]
        {
            let options = ListenOptions::new().reuse_port(true);
            let error = Listener::tcp_with(address, &options).unwrap_err();
            assert_error(&error, ErrorKind::AddrInUse, &["every socket on the address has to set it"]);
        }
    });
}

#[test]
fn the_error_for_a_dual_stack_socket_that_takes_the_ipv4_port_names_it_and_only_v6() {
    test(async {
        let Ok(everything) = Listener::tcp("[::]:0".parse().unwrap()) else {
            return println!("skipped: this machine has no IPv6");
        };
        let port = tcp(everything.local_addr()).port();
        let options = ListenOptions::new();
        let Err(error) = Listener::tcp_with(SocketAddr::from(([0; 4], port)), &options) else {
            return println!("skipped: on this system `[::]` does not take IPv4 clients");
        };
        if cfg!(target_os = "linux") {
            let it = format!("this program listens on `[::]:{port}`, which takes IPv4 clients too");
            assert_error(&error, ErrorKind::AddrInUse, &[&it, "ListenOptions::only_v6(true)"]);
            drop(everything);
            // The other order: IPv4 first.
            let _v4 = Listener::tcp_with(SocketAddr::from(([0; 4], port)), &options).unwrap();
            let error = Listener::tcp(SocketAddr::from(([0u16; 8], port))).unwrap_err();
            let it = format!("this program listens on `0.0.0.0:{port}`, and `[::]` takes IPv4 clients too");
            assert_error(&error, ErrorKind::AddrInUse, &[&it, "ListenOptions::only_v6(true)"]);
        }
    });
}

#[cfg(unix)]
#[test]
fn the_error_for_a_path_that_cannot_hold_a_socket_gives_the_reason() {
    test(async {
        let folder = Folder::new();
        let shown = |path: &std::path::Path| format!("`{}`", path.display());
        let assert_fails =
            |error: Option<io::Error>, kind, words: &[&str]| assert_error(&error.expect("the bind fails"), kind, words);

        let inside = folder.path("server.sock");
        let error = Server::bind_unix(folder.itself()).await.err();
        assert_fails(error, ErrorKind::AddrInUse, &[&shown(folder.itself()), "it is a folder", &shown(&inside)]);

        let missing = folder.path("missing");
        let error = Server::bind_unix(missing.join("s")).await.err();
        assert_fails(
            error,
            ErrorKind::NotFound,
            &[&format!("its folder {} does not exist", shown(&missing)), "make it first"],
        );

        let file = folder.write("file", "");
        let error = Server::bind_unix(file.join("s")).await.err();
        assert_fails(error, ErrorKind::NotADirectory, &[&format!("{} is no folder", shown(&file))]);
        assert_fails(
            Server::bind_unix(&file).await.err(),
            ErrorKind::AddrInUse,
            &["a file that is no socket", "left alone"],
        );

        let long = folder.path(&"p".repeat(120));
        let length = format!("{} bytes long", long.as_os_str().len());
        assert_fails(
            Server::bind_unix(&long).await.err(),
            ErrorKind::InvalidInput,
            &[&length, "at most 10", "a shorter one"],
        );

        assert_fails(Server::bind_unix("").await.err(), ErrorKind::InvalidInput, &["the path is empty"]);
        assert_fails(Server::bind_unix("a\0b").await.err(), ErrorKind::InvalidInput, &["`a\\u{0}b`", "a zero byte"]);

        let (_one, path) = (Server::bind_unix(&inside).await.unwrap(), shown(&inside));
        assert_fails(
            Server::bind_unix(&inside).await.err(),
            ErrorKind::AddrInUse,
            &[&path, "something listens there already"],
        );
    });
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn the_error_for_an_abstract_name_that_cannot_be_bound_gives_the_reason() {
    test(async {
        let name = format!("ebbtide-bind-errors-{}", std::process::id());
        let _one = Listener::unix_abstract(&name).unwrap();
        let error = Listener::unix_abstract(&name).unwrap_err();
        assert_error(&error, ErrorKind::AddrInUse, &[&format!("`@{name}`"), "something listens there already"]);
        let long = Listener::unix_abstract("n".repeat(108)).unwrap_err();
        assert_error(&long, ErrorKind::InvalidInput, &["its name is 108 bytes long", "at most 107"]);
        assert_error(&Listener::unix_abstract("").unwrap_err(), ErrorKind::InvalidInput, &["the name is empty"]);
    });
}
