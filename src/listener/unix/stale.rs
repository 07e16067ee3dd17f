//! What lies in the place of a Unix socket that is to be bound: it is removed if nothing listens behind it.

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

/// How long another program that starts in the same folder at the same moment is waited for. It holds the lock for a
/// few system calls. One that holds it for longer is no such program, and keeps no server from starting.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Without the lock: a socket that refuses now and after this time is not one of a server that is just starting, and is
/// bound and does not listen yet.
const BETWEEN_BIND_AND_LISTEN: Duration = Duration::from_millis(100);

pub(super) fn taken(text: &str) -> io::Error {
    explained(ErrorKind::AddrInUse, text)
}

/// Removes what a process that was killed has left behind, and nothing else.
pub(super) fn remove_stale(path: &Path, address: &SockAddr, locked: bool) -> io::Result<()> {
    let Some(found) = stale(path, address)? else { return Ok(()) };
    if !locked {
        // Up to twice as long, by chance: of several programs that find the file at one moment, one is the first.
        let chance = RandomState::new().hash_one(0) % 1024;
        pause(BETWEEN_BIND_AND_LISTEN + BETWEEN_BIND_AND_LISTEN * (u32::try_from(chance).expect("it is small")) / 1024);
        if stale(path, address)? != Some(found) {
            return Ok(()); // another server is starting there: look again
        }
    }
    take_away(path, found)
}

/// Which file lies there, if nothing listens behind it; `None` if there is none. If it is not to be removed, an error.
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
    probe.set_nonblocking(true)?; // one that listens may have a full queue, and would keep us waiting
    let lives = "something listens there already: stop it, or choose another path";
    let Err(error) = probe.connect(address) else {
        return Err(taken(lives));
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => Ok(Some(found)),
        Some(Errno::NOENT) => Ok(None),
        Some(Errno::AGAIN | Errno::INPROGRESS) => Err(taken(lives)),
        Some(Errno::PROTOTYPE) => {
            Err(taken("another program has a socket of another type there: stop it, or choose another path"))
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            Err(taken("there is a socket that this user may not connect to: remove it, or choose another path"))
        }
        _ => Err(error),
    }
}

/// A file that nothing listens behind. Its inode is free as soon as it is removed, and is often the next that is given
/// out; the time when it was made tells the two apart. (A rename does not change that.)
#[derive(Clone, Copy, PartialEq)]
struct Stale {
    identity: Identity,
    made: (i64, i64),
}

impl Stale {
    fn new(found: &fs::Metadata) -> Self {
        Self { identity: identity(found), made: (found.mtime(), found.mtime_nsec()) }
    }
}

/// Removes this file and no other, though another may have come in its place since it was looked at: it is moved aside
/// first, which only one process can do, and then looked at once more.
fn take_away(path: &Path, stale: Stale) -> io::Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if !fs::symlink_metadata(path).is_ok_and(|found| Stale::new(&found) == stale) {
        return Ok(()); // look again
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

/// Not over what has come there meanwhile, as far as the system can do that.
fn put_back(aside: &Path, path: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, aside, CWD, path, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {} // the file system cannot
            result => return Ok(result?),
        }
    }
    fs::rename(aside, path)
}

/// Held while a stale file is looked at and removed, and a socket is bound and does not listen yet: so that programs
/// that start at the same moment wait for each other. It leaves nothing behind. Without it they get along as well, but
/// take longer.
pub(super) struct FolderLock {
    /// The lock goes with its last descriptor.
    folder: Option<File>,
}

impl FolderLock {
    /// Not held where the folder may not be read, on a file system without locks, and if another program keeps it.
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

/// There is no event to wait for.
fn pause(time: Duration) {
    std::thread::sleep(time);
}
