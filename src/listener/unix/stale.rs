//! Removes a stale socket file, which a killed process has left at the path to which a Unix socket is to be bound.
//!
//! A file is stale if it is a socket on which no server listens. The difficulty is races with other programs that start
//! at the same moment: a server that has bound its socket but does not listen yet looks stale, and a file may be
//! replaced after it was checked. [`FolderLock`] makes programs that use this crate wait for each other; without the
//! lock [`remove_stale`] waits and checks a second time; [`take_away`] removes only the file that was checked.

use super::{Identity, identity};
use crate::address::Address;
use crate::panic::log_line;
use crate::span::Span;
use crate::text::explained;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the start waits for another program that starts in the same folder at the same moment. Such a program holds
/// the lock for a few system calls. A program that holds it longer is none of these, and does not prevent the start.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Without the lock: a socket that still refuses after this time is not that of a starting server, which is bound but
/// does not listen yet.
const BETWEEN_BIND_AND_LISTEN: Duration = Duration::from_millis(100);

/// Returns the error for a path that is in use.
pub(super) fn taken(text: &str) -> io::Error {
    explained(ErrorKind::AddrInUse, text)
}

/// Removes the file that a killed process has left behind, and nothing else.
pub(super) fn remove_stale(path: &Path, address: &SockAddr, locked: bool) -> io::Result<()> {
    let Some(found) = stale(path, address)? else { return Ok(()) };
    if !locked {
        // A random time, up to twice as long: of several programs that find the file at one moment, one is the first.
        let random = RandomState::new().hash_one(0) % 1024;
        let random = u32::try_from(random).expect("it is below 1024");
        pause(BETWEEN_BIND_AND_LISTEN + BETWEEN_BIND_AND_LISTEN * random / 1024);
        if stale(path, address)? != Some(found) {
            return Ok(()); // another server is starting there: the caller checks again
        }
    }
    take_away(path, found)
}

/// Returns the stale file at the path; `None` if there is no file.
///
/// # Errors
///
/// If the file must not be removed: something listens there, or it is not a socket.
fn stale(path: &Path, address: &SockAddr) -> io::Result<Option<Stale>> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if found.file_type().is_socket() => Stale::new(&found),
        Ok(found) if found.is_dir() => {
            let inside = Address::unix(&path.join("server.sock"));
            let text = format!("it is a folder: give the path of a file to make in it, such as `{inside}`");
            return Err(taken(&text));
        }
        Ok(_) => {
            let text = "there is a file that is no socket, which is left alone: remove it, or choose another path";
            return Err(taken(text));
        }
    };
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // a server with a full backlog would block the connect
    let live = "something listens there already: stop it, or choose another path";
    let Err(error) = probe.connect(address) else {
        return Err(taken(live));
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => Ok(Some(found)),
        Some(Errno::NOENT) => Ok(None),
        Some(Errno::AGAIN | Errno::INPROGRESS) => Err(taken(live)),
        Some(Errno::PROTOTYPE) => {
            Err(taken("another program has a socket of another type there: stop it, or choose another path"))
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            Err(taken("there is a socket that this user may not connect to: remove it, or choose another path"))
        }
        _ => Err(error),
    }
}

/// A stale file. Its inode is free as soon as it is removed, and the next file often gets the same one; the time of its
/// creation distinguishes the two. (A rename does not change that time.)
#[derive(Clone, Copy, PartialEq)]
struct Stale {
    identity: Identity,
    /// When it was created: seconds and nanoseconds.
    made: (i64, i64),
}

impl Stale {
    fn new(found: &fs::Metadata) -> Self {
        Self { identity: identity(found), made: (found.mtime(), found.mtime_nsec()) }
    }
}

/// Removes this file and no other, even if another one has replaced it since the check: it is renamed first, which only
/// one process can do, and then checked once more.
fn take_away(path: &Path, stale: Stale) -> io::Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if !fs::symlink_metadata(path).is_ok_and(|found| Stale::new(&found) == stale) {
        return Ok(()); // it has changed: the caller checks again
    }
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let aside = path.with_file_name(format!(".ebbtide-{}-{n}.stale", std::process::id()));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()), // another process was quicker
        result => result?,
    }
    if Stale::new(&fs::symlink_metadata(&aside)?) != stale {
        put_back(&aside, path)?;
        return Err(taken("another server has just started there: stop it, or choose another path"));
    }
    fs::remove_file(&aside)?;
    log_line!(info, "removed the socket file `{}`: it was stale, no server listened there", path.display());
    Ok(())
}

/// Renames the file back; not over a file that another program has created there since, if the system can do that.
fn put_back(aside: &Path, path: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, aside, CWD, path, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {} // the file system does not support it
            result => return Ok(result?),
        }
    }
    fs::rename(aside, path)
}

/// Lock on a folder (`flock`), so that programs that start at the same moment wait for each other. It is held from the
/// check of a stale file until the new socket listens. It leaves no file behind. Without it the start works as well,
/// but takes longer.
pub(super) struct FolderLock {
    /// The lock ends with its last descriptor. `None`: the lock is not held.
    folder: Option<File>,
}

impl FolderLock {
    /// Takes the lock on the file's folder. It is not held if the folder may not be read, if the file system has no
    /// locks, or if another program keeps it.
    pub(super) fn of(file: &Path) -> Self {
        let Some(Ok(folder)) = file.parent().map(File::open) else { return Self { folder: None } };
        let start = Instant::now();
        loop {
            match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self { folder: Some(folder) },
                Err(Errno::AGAIN) if start.elapsed() < LOCK_PATIENCE => pause(Duration::from_millis(1)),
                Err(Errno::AGAIN) => {
                    let (file, patience) = (file.display(), Span(LOCK_PATIENCE));
                    log_line!(
                        warn,
                        "another program keeps the folder of `{file}` locked (`flock`): went on without the lock after \
                         {patience}"
                    );
                    return Self { folder: None };
                }
                Err(_) => return Self { folder: None },
            }
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.folder.is_some()
    }
}

/// Blocks the thread: there is no event to wait for.
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens if another server replaces the file between the check and the removal. It cannot be arranged from
    /// outside: the time between the two is that of one system call.
    #[test]
    fn a_file_that_was_renamed_by_mistake_is_put_back_but_not_over_another() {
        let folder = std::env::temp_dir().join(format!("ebbtide-put-back-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (path, aside) = (folder.join("socket"), folder.join("aside"));
        fs::write(&aside, "of a server").unwrap();
        put_back(&aside, &path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), aside.exists()), ("of a server", false));
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        {
            fs::write(&aside, "of another server").unwrap();
            assert_eq!(put_back(&aside, &path).unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&path).unwrap(), "of a server");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
