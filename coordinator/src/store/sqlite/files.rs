//! Files of a database: each must stay the one that was opened.
//!
//! A process can go on writing into files that were deleted, renamed or replaced, and what it writes there
//! nobody ever reads. So the paths are looked at before each write, and again after its commit before
//! anybody is told of it. The second look is the proof: at that moment the files at the paths are those that
//! hold the commit. The first one keeps a process from writing what it could not tell anybody.
//!
//! A file has its number for as long as it is open: the lock, and the [first connection](super::opened), stay
//! open, so that no later file can have the number of one of these.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::Error;
use super::{log, work};

/// Most symbolic links that are followed from a name of a file, as many as Linux follows.
const LINKS_MAX: u32 = 40;

/// Tries to open a lock file that somebody deletes meanwhile.
const LOCK_TRIES_MAX: u32 = 10;

/// SQLite's result code for a file that it cannot open or make.
const CANNOT_OPEN: i32 = 14;

/// Mode of files that are made.
const OWNER_ALONE: u32 = 0o600;

/// Identity of a file that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }
}

/// Names of a database file.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The configured one, from the root on.
    pub(super) given: PathBuf,
    /// The same without symbolic links. SQLite's other files, and the lock, are beside it.
    pub(super) real: PathBuf,
}

impl Names {
    /// Finds the names, and makes the folder if it is not there.
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let failed = |source| failed(path, source);
        let given = std::path::absolute(path).map_err(failed)?;
        let mut real = given.clone();
        for _ in 0..LINKS_MAX {
            let Ok(target) = fs::read_link(&real) else { break };
            real = real.parent().unwrap_or(Path::new("/")).join(target);
        }
        let (Some(folder), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let real = fs::canonicalize(folder).map_err(failed)?.join(name);
        Ok(Self { given, real })
    }

    /// Makes the file, empty: for its owner alone, because it has payloads and outputs as they are. SQLite's other files get
    /// the same mode.
    pub(super) fn make(&self) -> Result<(), Error> {
        let made = File::options().create_new(true).write(true).mode(OWNER_ALONE).open(&self.real);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed(&self.real, error))
            }
            _ => Ok(()),
        }
    }

    /// Tells whether there is a file.
    pub(super) fn is_there(&self) -> Result<bool, Error> {
        self.real.try_exists().map_err(|source| failed(&self.real, source))
    }

    /// Refuses a file that has more names, links or mounts: under another one SQLite would not find its write-ahead
    /// log, and a second process not the lock.
    pub(super) fn check_only_name(&self) -> Result<(), Error> {
        let file = fs::metadata(&self.real).map_err(|source| failed(&self.real, source))?;
        let path = || self.real.display().to_string();
        if file.is_file() && file.nlink() > 1 {
            return Err(Error::SeveralNames { path: path(), count: file.nlink() });
        }
        if is_mount(&self.real) {
            return Err(Error::MountedAlone { path: path() });
        }
        Ok(())
    }

    /// Says why SQLite cannot open its files: it tells only that it cannot. Beside the database it has to make some.
    pub(super) fn explain(&self, error: Error) -> Error {
        let is_unopened = match &error {
            Error::Database { source, .. } => {
                work::code(source).is_some_and(|code| code & 0xff == CANNOT_OPEN)
            }
            _ => false,
        };
        if !is_unopened {
            return error;
        }
        let probe = self.beside(".probe");
        let made = File::options().create_new(true).write(true).mode(OWNER_ALONE).open(&probe);
        match made {
            Ok(_) => {
                // Nobody needs it.
                let _ = fs::remove_file(&probe);
                error
            }
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => error,
            Err(source) => failed(&self.beside("-wal"), source),
        }
    }

    /// Returns the path of one of SQLite's other files, or of the lock.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.real.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }
}

/// Tells whether this file is mounted by itself, so that it has another name elsewhere. A kernel that does not know says
/// no.
#[cfg(target_os = "linux")]
fn is_mount(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|file| file.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Tells whether this file is mounted by itself: other systems mount folders alone.
#[cfg(not(target_os = "linux"))]
fn is_mount(_: &Path) -> bool {
    false
}

/// Lock on the file beside the database, for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
    /// An incarnation was created under this lock file before. Otherwise another process may have one that was deleted, and serve
    /// the database still.
    pub(super) has_served: bool,
}

impl Lock {
    pub(super) fn take(names: &Names) -> Result<Self, Error> {
        let path = names.beside(".lock");
        let failed = |source| failed(&path, source);
        for _ in 0..LOCK_TRIES_MAX {
            let new = File::options().create_new(true).write(true).mode(OWNER_ALONE).open(&path);
            let file = match new {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    match File::options().write(true).open(&path) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        opened => opened.map_err(failed)?,
                    }
                }
                Err(error) => return Err(failed(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(Error::InUse { path: path.display().to_string() });
                }
                Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Whoever comes next must find this one.
            let own = file.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|found| FileId::of(&found) == FileId::of(&own)) {
                return Ok(Self { path, file, has_served: own.len() > 0 });
            }
        }
        Err(failed(io::ErrorKind::NotFound.into()))
    }

    /// Marks it once an incarnation has been created: from then on no other lock file was there.
    pub(super) fn mark(&self) {
        // Without it the next start waits for nobody, for a lease.
        if let Err(error) = self.file.write_all_at(b"served\n", 0) {
            tracing::debug!(%error, "failed to mark the lock file");
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that this process makes at the moment has the file as well, until it runs its program.
        let _ = self.file.unlock();
    }
}

