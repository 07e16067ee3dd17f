//! `fn main() -> io::Result<()>` prints an error of this crate as a sentence. (A test that returns a `Result` prints
//! its error as `main` does, by the same code of the standard library.)

use crate::support::files::Folder;
use crate::support::on_thread;
use crate::support::process::{Process, part_to_play, this_binary};
use async_std::task;
use ebbtide::{Connection, Server};
use std::io;
use std::net::TcpListener;

/// Not a test by itself: the program that the test runs.
#[test]
fn the_program() -> io::Result<()> {
    let Some(part) = part_to_play() else { return Ok(()) };
    task::block_on(async {
        match part.split_once(' ').unwrap_or((&part, "")) {
            ("bind", address) => drop(Server::bind(address).await?),
            #[cfg(unix)]
            ("bind_unix", path) => drop(Server::bind_unix(path).await?),
            #[cfg(feature = "proxy-protocol")]
            ("trust", network) => drop(ebbtide::ProxyProtocol::required().trust(network)?),
            #[cfg(feature = "tls")]
            ("tls", path) => drop(ebbtide::Tls::from_pem_files(path, path)?),
            ("scope", _) => {
                let body = async |_| Err::<(), _>("the database is gone\n".into());
                Server::bind("127.0.0.1:0").await?.scope(async |_: Connection| {}, body).await?;
            }
            _ => {
                let memory = ebbtide::Listener::memory();
                let client = async_std::net::TcpStream::connect(memory.0.local_addr().tcp()?).await?;
                drop(client);
            }
        }
        Ok(())
    })
}

#[test]
fn main_prints_the_sentence_of_an_error_in_one_line_without_type_names() {
    on_thread(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let folder = Folder::new();
        let path = folder.itself().display();
        let in_use = format!("Error: Custom {{ kind: AddrInUse, error: cannot listen on `{address}`: Address");
        let is_folder =
            format!("error: cannot listen on `{path}`: it is a folder: give the path of a file to make in it");
        let missing = format!("cannot read the certificate file `{path}`");
        let table = [
            (format!("bind {address}"), true, in_use.as_str()),
            ("bind 127.0.0.1:99999".to_owned(), true, "error: cannot listen on `127.0.0.1:99999`: its port `99999` is"),
            (
                "bind no.such.host.invalid:1".to_owned(),
                true,
                "error: cannot listen on `no.such.host.invalid:1`: the name",
            ),
            (format!("bind_unix {path}"), cfg!(unix), &is_folder),
            (
                "trust everybody".to_owned(),
                cfg!(feature = "proxy-protocol"),
                "error: cannot trust `everybody`: it is no",
            ),
            (format!("tls {path}"), cfg!(feature = "tls"), &missing),
            (
                "scope".to_owned(),
                true,
                r"error: the body of the server's scope failed: the database is gone\n (closed in",
            ),
            ("memory".to_owned(), true, "error: `memory` is not a TCP address"),
        ];
        for (part, is_there, expected) in table {
            if !is_there {
                continue;
            }
            let ended = Process::start(&mut this_binary(module_path!(), "the_program", &part)).wait();
            assert!(!ended.status.success(), "{part}: {ended:?}");
            let lines = [ended.stdout, ended.stderr].concat();
            let printed: Vec<_> = lines.iter().filter(|line| line.starts_with("Error: ")).collect();
            assert_eq!(printed.len(), 1, "{part}: {lines:#?}");
            println!("{}", printed[0]);
            assert!(printed[0].contains(expected) && printed[0].ends_with('}'), "{part}: {}", printed[0]);
            for name in ["Explained", "VerboseError", "source:", "Os {"] {
                assert!(!printed[0].contains(name), "{part}: {}", printed[0]);
            }
        }
    });
}
