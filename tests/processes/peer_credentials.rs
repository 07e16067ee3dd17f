//! The credentials of a Unix socket's peer: its user, group and process, as the system reports them.
#![cfg(target_os = "linux")]

use crate::support::files::Folder;
use crate::support::process::{Process, part_to_play, this_binary};
use crate::support::*;
use async_std::{prelude::*, task};
use ebbtide::{Connection, Listener, Server};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Sends its client the client's credentials.
async fn send_credentials(mut conn: Connection) -> io::Result<()> {
    let text = match conn.peer_credentials() {
        Some(peer) => format!("user {}, group {}, process {:?}", peer.uid(), peer.gid(), peer.pid()),
        None => "no credentials".to_owned(),
    };
    conn.write_all(text.as_bytes()).await
}

fn ask(path: &Path) -> String {
    io::read_to_string(UnixStream::connect(path).unwrap()).unwrap()
}

/// Returns the answer that a client of this user expects.
fn expected(pid: Option<u32>) -> String {
    format!("user {}, group {}, process {pid:?}", nix::unistd::geteuid(), nix::unistd::getegid())
}

/// Not a test by itself: the program that the tests run, as a client or as a server.
#[test]
fn the_program() {
    let Some(part) = part_to_play() else { return };
    match part.split_once(' ').unwrap() {
        ("client", path) => println!("ANSWER {}", ask(Path::new(path))),
        (_, path) => {
            task::block_on(async {
                let served = async_std::channel::bounded(1);
                let (send, done) = served;
                let server = Server::bind_unix(path).await.unwrap();
                println!("READY");
                let handler = move |conn: Connection| {
                    let send = send.clone();
                    async move {
                        send_credentials(conn).await?;
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
fn the_credentials_of_a_client_in_the_same_process_are_returned() {
    in_a_folder(async |path| {
        let server = Server::bind_unix(&path).await.unwrap();
        let body = async |_| Ok(task::spawn_blocking(move || ask(&path)).await);
        let (answer, _) = server.scope(send_credentials, body).await.unwrap();
        assert_eq!(answer, expected(Some(std::process::id())));
    });
}

#[test]
fn the_credentials_of_a_client_in_another_process_are_returned() {
    in_a_folder(async |path| {
        let server = Server::bind_unix(&path).await.unwrap();
        let body = async |_| {
            let client =
                Process::start(&mut this_binary(module_path!(), "the_program", &format!("client {}", path.display())));
            let id = client.id();
            let ended = task::spawn_blocking(move || client.wait()).await;
            let answer = format!("ANSWER {}", expected(Some(id)));
            assert!(ended.stdout.iter().any(|line| line.ends_with(&answer)), "{ended:?}");
        };
        server.scope(send_credentials, body).await.unwrap();
    });
}

#[test]
fn credentials_are_returned_for_abstract_and_inherited_sockets_and_for_clients_that_have_closed() {
    in_a_folder(async |path| {
        let name = format!("ebbtide-who-{}", std::process::id());
        let inherited = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server =
            Server::new(Listener::unix_abstract(&name).unwrap()).add_listener(Listener::try_from(inherited).unwrap());
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        drop((UnixStream::connect_addr(&address).unwrap(), UnixStream::connect(&path).unwrap()));
        let (send, pids) = async_std::channel::unbounded();
        let handler = move |conn: Connection| {
            let peer = conn.peer_credentials().expect("the system keeps them from the connect on");
            send.try_send(peer.pid()).unwrap();
            async {}
        };
        let body = async |_| Ok((pids.recv().await?, pids.recv().await?));
        let (pids, _) = server.scope(handler, body).await.unwrap();
        let here = i32::try_from(std::process::id()).ok();
        assert_eq!(pids, (here, here));
    });
}

#[test]
fn a_tcp_connection_has_no_credentials() {
    test(async {
        let server = bind().await;
        let mut client = connect(server.local_addr());
        server.scope(send_credentials, async |_| ()).await.unwrap();
        assert_eq!(rest(&mut client), "no credentials");
    });
}

#[test]
fn a_client_outside_the_servers_pid_namespace_has_a_user_and_a_group_but_no_process() {
    in_a_folder(async |path| {
        // The server runs in a PID namespace of its own, as in a container. The client is outside.
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
        let answer = task::spawn_blocking(move || {
            let server = Process::start(&mut contained);
            server.wait_for("READY");
            let answer = ask(&path);
            assert!(server.wait().status.success());
            answer
        });
        assert_eq!(answer.await, "user 0, group 0, process None");
    });
}
