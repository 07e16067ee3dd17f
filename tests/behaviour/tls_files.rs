//! A PEM file is read whole, or refused with its name, the reason and the remedy. No part of it is skipped silently.
//!
//! Many libraries skip text that is almost a section: two certificates that `cat` has joined in one line, an indented
//! one, or one after a byte order mark. A server then serves an incomplete chain.
#![cfg(feature = "tls")]

use crate::support::pem_files::File::{self, Authorities, Certificates, Key};
use crate::support::pem_files::{Good, der, element, key_of, lines, of_version_1, pem, rsa_key, utf_16};
use crate::support::secured::bind_tls;
use crate::support::{echo, test};
use ebbtide::Tls;
use rcgen::KeyPair;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

const EC: &[u8] = b"\x2A\x86\x48\xCE\x3D\x02\x01";

#[test]
fn a_damaged_file_is_refused_with_its_name_the_reason_and_the_remedy() {
    let good = Good::new();
    let Good { chain, leaf, issuer, key, .. } = &good;
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let last = chain.lines().count();
    let begin_2 = leaf.lines().count() + 1;
    let text = |text: &str| text.as_bytes().to_vec();
    let glued = chain.replace("-----END CERTIFICATE-----\n-----BEGIN", "-----END CERTIFICATE----------BEGIN");
    let mark = "-----BEGIN CERTIFICATE-----";
    let table: Vec<(&str, File, Vec<u8>, Vec<String>)> = [
        // The form of the file.
        ("empty", Certificates, text(""), "it is empty"),
        ("blank", Key, text(" \r\n\n"), "it is empty"),
        ("no PEM", Certificates, text("hello\n"), "no `BEGIN CERTIFICATE` in it: is it the right file?"),
        ("no PEM", Key, text("hello\n"), "no `BEGIN PRIVATE KEY` in it: is it the right file?"),
        ("UTF-16", Certificates, utf_16(chain, u16::to_le_bytes, true), "it is UTF-16|iconv -f UTF-16 -t ASCII {path}"),
        ("UTF-16", Certificates, utf_16(chain, u16::to_be_bytes, true), "it is UTF-16|iconv"),
        ("UTF-16", Key, utf_16(key, u16::to_le_bytes, false), "it is UTF-16|iconv"),
        ("DER", Certificates, der(leaf), "it is DER and not PEM|openssl x509 -inform DER -in {path}"),
        ("DER", Key, der(key), "it is DER and not PEM|openssl pkey -inform DER -in {path}"),
        ("PKCS #12", Key, element(0x30, &[2, 1, 3, 4, 1, 0]), "it is PKCS #12|openssl pkcs12 -in {path} -nocerts"),
        (
            "PKCS #12",
            Certificates,
            element(0x30, &[2, 1, 3, 4, 1, 0]),
            "it is PKCS #12|openssl pkcs12 -in {path} -nokeys -out",
        ),
        (
            "PKCS #12",
            Authorities,
            element(0x30, &[2, 1, 3, 4, 1, 0]),
            "it is PKCS #12|openssl pkcs12 -in {path} -nokeys -cacerts -out",
        ),
        (
            "a key of an unknown form",
            Key,
            text(&key.replace("PRIVATE KEY", "SECRET PRIVATE KEY")),
            "the key that begins in line 1 is in an unknown form, `BEGIN SECRET PRIVATE KEY`|openssl pkey -in {path} -out",
        ),
        // Sections that many libraries skip.
        (
            "glued",
            Certificates,
            text(&glued),
            &format!(
                "line {}: `-----END` of one section and `-----BEGIN` of the next are in one line|awk 1",
                begin_2 - 1
            ),
        ),
        (
            "glued",
            Authorities,
            text(&glued),
            &format!(
                "line {}: `-----END` of one section and `-----BEGIN` of the next are in one line|awk 1",
                begin_2 - 1
            ),
        ),
        (
            "indented",
            Certificates,
            text(&chain.replace(mark, &format!("  {mark}"))),
            "line 1: white space before `-----BEGIN CERTIFICATE-----`|sed 's/^[[:space:]]*//' {path}",
        ),
        (
            "indented by a tab",
            Certificates,
            text(&format!("{leaf}{}", issuer.lines().map(|line| format!("\t{line}\n")).collect::<String>())),
            &format!("line {begin_2}: white space before|sed"),
        ),
        (
            "one line",
            Key,
            text(&key.replace('\n', " ")),
            "line 1: more text in the line of `-----BEGIN PRIVATE KEY-----`|break the line",
        ),
        ("`\\n` written out", Key, text(&key.replace('\n', "\\n")), "line 1: `\\n` is written out|printf '%b'"),
        (
            "no line break before the end",
            Key,
            text(&key.replace("\n-----END", "-----END")),
            "line 4: `END PRIVATE KEY` must be a line of its own|`-----END PRIVATE KEY-----`",
        ),
        (
            "no dashes",
            Key,
            text(&key.replace("PRIVATE KEY-----\n", "")),
            "line 1: more text in the line of `-----BEGIN …-----`",
        ),
        ("tabs in a key", Key, text(&key.replace("-----BEGIN", "\t-----BEGIN")), "sed|`umask 077; sed"),
        (
            "four dashes",
            Certificates,
            text(&format!("{leaf}{}", issuer.replacen('-', "", 1))),
            &format!("line {begin_2}: `BEGIN CERTIFICATE` must be a line of its own|five dashes"),
        ),
        (
            "a word processor's dashes",
            Certificates,
            text(&format!("{leaf}{}", issuer.replace("-----", "\u{2014}\u{2014}-"))),
            &format!("line {begin_2}: `BEGIN CERTIFICATE` must be|five dashes"),
        ),
        (
            "a label misspelt",
            Certificates,
            text(&format!("{leaf}{}", issuer.replace("CERTIFICATE", "CERTIFICAT"))),
            &format!("line {begin_2}: `BEGIN CERTIFICAT` is not known|correct or remove it"),
        ),
        // Cut off.
        (
            "no end",
            Certificates,
            text(&lines(chain, |n| n < last)),
            &format!("it is cut off: `{mark}` in line {begin_2} has no `-----END CERTIFICATE-----`|copy"),
        ),
        ("no end", Key, text(&lines(key, |n| n < 3)), "it is cut off: `-----BEGIN PRIVATE KEY-----` in line 1|copy"),
        (
            "no end before the next",
            Certificates,
            text(&lines(chain, |n| n != begin_2 - 1)),
            &format!("`{mark}` in line 1 has no `END` before `{mark}` in line {}|copy", begin_2 - 1),
        ),
        ("no beginning", Certificates, text(&lines(chain, |n| n > 1)), "has no `BEGIN` before it|copy"),
        (
            "another end",
            Key,
            text(&key.replace("END PRIVATE", "END EC PRIVATE")),
            "`-----END EC PRIVATE KEY-----` in line|does not end `-----BEGIN PRIVATE KEY-----` in line 1",
        ),
        (
            "a line is missing",
            Certificates,
            text(&lines(chain, |n| n != begin_2 + 3)),
            &format!("the certificate that begins in line {begin_2} is cut off: | bytes are there; copy"),
        ),
        ("a line is missing", Key, text(&lines(key, |n| n != 2)), "the key that begins in line 1 |copy the file again"),
        (
            "half a line is missing",
            Authorities,
            text(&format!("{}AAA\n{}", lines(issuer, |n| n < 4), lines(issuer, |n| n > 4))),
            "in line 1 |copy the file again",
        ),
        (
            "no base64",
            Certificates,
            text(&leaf.replace(leaf.lines().nth(2).unwrap(), "<<<<<<< HEAD")),
            "line 3: `<` is no character of base64",
        ),
        (
            "empty sections",
            Certificates,
            text(&format!("{mark}\n{}", lines(leaf, |n| n == begin_2 - 1))),
            "line 1 is empty",
        ),
        // Files with other contents.
        ("a key", Certificates, text(key), "no `BEGIN CERTIFICATE`|a private key: are the two files swapped?"),
        ("a key", Authorities, text(key), "no `BEGIN CERTIFICATE` in it: is it the right file?"),
        ("certificates", Key, text(chain), "no `BEGIN PRIVATE KEY`|a certificate: are the two files swapped?"),
        ("a public key", Key, text(&pem("PUBLIC KEY", vec![0x30, 0])), "no `BEGIN PRIVATE KEY`|but a public key"),
        (
            "a request",
            Certificates,
            text(&pem("CERTIFICATE REQUEST", vec![0x30, 0])),
            "no `BEGIN CERTIFICATE`|a request for a certificate|the file that the authority sent",
        ),
        (
            "a key as a certificate",
            Certificates,
            text(&key.replace("PRIVATE KEY", "CERTIFICATE")),
            "the certificate that begins in line 1 cannot be read (BadEncoding)|openssl x509 -in {path} -noout -text",
        ),
        (
            "a certificate that is none",
            Authorities,
            text(&format!("{issuer}{}", pem("CERTIFICATE", vec![0x30, 0]))),
            &format!("line {}", issuer.lines().count() + 1),
        ),
        ("version 1", Certificates, text(&of_version_1(leaf)), "line 1 is of version 1|version 3 is needed|-addext"),
        (
            "trusted",
            Authorities,
            text(&issuer.replace("CERTIFICATE", "TRUSTED CERTIFICATE")),
            "line 1: `BEGIN TRUSTED CERTIFICATE`|openssl x509 -in {path}",
        ),
        ("PKCS #7", Certificates, text(&pem("PKCS7", vec![0x30, 0])), "line 1: `BEGIN PKCS7`|openssl pkcs7 -in {path}"),
        (
            "revocations",
            Authorities,
            text(&format!("{}{issuer}", pem("X509 CRL", vec![0x30, 0]))),
            "line 1: revocation lists are not looked at|Tls::from_config",
        ),
        // Keys.
        (
            "another's",
            Key,
            text(&other_key),
            "does not belong to the first certificate in|-pubout` and `openssl x509 -in",
        ),
        (
            "wrong order",
            Certificates,
            text(&format!("{issuer}{leaf}")),
            &format!("in the wrong order|number 2, in line {};|put it first", issuer.lines().count() + 1),
        ),
        ("two keys", Key, text(&format!("{key}{other_key}")), "it has 2 private keys, in lines 1 and |keep the one"),
        (
            "encrypted",
            Key,
            text(&pem("ENCRYPTED PRIVATE KEY", vec![0x30, 0])),
            "line 1 is encrypted|openssl pkey -in {path} -out {path}.new",
        ),
        (
            "encrypted, the old way",
            Key,
            text(&key.replace("PRIVATE KEY", "EC PRIVATE KEY").replacen(
                "-----\n",
                "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n",
                1,
            )),
            "line 1 is encrypted|openssl pkey -in {path} -out {path}.new",
        ),
        ("OpenSSH's", Key, text(&pem("OPENSSH PRIVATE KEY", vec![0; 9])), "OpenSSH's own form|ssh-keygen -p -m PKCS8"),
        (
            "DSA, the old way",
            Key,
            text(&pem("DSA PRIVATE KEY", vec![0x30, 0])),
            "is DSA; supported are ECDSA with P-256",
        ),
        ("DSA", Key, text(&key_of(b"\x2A\x86\x48\xCE\x38\x04\x01", &[])), "is DSA; supported are|openssl genpkey"),
        ("Ed448", Key, text(&key_of(b"\x2B\x65\x71", &[])), "is Ed448; supported are"),
        ("X25519", Key, text(&key_of(b"\x2B\x65\x6E", &[])), "is X25519; supported are"),
        ("P-521", Key, text(&key_of(EC, &element(6, b"\x2B\x81\x04\x00\x23"))), "is ECDSA with P-521; supported are"),
        (
            "secp256k1",
            Key,
            text(&key_of(EC, &element(6, b"\x2B\x81\x04\x00\x0A"))),
            "is ECDSA with secp256k1; supported",
        ),
        (
            "secp256k1, the old way",
            Key,
            text(&pem(
                "EC PRIVATE KEY",
                element(
                    0x30,
                    &[vec![2, 1, 1], element(4, &[7; 32]), element(0xA0, &element(6, b"\x2B\x81\x04\x00\x0A"))]
                        .concat(),
                ),
            )),
            "is ECDSA with secp256k1; supported are",
        ),
        (
            "a curve written out",
            Key,
            text(&key_of(EC, &element(0x30, &[2, 1, 1]))),
            "written out and not named; supported",
        ),
        ("small RSA", Key, text(&rsa_key(1024)), "is RSA with 1024 bits; supported are|2048 to 4096 bits"),
        (
            "damaged RSA",
            Key,
            text(&rsa_key(2048)),
            "line 1 cannot be read (failed to parse|openssl pkey -in {path} -check",
        ),
    ]
    .into_iter()
    .map(|(name, file, content, words)| (name, file, content, words.split('|').map(str::to_owned).collect()))
    .collect();
    for (name, file, content, words) in table {
        let mut files = good.files();
        let path = files.write(file, &content);
        let error = files.load().expect_err(name);
        println!("{name}: {error}\n");
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{name}: {error}");
        let path = path.display().to_string();
        let of_the_key =
            key.lines().filter(|line| !line.starts_with('-')).any(|line| error.to_string().contains(&line[..8]));
        assert!(!of_the_key, "{name}: the error shows a part of the key: {error}");
        for word in [format!("`{path}`")].into_iter().chain(words) {
            let word = word.replace("{path}", &path);
            assert!(error.to_string().contains(&word), "{name}: no `{word}` in: {error}");
        }
    }
}

