//! A `TaskSet` with a limit: results as they arrive, and the first error cancels the other tasks.
//!
//! ```sh
//! cargo run --example crawl
//! ```
//!
//! It needs no network: the site is a server in memory.
//!
//! It prints:
//!
//! ```text
//! /: ["/slow", "/docs"]
//! /docs: ["/docs/tutorial"]
//! /docs/tutorial: ["/missing"]
//! Stopped: `/missing` is not found
//! 1 request cancelled
//! ```
//!
//! To copy it, put into Cargo.toml:
//!
//! ```toml
//! [dependencies]
//! async-std = { version = "1.13", features = ["attributes"] }
//! ebbtide = "0.1"
//! ```

use async_std::{io, prelude::*};
use ebbtide::{BoxError, Connection, Connector, Listener, Server, TaskSet};
use std::collections::HashSet;

type Requests = TaskSet<io::Result<(String, Vec<String>)>>;

#[async_std::main]
async fn main() -> io::Result<()> {
    let (listener, site) = Listener::memory();
    let crawler = async |_| {
        let mut requests = TaskSet::new().limit(4); // at most four at a time; the others wait
        if let Err(error) = crawl(&site, &mut requests).await {
            println!("Stopped: {error}");
            println!("{} request cancelled", requests.len());
        }
        Ok(()) // the drop of `requests` cancels and joins what is left
    };
    Server::new(listener).scope(page, crawler).await?;
    Ok(())
}

async fn crawl(site: &Connector, requests: &mut Requests) -> Result<(), BoxError> {
    let mut seen = HashSet::from(["/".to_owned()]);
    requests.spawn(fetch(site.clone(), "/".into()));
    while let Some(result) = requests.next().await {
        let (path, links) = result??; // a panic of the task, then its own error
        println!("{path}: {links:?}");
        for link in links {
            if seen.insert(link.clone()) {
                requests.spawn(fetch(site.clone(), link));
            }
        }
    }
    Ok(())
}

async fn fetch(site: Connector, path: String) -> io::Result<(String, Vec<String>)> {
    let mut conn = site.connect().await?;
    conn.write_all(format!("{path}\n").as_bytes()).await?;
    let mut page = String::new();
    conn.read_to_string(&mut page).await?;
    match page.as_str() {
        "not found" => Err(io::Error::other(format!("`{path}` is not found"))),
        links => Ok((path, links.lines().map(str::to_owned).collect())),
    }
}

/// The site: one page for each connection, and `/slow` never answers.
async fn page(mut conn: Connection) -> io::Result<()> {
    let path = conn.lines().next().await?.unwrap_or_default();
    let links = match path.as_str() {
        "/" => "/slow\n/docs\n",
        "/docs" => "/docs/tutorial\n",
        "/docs/tutorial" => "/missing\n",
        "/slow" => return io::copy(&mut conn, &mut io::sink()).await.map(drop), // until the client closes
        _ => "not found",
    };
    conn.write_all(links.as_bytes()).await
}
