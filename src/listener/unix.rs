//! Unix sockets that listen, and their files.

use super::ListenOptions;
use crate::address::Address;
use crate::origin::Origin;
use crate::panic::log_line;
use crate::transport::Transport;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another program that starts in the same folder at the same moment is waited for. It holds the lock for a
/// few system calls.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The same for a server that stops: it does without in the end, and has no time for one who keeps the lock.
const LOCK_PATIENCE_OF_AN_EXIT: Duration = Duration::from_millis(50);

/// A client's stream and address.
pub(super) fn accept(socket: &UnixListener) -> io::Result<(Transport, Address)> {
    let (stream, peer) = socket.accept()?;
    Ok((Transport::unix(stream)?, Address::from(peer)))
}

pub(super) fn bind(path: &Path, options: &ListenOptions) -> io::Result<(UnixListener, SocketFile)> {
    let text = path.as_os_str().as_encoded_bytes();
    if text.is_empty() || text.contains(&0) {
        let error =
            "a path must not be empty, nor contain a zero byte (for a name without a file: `Listener::unix_abstract`)";
        return Err(io::Error::new(ErrorKind::InvalidInput, error));
    }
    let address = SockAddr::unix(path)?;
    let full_path = std::path::absolute(path)?; // the program may change its folder before it is removed
    let _lock = FolderLock::of(&full_path, LOCK_PATIENCE)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            socket.bind(&address)?;
        }
        result => result?,
    }
    let file = SocketFile::made(full_path)?;
    if let Some(mode) = options.mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?; // no client gets in before it listens
    }
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok((UnixListener::from(std::os::fd::OwnedFd::from(socket)), file))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn bind_abstract(name: &[u8], options: &ListenOptions) -> io::Result<UnixListener> {
    use std::os::unix::ffi::OsStrExt;
    if name.is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the name is empty"));
    }
    let name = [b"\0", name].concat();
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(std::ffi::OsStr::from_bytes(&name))?)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

/// Removes what a process that was killed has left behind, and nothing else.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let taken = |text: &str| Err(io::Error::new(ErrorKind::AddrInUse, text.to_owned()));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            return taken("there is a file that is no socket, which is left alone: remove it, or choose another path");
        }
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // one that listens may have a full queue, and would keep us waiting
    let Err(error) = probe.connect(address) else {
        return taken("something listens there already: stop it, or choose another path");
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => {
            fs::remove_file(path)?;
            log_line!(info, "removed the socket file `{}`: it was stale, no server listened there", path.display());
            Ok(())
        }
        Some(Errno::NOENT) => Ok(()),
        Some(Errno::AGAIN | Errno::INPROGRESS) => {
            taken("something listens there already: stop it, or choose another path")
        }
        Some(Errno::PROTOTYPE) => {
            taken("another program has a socket of another type there: stop it, or choose another path")
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            taken("there is a socket that this user may not connect to: remove it, or choose another path")
        }
        _ => Err(error),
    }
}

/// Held while a socket file is looked at and made or removed, so that two programs that start at the same moment do not
/// take each other's socket, which is bound and does not listen yet, for a stale one. It leaves nothing behind.
struct FolderLock {
    /// The lock goes with its last descriptor.
    _folder: Option<File>,
}

impl FolderLock {
    fn of(file: &Path, patience: Duration) -> io::Result<Self> {
        let Some(Ok(folder)) = file.parent().map(File::open) else {
            return Ok(Self { _folder: None }); // may be written and not read: then there is only the system's own order
        };
        let start = Instant::now();
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::AGAIN) if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(1)),
                Err(Errno::AGAIN) => {
                    let text = "another program keeps the folder locked (`flock`), as this one would for a moment";
                    return Err(io::Error::new(ErrorKind::ResourceBusy, text));
                }
                // A file system without locks: the same.
                Err(_) => return Ok(Self { _folder: None }),
                Ok(()) => return Ok(Self { _folder: Some(folder) }),
            }
        }
    }
}

/// The file of a socket that we made. Removed by its drop, if it is still the same.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Which file it is, whatever its name: the device and the inode. No other file can get the inode while the socket
    /// is open.
    identity: (u64, u64),
    /// A process that is forked from this one has a copy, and the file is not its own.
    origin: Origin,
}

impl SocketFile {
    fn made(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&fs::symlink_metadata(&path)?);
        Ok(Self { path, identity, origin: Origin::here() })
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.origin.is_elsewhere() {
            return;
        }
        let _lock = FolderLock::of(&self.path, LOCK_PATIENCE_OF_AN_EXIT);
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

/// Says what was attempted, with which address, and what to do.
pub(super) fn explain(address: &Address, source: io::Error) -> io::Error {
    let hint = match source.kind() {
        ErrorKind::NotFound => "; its folder does not exist: make it first",
        ErrorKind::PermissionDenied => "; this user may not make files in its folder",
        ErrorKind::AddrInUse if source.raw_os_error().is_some() => "; something listens there already",
        ErrorKind::InvalidInput if address.to_string().len() > 100 => {
            "; the system takes at most 107 bytes (Linux) or 103 (others)"
        }
        _ => "",
    };
    io::Error::new(source.kind(), format!("cannot listen on `{address}`: {source}{hint}"))
}