#[test]
fn a_file_that_does_not_exist_is_named_and_its_path_explained() {
    let good = Good::new();
    let files = good.files();
    let nowhere = files.folder.path("nowhere.pem");
    let mut table = vec![
        (nowhere.clone(), ErrorKind::NotFound, "check the path".to_owned()),
        (
            PathBuf::from("nowhere/key.pem"),
            ErrorKind::NotFound,
            format!("relative to the working directory, `{}`", std::env::current_dir().unwrap().display()),
        ),
        (files.folder.itself().to_owned(), ErrorKind::IsADirectory, "it is a folder; name the file in it".to_owned()),
    ];
    #[cfg(unix)]
    {
        let link = files.folder.path("link.pem");
        std::os::unix::fs::symlink(&nowhere, &link).unwrap();
        table.push((link, ErrorKind::NotFound, format!("a symbolic link to `{}`", nowhere.display())));
    }
    for (path, kind, words) in table {
        let load: [(&str, std::io::Result<Tls>); 3] = [
            ("certificate", Tls::from_pem_files(&path, &files.key)),
            ("private key", Tls::from_pem_files(&files.certificates, &path)),
            ("client authority", Tls::files(&files.certificates, &files.key).client_ca(&path).load()),
        ];
        for (role, result) in load {
            let error = result.expect_err("the file cannot be read");
            println!("{error}\n");
            assert_eq!(error.kind(), kind, "{error}");
            let start = format!("cannot read the {role} file `{}`: ", path.display());
            assert!(error.to_string().starts_with(&start) && error.to_string().contains(&words), "{error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_file_without_read_permission_is_named_with_the_user_that_needs_it() {
    use std::os::unix::fs::PermissionsExt;
    if nix::unistd::geteuid().is_root() {
        println!("skipped: root may read everything");
        return;
    }
    let files = Good::new().files();
    std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o000)).unwrap();
    let error = files.load().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let user = format!("let this program's user, number {}, read the file", nix::unistd::geteuid());
    assert!(error.to_string().contains(&user) && error.to_string().contains(files.key.to_str().unwrap()), "{error}");
}

/// Forms that OpenSSL accepts, and that rustls can read whole.
#[test]
fn a_file_in_an_unusual_but_valid_form_is_read_whole() {
    let good = Good::new();
    let Good { chain, leaf, issuer, key, .. } = &good;
    let parameters = pem("EC PARAMETERS", element(6, b"\x2A\x86\x48\xCE\x3D\x03\x01\x07"));
    let commented: String = issuer.lines().map(|line| format!("# {line}\n")).collect();
    let with_headers = key.replacen("-----\n", "-----\nX-Made-By: hand\n\n", 1);
    let table = [
        ("as it is", Certificates, chain.clone(), 2),
        ("BOM", Certificates, format!("\u{FEFF}{chain}"), 2),
        ("BOM", Key, format!("\u{FEFF}{key}"), 2),
        ("CR LF", Certificates, chain.replace('\n', "\r\n"), 2),
        ("CR LF", Key, key.replace('\n', "\r\n"), 2),
        ("CR", Certificates, chain.replace('\n', "\r"), 2),
        ("no last line end", Certificates, chain.trim_end().to_owned(), 2),
        ("space at the ends of lines", Certificates, chain.replace('\n', " \t\n"), 2),
        ("empty lines", Certificates, chain.replace("-----\n", "-----\n\n"), 2),
        ("text around", Certificates, format!("Subject: a server\n\n{leaf}\nIssuer: -----\n{issuer}the end"), 2),
        ("text around", Key, format!("Bag Attributes\n    localKeyID: 01 02\n{key}\n"), 2),
        ("a comment", Certificates, format!("# -----BEGIN CERTIFICATE----- of the server\n{leaf}{commented}"), 1),
        ("with the key", Certificates, format!("{key}{chain}"), 2),
        ("with parameters", Certificates, format!("{parameters}{chain}"), 2),
        ("with revocations", Certificates, format!("{chain}{}", pem("X509 CRL", vec![0x30, 0])), 2),
        ("with the certificates", Key, format!("{chain}{key}"), 2),
        ("with parameters", Key, format!("{parameters}{key}"), 2),
        ("with headers", Key, with_headers, 2),
        ("as authorities", Authorities, format!("Authority\n=========\n{issuer}\nAnother\n=======\n{leaf}"), 2),
        ("an authority of version 1", Authorities, of_version_1(issuer), 2),
    ];
    for (name, file, content, certificates) in table {
        let mut files = good.files();
        files.write(file, content.as_bytes());
        let tls = files.load().unwrap_or_else(|error| panic!("{name}: {error}"));
        if file == Authorities {
            continue; // a client without a certificate is refused before it gets the server's
        }
        let house = Arc::clone(&good.house);
        let shown = test(async move {
            let (shown, _) = bind_tls(&tls)
                .await
                .scope(echo, async |server| {
                    let mut client = house.client(server.local_addr());
                    client.write_all(b"ping").unwrap();
                    client.read_exact(&mut [0; 4]).unwrap();
                    Ok(client.conn.peer_certificates().unwrap().len())
                })
                .await
                .unwrap();
            shown
        });
        assert_eq!(shown, certificates, "{name}");
    }
}

#[test]
fn the_error_of_a_failed_reload_states_that_the_old_files_stay_in_use() {
    let mut files = Good::new().files();
    let tls = files.load().unwrap();
    let path = files.write(Certificates, b"-----BEGIN CERTIFICATE-----\nMIIB");
    let error = tls.reload().unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let start = format!(
        "cannot reload TLS, and what was loaded before stays in use: \
         cannot use the certificate file `{}`: it is cut off",
        path.display()
    );
    assert!(error.to_string().starts_with(&start), "{error}");
    // `a_certificate_is_reloaded_while_the_server_serves` checks that new clients still get the old certificate.
}
