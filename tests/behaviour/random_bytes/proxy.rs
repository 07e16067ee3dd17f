//! A connection that begins with any bytes instead of a PROXY header. The crate `proxy-header` is the reference.

use super::pieces::{Pieces, serve};
use ebbtide::{Address, Connection, ProxyHeader, ProxyProtocol};
use futures_lite::AsyncReadExt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// The settings, which are the first bytes of an input.
pub const SETTINGS: usize = 3;

const SIGNATURES: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

/// Checks an input: the settings, and then the bytes that the client sends.
pub fn check(bytes: &[u8]) -> &'static str {
    let Some((&[kind, longest, seed], sent)) = bytes.split_first_chunk::<SETTINGS>() else { return "too short" };
    let is_required = kind % 2 == 0;
    let proxy = if is_required { ProxyProtocol::required() } else { ProxyProtocol::optional() };
    let seen = Arc::new(Mutex::new(None));
    let shared = Arc::clone(&seen);
    let handler = move |connection: Connection| {
        let seen = Arc::clone(&shared);
        async move {
            let header = connection.proxy_header().cloned();
            let mut rest = Vec::new();
            (&connection).read_to_end(&mut rest).await?;
            *seen.lock().unwrap() = Some((header, rest));
            io::Result::Ok(())
        }
    };
    let pieces = Pieces::new(sent, longest, seed);
    let report = serve(pieces, |listener| listener.proxy_protocol(proxy.trust_local()), handler);
    let is_begun = SIGNATURES.iter().any(|signature| sent.starts_with(signature));
    let seen = seen.lock().unwrap().take();
    assert_eq!((report.completed(), report.rejected()), if seen.is_some() { (1, 0) } else { (0, 1) }, "{report}");
    match seen {
        Some((Some(header), rest)) => {
            let length = sent.len() - rest.len();
            assert!(sent.ends_with(&rest), "no byte after the header is lost or changed: {}", rest.escape_ascii());
            compare(&header, length, sent);
            "header"
        }
        Some((None, rest)) => {
            assert!(!is_required && !is_begun, "the handler was called without a header");
            assert!(rest == sent, "every byte reaches the handler: {}", rest.escape_ascii());
            "no header"
        }
        None => {
            assert!(is_required || is_begun, "a connection without a header was closed, although headers are optional");
            "rejected"
        }
    }
}

/// Compares an accepted header with its own text or, in version 2, with what the other parser reads.
fn compare(header: &ProxyHeader, length: usize, sent: &[u8]) {
    let by_itself = match header.version() {
        1 => sent.iter().position(|byte| *byte == b'\n').unwrap() + 1,
        _ => 16 + usize::from(u16::from_be_bytes([sent[14], sent[15]])),
    };
    assert_eq!(length, by_itself, "{header:?}");
    let address = |address: Option<&Address>| address.and_then(Address::socket_addr);
    let Some((source, destination)) = address(header.source()).zip(address(header.destination())) else {
        return; // of the proxy's own connections, of datagrams, and of Unix sockets the other parser has another view
    };
    if header.version() == 1 {
        // Not compared with the other parser: nginx writes addresses of another family than that of the line.
        let line = std::str::from_utf8(&sent[..length - 2]).expect("the line is text");
        let fields: Vec<_> = line.split(' ').collect();
        let canonical = |ip: &str, port: &str| {
            Address::from(SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap())).socket_addr()
        };
        let they = (canonical(fields[2], fields[4]), canonical(fields[3], fields[5]));
        assert_eq!((fields.len(), (Some(source), Some(destination))), (6, they));
        return;
    }
    let (theirs, _) = proxy_header::ProxyHeader::parse(sent, proxy_header::ParseConfig::default())
        .unwrap_or_else(|error| panic!("{header:?} was accepted, the other parser says {error:?}"));
    let they = theirs.proxied_address().expect("the other parser finds the addresses");
    let canonical = |it: SocketAddr| Address::from(it).socket_addr();
    assert_eq!((Some(source), Some(destination)), (canonical(they.source), canonical(they.destination)));
}
