//! A key-value server for Redis's clients (RESP2): PING, SET, GET, INCR and DEL, pipelined or one by one.
//!
//! ```sh
//! cargo run --example kv
//! redis-cli -p 8888 SET greeting hello   # in another terminal
//! redis-benchmark -p 8888 -t ping,set,get,incr -P 16 -q
//! ```
//!
//! When the server drains, a connection closes between two commands, never inside one: a client that has sent half a
//! command can send the rest, and gets its reply. Input that is not RESP gets an error, and ends its connection; the
//! log has the error at debug.
//!
//! With two clients, and then Ctrl-C, it prints:
//!
//! ```text
//! Server listening on 127.0.0.1:8888
//! 2 completed, 0 failed
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! femme = "2.2"
//! futures-lite = "2.6"
//! ```

use async_std::io::{self, BufReader, BufWriter, ErrorKind::InvalidData, ErrorKind::UnexpectedEof, prelude::*};
use ebbtide::{Connection, Server, signal};
use futures_lite::future::poll_once;
use std::{collections::HashMap, pin::pin, sync::Arc, sync::Mutex};

type Map = Mutex<HashMap<Vec<u8>, Vec<u8>>>;

#[async_std::main]
async fn main() -> io::Result<()> {
    femme::with_level(femme::LevelFilter::Warn);
    let signals = signal::termination()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8888".into());
    let server = Server::bind(address).await?.shutdown_on(signals);
    println!("{server}");
    let map = Arc::new(Map::default());
    let report = server.serve(move |conn| client(conn, Arc::clone(&map))).await?;
    println!("{} completed, {} failed", report.completed(), report.failed());
    Ok(())
}

async fn client(conn: Connection, map: Arc<Map>) -> io::Result<()> {
    let (mut input, mut output) = (BufReader::new(conn.clone()), BufWriter::new(conn.clone()));
    loop {
        let mut next = pin!(command(&conn, &mut input));
        let command = if let Some(command) = poll_once(&mut next).await {
            command
        } else {
            output.flush().await?; // the replies to a pipeline are one write, and wait for no further command
            next.await
        };
        match command {
            Ok(Some(words)) => output.write_all(&reply(&words, &map)).await?,
            Ok(None) => return output.flush().await,
            Err(error) if error.kind() == InvalidData => {
                output.write_all(format!("-ERR Protocol error: {error}\r\n").as_bytes()).await?;
                output.flush().await?;
                return Err(conn.bad_input(format_args!("not RESP: {error}"))); // the client's fault, not this program's
            }
            Err(error) => return Err(error),
        }
    }
}

/// Reads the words of a command; `None` at EOF and in a drain, between two commands.
async fn command(conn: &Connection, input: &mut BufReader<Connection>) -> io::Result<Option<Vec<Vec<u8>>>> {
    if input.buffer().is_empty() && !conn.more().await? {
        return Ok(None);
    }
    let first = line(input).await?;
    if !first.starts_with('*') {
        return Ok(Some(first.split_whitespace().map(Into::into).collect())); // typed by hand, or by redis-benchmark
    }
    let length = |line: &str, sign: char, max| line.strip_prefix(sign)?.parse().ok().filter(|length| *length <= max);
    let (mut words, mut room) = (Vec::new(), 512 * 1024);
    for _ in 0..length(&first, '*', 1024).ok_or(InvalidData)? {
        let mut word = vec![0; length(&line(input).await?, '$', room).ok_or(InvalidData)? + 2];
        input.read_exact(&mut word).await?;
        words.push(word.strip_suffix(b"\r\n").ok_or(InvalidData)?.to_vec());
        room -= word.len() - 2;
    }
    Ok(Some(words))
}

async fn line(input: &mut BufReader<Connection>) -> io::Result<String> {
    let mut line = String::new();
    let length = input.take(65536).read_line(&mut line).await?;
    let cut = if length < 65536 { UnexpectedEof } else { InvalidData };
    Ok(line.strip_suffix('\n').ok_or(cut)?.trim_end().into())
}

fn reply(words: &[Vec<u8>], map: &Map) -> Vec<u8> {
    let bulk = |bytes: &[u8]| [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let Some((name, args)) = words.split_first() else { return Vec::new() };
    let mut map = map.lock().unwrap();
    match (&*name.to_ascii_uppercase(), args) {
        (b"PING", []) => b"+PONG\r\n".into(),
        (b"GET", [key]) => map.get(key).map_or(b"$-1\r\n".into(), |value| bulk(value)),
        (b"SET", [key, value]) => {
            map.insert(key.clone(), value.clone());
            b"+OK\r\n".into()
        }
        (b"DEL", [_, ..]) => format!(":{}\r\n", args.iter().filter(|key| map.remove(*key).is_some()).count()).into(),
        (b"INCR", [key]) => {
            let old = map.get(key).map_or(Some(0), |old| std::str::from_utf8(old).ok()?.parse::<i64>().ok());
            let Some(new) = old.and_then(|old| old.checked_add(1)) else {
                return b"-ERR value is not an integer or out of range\r\n".into();
            };
            map.insert(key.clone(), new.to_string().into());
            format!(":{new}\r\n").into()
        }
        (b"CONFIG", [_, name]) => [b"*2\r\n", &*bulk(name), &*bulk(b"")].concat(), // redis-benchmark asks for two
        _ => b"-ERR unknown command, or wrong number of arguments\r\n".into(),
    }
}