/// The files, as they were opened.
#[derive(Debug)]
pub(super) struct Files {
    /// Path of each, its name in sentences, and its identity.
    opened: Vec<(PathBuf, &'static str, FileId)>,
    /// The write-ahead log.
    log: PathBuf,
    /// Length of the database file. Nothing of SQLite's makes it shorter: nobody here cleans it up.
    database_bytes: Length,
    /// Length of the log. SQLite cuts it to [`log::BYTES_MAX`], and no shorter, while it is open.
    log_bytes: Length,
}

const DATABASE: &str = "the database file";
const LOG: &str = "the write-ahead log";
const INDEX: &str = "the index of the write-ahead log";
const LOCK: &str = "the lock file";

impl Files {
    /// Notes the files once they are open: a connection has written.
    pub(super) fn opened(names: &Names, lock: &Lock) -> Result<Self, Error> {
        let mut opened = Vec::new();
        let log = names.beside("-wal");
        for (path, what) in [
            (&names.given, DATABASE),
            (&names.real, DATABASE),
            (&log, LOG),
            (&names.beside("-shm"), INDEX),
        ] {
            let found = fs::metadata(path).map_err(|error| lost(what, path, &error))?;
            opened.push((path.clone(), what, FileId::of(&found)));
        }
        let locked = lock.file.metadata().map_err(|source| failed(&lock.path, source))?;
        opened.push((lock.path.clone(), LOCK, FileId::of(&locked)));
        let (database_bytes, log_bytes) = (Length::at_least(1), Length::at_least(0));
        let files = Self { opened, log, database_bytes, log_bytes };
        files.check().map(|()| files)
    }

    /// Fails if a path does not lead to the file that was opened.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.opened.iter().try_for_each(|file| self.check_one(file))
    }

    /// Tells whether the database and its lock are in their places, and the write-ahead log is not, nor any
    /// that somebody has written into.
    pub(super) fn has_lost_log_only(&self) -> bool {
        let is_there = |what| {
            let mut files = self.opened.iter().filter(move |(_, name, _)| *name == what);
            files.all(|file| self.check_one(file).is_ok())
        };
        let is_cut = |found: &Metadata| {
            self.opened.iter().any(|(_, name, id)| *name == LOG && *id == FileId::of(found))
        };
        let is_unused = match fs::metadata(&self.log) {
            // The one that was opened has lost what it held, and others would be copied from it.
            Ok(found) => found.len() == 0 && !is_cut(&found),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        is_there(DATABASE) && is_there(LOCK) && is_unused
    }

    /// Returns the size of the write-ahead log.
    pub(super) fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    fn check_one(&self, (path, what, id): &(PathBuf, &'static str, FileId)) -> Result<(), Error> {
        let length = match *what {
            DATABASE => Some((&self.database_bytes, u64::MAX)),
            LOG => Some((&self.log_bytes, log::BYTES_MAX)),
            _ => None,
        };
        // Read first: whoever looks at the same time may see it grow.
        let seen = length.map(|(length, most)| length.seen(most));
        let found = fs::metadata(path).map_err(|error| lost(what, path, &error))?;
        let FileId { device, inode } = FileId::of(&found);
        let fault = if FileId::of(&found) != *id {
            format!(
                "another file is there (device {device}, inode {inode}) than the one that was opened (device {}, \
                 inode {})",
                id.device, id.inode
            )
        } else if let (Some((length, _)), Some(seen)) = (length, seen)
            && !length.holds(seen, found.len())
        {
            "somebody has cut it, or written over it: it became shorter".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Replaced { what, path: path.display().to_string(), fault })
    }
}

/// Length of a file, as it was seen.
#[derive(Debug)]
struct Length {
    bytes: AtomicU64,
    /// It was shorter once. SQLite may write it to its length again, and not what was lost.
    is_cut: AtomicBool,
}

impl Length {
    fn at_least(bytes: u64) -> Self {
        Self { bytes: AtomicU64::new(bytes), is_cut: AtomicBool::new(false) }
    }

    /// Returns the length below which it must not be, and that is never more than `most`.
    fn seen(&self, most: u64) -> u64 {
        self.bytes.load(Ordering::Acquire).min(most)
    }

    /// Notes a length, and tells whether it was never below what was [seen](Self::seen) before.
    fn holds(&self, seen: u64, found: u64) -> bool {
        if found < seen {
            self.is_cut.store(true, Ordering::Release);
        } else {
            self.bytes.fetch_max(found, Ordering::AcqRel);
        }
        !self.is_cut.load(Ordering::Acquire)
    }
}

fn lost(what: &'static str, path: &Path, error: &io::Error) -> Error {
    let fault = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "it is not there any more".to_owned()
        }
        _ => format!("it cannot be looked at: {error}"),
    };
    Error::Replaced { what, path: path.display().to_string(), fault }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::File { path: path.display().to_string(), source }
}
