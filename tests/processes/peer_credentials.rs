//! Who is behind a Unix socket: the user, the group and the process, as the system tells.
#![cfg(target_os = "linux")]

use crate::support::files::Folder;
use crate::support::process::{Process, part_to_play, this_binary};
use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::{Connection, Listener, Server};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Tells its client who it is.
async fn tell(mut conn: Connection) -> io::Result<()> {
    let who = match conn.peer_credentials() {
        Some(who) => format!("user {}, group {}, process {:?}", who.uid(), who.gid(), who.pid()),
        None => "nobody knows".to_owned(),
    };
    conn.write_all(who.as_bytes()).await
}

fn ask(path: &Path) -> String {
    io::read_to_string(UnixStream::connect(path).unwrap()).unwrap()
}

fn what_the_system_says(pid: Option<u32>) -> String {
    format!("user {}, group {}, process {pid:?}", nix::unistd::geteuid(), nix::unistd::getegid())
}

/// Not a test by itself: the program that the tests run, as a client or as a server.
#[test]
fn the_program() {
    let Some(part) = part_to_play() else { return };
    match part.split_once(' ').unwrap() {
        ("client", path) => println!("TOLD {}", ask(Path::new(path))),
        (_, path) => {
            task::block_on(async {
                let served = async_std::channel::bounded(1);
                let (send, done) = served;
                let server = Server::bind_unix(path).await.unwrap();
                println!("READY");
                let handler = move |conn: Connection| {
                    let send = send.clone();
                    async move {
                        tell(conn).await?;
                        send.send(()).await.unwrap();
                        io::Result::Ok(())
                    }
                };
                server.scope(handler, async |_| Ok(done.recv().await?)).await.unwrap();
            });
        }
    }
    std::process::exit(0);
}

fn in_a_folder(test: impl AsyncFnOnce(PathBuf) + Send + 'static) {
    on_thread(move || {
        let folder = Folder::new();
        task::block_on(test(folder.path("who.sock")));
    });
}

#[test]
fn this_process_is_recognized() {
    in_a_folder(async |path| {
        let server = Server::bind_unix(&path).await.unwrap();
        let body = async |_| Ok(task::spawn_blocking(move || ask(&path)).await);
        let (told, _) = server.scope(tell, body).await.unwrap();
        assert_eq!(told, what_the_system_says(Some(std::process::id())));
    });
}

#[test]
fn another_process_is_recognized_by_its_number() {
    in_a_folder(async |path| {
        let server = Server::bind_unix(&path).await.unwrap();
        let body = async |_| {
            let client =
                Process::start(&mut this_binary(module_path!(), "the_program", &format!("client {}", path.display())));
            let id = client.id();
            let ended = task::spawn_blocking(move || client.wait()).await;
            let told = format!("TOLD {}", what_the_system_says(Some(id)));
            assert!(ended.stdout.iter().any(|line| line.ends_with(&told)), "{ended:?}");
        };
        server.scope(tell, body).await.unwrap();
    });
}

#[test]
fn they_are_also_had_over_abstract_and_inherited_sockets_and_for_clients_that_are_gone() {
    in_a_folder(async |path| {
        let name = format!("ebbtide-who-{}", std::process::id());
        let inherited = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server =
            Server::new(Listener::unix_abstract(&name).unwrap()).add_listener(Listener::try_from(inherited).unwrap());
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        drop((UnixStream::connect_addr(&address).unwrap(), UnixStream::connect(&path).unwrap()));
        let (send, told) = async_std::channel::unbounded();
        let handler = move |conn: Connection| {
            let who = conn.peer_credentials().expect("kept since it connected");
            send.try_send(who.pid()).unwrap();
            async {}
        };
        let body = async |_| Ok((told.recv().await?, told.recv().await?));
        let (told, _) = server.scope(handler, body).await.unwrap();
        let here = i32::try_from(std::process::id()).ok();
        assert_eq!(told, (here, here));
    });
}

#[test]
fn tcp_has_none() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        server.scope(tell, async |_| ()).await.unwrap();
        assert_eq!(rest(&mut client), "nobody knows");
    });
}

#[test]
fn a_process_that_cannot_be_seen_from_here_still_has_a_user_and_a_group() {
    in_a_folder(async |path| {
        // The server in a world of processes of its own, as in a container; the client outside.
        let program = this_binary(module_path!(), "the_program", &format!("server {}", path.display()));
        let mut contained = std::process::Command::new("unshare");
        contained.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
        contained.arg(program.get_program()).args(program.get_args());
        contained.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if !std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--pid", "--fork", "true"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            println!("skipped: there is no `unshare`, or it is not permitted");
            return;
        }
        let told = task::spawn_blocking(move || {
            let server = Process::start(&mut contained);
            server.wait_for("READY");
            let told = ask(&path);
            assert!(server.wait().status.success());
            told
        });
        assert_eq!(told.await, "user 0, group 0, process None");
    });
}
