//! TLS: a certificate from two files, and another in its place while the server serves.
//!
//! ```text
//! cargo run --example tls --features tls
//! ```
//!
//! A real program has its files from an authority, such as Let's Encrypt. This one makes its own, and a client that
//! trusts them. To keep it running and talk to it with others, take `echo` and give it a `Tls` as below; then
//! `openssl s_client -connect 127.0.0.1:8888 -CAfile cert.pem`.

mod shared;

use async_std::io::{BufReader, prelude::*};
use async_std::{io, net::TcpStream};
use ebbtide::rustls::crypto::ring;
use ebbtide::rustls::pki_types::{CertificateDer, pem::PemObject};
use ebbtide::rustls::{ClientConfig, RootCertStore};
use ebbtide::{Connection, ListenOptions, Server, Tls};
use femme::LevelFilter;
use futures_rustls::TlsConnector;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::{env, fs, process};

fn main() -> ExitCode {
    shared::run(LevelFilter::Warn, serve)
}

async fn serve(address: String) -> io::Result<()> {
    let files = Files::new()?;
    let tls = Tls::files(&files.certificate, &files.key).alpn(["shout"]).load()?;
    let server = Server::bind_with(address, &ListenOptions::new().tls(&tls)).await?;
    println!("{server}");
    let address = server.local_addr().tcp()?;

    let (_, report) = server
        .scope(shout, async |_| {
            println!("{}", ask(address, &files.certificate).await?);
            let old = files.renew()?;
            tls.reload()?;
            println!("{}", ask(address, &files.certificate).await?);
            match ask(address, &old).await {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    println!("Who trusts only the old certificate does not trust the new one");
                }
                other => println!("{other:?}"),
            }
            Ok(())
        })
        .await?;
    println!("{} completed, {} rejected", report.completed(), report.rejected());
    Ok(())
}

/// The handler has to do with plain bytes.
async fn shout(conn: Connection) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&conn).read_line(&mut line).await?;
    let tls = conn.tls().expect("the listener has TLS");
    let name = tls.server_name().unwrap_or("nobody");
    (&conn).write_all(format!("{}! says {name}", line.trim_end().to_uppercase()).as_bytes()).await
}

/// A client that trusts this certificate, and nothing else.
async fn ask(address: SocketAddr, trusted: &Path) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).map_err(io::Error::other)?).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"shout".to_vec()];
    let name = "localhost".try_into().map_err(io::Error::other)?;
    let socket = TcpStream::connect(address).await?;
    let mut client = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    client.write_all(b"hello\n").await?;
    let mut reply = String::new();
    client.read_to_string(&mut reply).await?; // an error, unless the server says that this is the end
    Ok(reply)
}

/// A certificate and its key, in a folder that is removed in the end.
struct Files {
    folder: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new() -> io::Result<Self> {
        let folder = env::temp_dir().join(format!("ebbtide-example-tls-{}", process::id()));
        fs::create_dir_all(&folder)?;
        let files = Self { certificate: folder.join("cert.pem"), key: folder.join("key.pem"), folder };
        files.write()?;
        Ok(files)
    }

    fn write(&self) -> io::Result<()> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
        fs::write(&self.certificate, made.cert.pem())?;
        fs::write(&self.key, made.signing_key.serialize_pem())
    }

    /// Renews them; the old certificate lies beside the new one.
    fn renew(&self) -> io::Result<PathBuf> {
        let old = self.folder.join("old.pem");
        fs::rename(&self.certificate, &old)?;
        self.write()?;
        Ok(old)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
