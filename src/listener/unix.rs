//! Listening Unix sockets: binding them, accepting from them, and the life of their files.
//!
//! [`SocketFile`] removes the file. What may be in the way of a bind, and when it is removed, is in `stale`.

mod stale;

use super::ListenOptions;
use crate::address::Address;
use crate::origin::Origin;
use crate::panic::log_line;
use crate::text::{explained, explained_by};
use crate::transport::Transport;
use socket2::{Domain, SockAddr, Socket, Type};
use stale::{FolderLock, remove_stale, taken};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// How often a bind tries again while other programs create and remove files in its place.
const TRIES: usize = 8;

/// The longest path that fits into a `sockaddr_un`, without the zero byte at its end.
const LONGEST_PATH: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

/// Accepts a client: its stream and address.
pub(super) fn accept(socket: &UnixListener) -> io::Result<(Transport, Address)> {
    let (stream, peer) = socket.accept()?;
    Ok((Transport::unix(stream)?, Address::from(peer)))
}

/// Binds, sets the file's mode, and listens.
pub(super) fn bind(path: &Path, options: &ListenOptions) -> io::Result<(UnixListener, SocketFile)> {
    let text = path.as_os_str().as_encoded_bytes();
    if text.is_empty() {
        return Err(explained(ErrorKind::InvalidInput, "the path is empty: give the path of a file to make"));
    }
    if text.contains(&0) {
        let error = "there is a zero byte in the path (for a name without a file: `Listener::unix_abstract`)";
        return Err(explained(ErrorKind::InvalidInput, error));
    }
    check_length("path", text)?;
    let address = SockAddr::unix(path)?;
    let full_path = resolve(path)?;
    let lock = FolderLock::of(&full_path);
    let socket = bind_in_place(path, &address, lock.is_held())?;
    let file = SocketFile::made(full_path).inspect_err(|_| _ = fs::remove_file(path))?;
    if let Some(mode) = options.mode {
        // No client can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| {
            let text = format!("cannot set its mode to 0o{mode:o}: {error}");
            explained(ErrorKind::Other, text)
        })?;
    }
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    if !file.is_in_place() {
        return Err(taken(
            "another server has taken its place at this moment: stop one of them, or choose another path",
        ));
    }
    Ok((UnixListener::from(std::os::fd::OwnedFd::from(socket)), file))
}

/// Returns the path by which the file is found at its removal, even if the program changes its working directory, or a
/// symbolic link above the file is changed.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let full_path = std::path::absolute(path)?;
    let folder = full_path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    Ok(match (folder, full_path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => full_path, // the bind returns the error
    })
}

/// Binds, after it has removed the file that a killed process has left behind.
///
/// The new socket is not bound to another name and renamed over the old one: `ss`, `lsof` and the clients would see
/// that name as long as the socket exists.
fn bind_in_place(path: &Path, address: &SockAddr, locked: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    for _ in 0..TRIES {
        match socket.bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => remove_stale(path, address, locked)?,
            result => return result.map(|()| socket),
        }
    }
    Err(taken("other programs create and remove a socket there again and again: choose another path"))
}

/// Binds a name in the abstract namespace, and listens.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn bind_abstract(name: &[u8], options: &ListenOptions) -> io::Result<UnixListener> {
    use std::os::unix::ffi::OsStrExt;
    if name.is_empty() {
        return Err(explained(ErrorKind::InvalidInput, "the name is empty"));
    }
    check_length("name", name)?;
    let name = [b"\0", name].concat();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(std::ffi::OsStr::from_bytes(&name))?)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

fn check_length(what: &str, text: &[u8]) -> io::Result<()> {
    if text.len() <= LONGEST_PATH {
        return Ok(());
    }
    let length = text.len();
    let text = format_args!(
        "its {what} is {length} bytes long, and this system takes at most {LONGEST_PATH}: choose a shorter one"
    );
    Err(explained(ErrorKind::InvalidInput, text))
}

/// Drop guard of a socket's file: its drop removes the file, if it is still the one that was created.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// No other file can get the same one while the socket is open.
    identity: Identity,
    /// The process that has created the file. A forked process has a copy of this guard, and must not remove the file.
    origin: Origin,
    /// Another process has the socket, and the file with it.
    is_left: bool,
}

impl SocketFile {
    /// Guards the file that was just created at this path.
    fn made(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&fs::symlink_metadata(&path)?);
        Ok(Self { path, identity, origin: Origin::here(), is_left: false })
    }

    /// Guards a file that an earlier generation of this program has made.
    #[cfg(feature = "upgrade")]
    pub(super) fn known(path: PathBuf, identity: Identity) -> Self {
        Self { path, identity, origin: Origin::here(), is_left: false }
    }

    #[cfg(feature = "upgrade")]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(feature = "upgrade")]
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Leaves the file in its place.
    pub(super) fn leave(mut self) {
        self.is_left = true;
    }

    fn is_in_place(&self) -> bool {
        is_in_place(&self.path, self.identity)
    }
}

/// Returns whether this is the file at the path.
pub(super) fn is_in_place(path: &Path, wanted: Identity) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == wanted)
}

/// Identifies a file, whatever its name: its device and inode.
type Identity = (u64, u64);

fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_left || self.origin.is_elsewhere() {
            return;
        }
        // The folder's lock is not needed: the socket still listens, so no other start takes its file for a stale one.
        let path = self.path.display();
        let result = match fs::symlink_metadata(&self.path) {
            Ok(found) if identity(&found) == self.identity => fs::remove_file(&self.path),
            Ok(_) => {
                log_line!(debug, "left the file `{path}` alone: it is not the one that was made here");
                Ok(())
            }
            Err(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log_line!(warn, "cannot remove the socket file `{path}`: {error}; the next start will, if it may");
            }
            _ => {}
        }
    }
}

/// Returns the error with a text that names what was attempted, the address, and what to do.
pub(super) fn explain(address: &Address, source: io::Error) -> io::Error {
    let folder = match address.path().and_then(Path::parent) {
        Some(folder) if folder.as_os_str().is_empty() => Address::unix(Path::new(".")),
        Some(folder) => Address::unix(folder),
        None => address.clone(),
    };
    let hint = match source.kind() {
        ErrorKind::NotFound => format!("; its folder `{folder}` does not exist: make it first"),
        ErrorKind::NotADirectory => format!("; `{folder}` is no folder"),
        ErrorKind::PermissionDenied => {
            format!("; this user may not make files in `{folder}`: change its permissions, or choose another folder")
        }
        ErrorKind::AddrInUse if source.raw_os_error().is_some() => {
            "; something listens there already: stop it, or choose another name".to_owned()
        }
        _ => String::new(),
    };
    let text = format!("cannot listen on `{address}`: {source}{hint}");
    explained_by(source, text)
}
