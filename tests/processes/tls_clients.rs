//! TLS with other clients: openssl, curl and Python. Each test is skipped, with a note, if its client is not installed.
#![cfg(feature = "tls")]

use crate::support::secured::TlsFixture;
use crate::support::{tcp, test};
use async_std::io::{BufReader, prelude::*};
use async_std::task;
use ebbtide::{Address, Connection};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Answers one line in capitals, and ends. The client knows that the answer is complete only by `close_notify`.
async fn shout(conn: Connection) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(&conn).read_line(&mut line).await?;
    (&conn).write_all(line.to_uppercase().as_bytes()).await
}

/// Sends a minimal HTTP/1.0 reply, which ends with the connection.
async fn http(conn: Connection) -> std::io::Result<()> {
    let mut lines = BufReader::new(&conn).lines();
    while let Some(line) = async_std::stream::StreamExt::next(&mut lines).await.transpose()? {
        if line.is_empty() {
            break;
        }
    }
    (&conn).write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").await
}

/// Runs `client` against a server, with `input` as its standard input, and returns its output. `None` if the client is
/// not installed.
fn with_server<H, Fut>(
    handler: H,
    client: impl FnOnce(SocketAddr, &Path) -> Command + Send + 'static,
    input: &'static str,
) -> Option<Output>
where
    H: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::io::Result<()>> + Send + 'static,
{
    test(async move {
        let house = TlsFixture::new();
        let authorities = house.folder.write("authorities.pem", house.authority.pem());
        let server = house.bind().await;
        let run = move |address: &Address| {
            let mut command = client(tcp(address), &authorities);
            task::spawn_blocking(move || run(&mut command, input))
        };
        let (output, report) = server.scope(handler, async |server| Ok(run(server.local_addr()).await)).await.unwrap();
        if output.is_some() {
            assert_eq!((report.accepted(), report.completed()), (1, 1), "{report}: {output:?}");
        }
        output
    })
}

fn run(command: &mut Command, input: &str) -> Option<Output> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        println!("skipped: there is no {:?}", command.get_program());
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes()); // if the client has ended already, its output shows it
    let output = child.wait_with_output().unwrap();
    drop(stdin); // only now, because some clients end at EOF of their input
    Some(output)
}

#[test]
fn openssl_gets_the_reply_and_close_notify() {
    for version in ["-tls1_2", "-tls1_3"] {
        let client = move |address: SocketAddr, authorities: &Path| {
            let mut command = Command::new("openssl");
            command.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost"]);
            command.args(["-verify_return_error", "-verify_hostname", "localhost", "-quiet", "-msg", version]);
            command.arg("-CAfile").arg(authorities);
            command
        };
        let Some(output) = with_server(shout, client, "hello\n") else { return };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(text.contains("HELLO\n"), "{version}: {output:?}");
        let alert = text.lines().any(|line| line.starts_with("<<<") && line.contains("close_notify"));
        assert!(alert, "{version}: no `close_notify` arrived: {text}");
    }
}

#[test]
fn curl_gets_a_page_that_ends_with_the_connection() {
    let client = |address: SocketAddr, authorities: &Path| {
        let mut command = Command::new("curl");
        let port = address.port();
        command.args(["--silent", "--show-error", "--max-time", "50", "--noproxy", "*"]);
        command.arg("--resolve").arg(format!("localhost:{port}:{}", address.ip()));
        command.arg("--cacert").arg(authorities).arg(format!("https://localhost:{port}/"));
        command
    };
    let Some(output) = with_server(http, client, "") else { return };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"hello", "{output:?}");
}

#[test]
fn python_gets_the_reply_and_close_notify() {
    let client = |address: SocketAddr, authorities: &Path| {
        let script = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=50) as raw:
    with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as client:
        client.sendall(b"hello\n")
        while chunk := client.recv(100):
            print(chunk)
        client.unwrap()
"#;
        let mut command = Command::new("python3");
        command.args(["-I", "-S", "-c", script]).arg(authorities);
        command.args([address.ip().to_string(), address.port().to_string()]);
        command
    };
    let Some(output) = with_server(shout, client, "") else { return };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b'HELLO\\n'\n", "{output:?}");
}
