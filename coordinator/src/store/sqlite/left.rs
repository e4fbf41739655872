//! Logs beside a database file that is to be opened: of its own, of another file, or of one that is not there.
//!
//! All of this is done before SQLite has opened anything: it writes the pages of any log that it finds into the file.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::Error;
use super::files::Names;
use super::frames::{self, HEAD_BYTES};

/// Bytes that are read of a log at a time.
const READ_BYTES: usize = 1 << 20;

/// Names that are tried for a log that is kept.
const KEPT_MAX: u32 = 1000;

/// Tells whether there is a log that has something.
pub(super) fn has_log(names: &Names) -> bool {
    fs::metadata(names.beside("-wal")).is_ok_and(|log| log.len() > 0)
}

/// Refuses a file beside a log that is not its own. Where that cannot be told, nothing is refused. The file that was read is
/// returned: closed while SQLite has it open it would take the locks of this process with it.
///
/// # Errors
/// [`Error::Emptied`], [`Error::OtherLog`].
pub(super) fn check_log(names: &Names) -> Result<Option<File>, Error> {
    let path = || names.real.display().to_string();
    let is_plain = fs::metadata(&names.real).is_ok_and(|file| file.is_file());
    if !is_plain || !has_log(names) {
        return Ok(None);
    }
    if fs::metadata(&names.real).is_ok_and(|file| file.len() == 0) {
        return Err(Error::Emptied { path: path() });
    }
    // A transaction of another mode is still to be rolled back, so that the file is not what it will be.
    if fs::metadata(names.beside("-journal")).is_ok_and(|journal| journal.len() > 0) {
        return Ok(None);
    }
    let Ok(file) = File::open(&names.real) else { return Ok(None) };
    match judge(&file, &names.beside("-wal")) {
        Ok(Some(fault)) => Err(Error::OtherLog { path: path(), fault }),
        Ok(None) => Ok(Some(file)),
        Err(error) => {
            tracing::debug!(%error, "failed to look whether the write-ahead log is the file's own");
            Ok(Some(file))
        }
    }
}

fn judge(database: &File, log: &Path) -> io::Result<Option<String>> {
    let mut head = [0; HEAD_BYTES];
    database.read_exact_at(&mut head, 0)?;
    frames::foreign(&head, BufReader::with_capacity(READ_BYTES, File::open(log)?))
}

/// Renames a write-ahead log whose database is not there: SQLite would delete it, and with the database
/// somebody may need it.
pub(super) fn keep(names: &Names) -> Result<(), Error> {
    if names.is_there()? || !has_log(names) {
        return Ok(());
    }
    let log = names.beside("-wal");
    let failed = |source| Error::File { path: log.display().to_string(), source };
    let kept = free_name(names).map_err(failed)?;
    fs::rename(&log, &kept).map_err(failed)?;
    tracing::warn!(
        log = %kept.display(),
        "the write-ahead log of a database file that is not there was left behind; it is kept under this \
         name: it has the last writes of that file"
    );
    Ok(())
}

/// Returns a name for a log that nothing has. Nobody else makes one: this process has the lock.
fn free_name(names: &Names) -> io::Result<PathBuf> {
    let first = names.beside("-wal.left");
    let more = (1..KEPT_MAX).map(|n| names.beside(&format!("-wal.left.{n}")));
    for name in std::iter::once(first).chain(more) {
        if !name.try_exists()? {
            return Ok(name);
        }
    }
    Err(io::Error::other(
        "there are too many logs that were kept: see those whose names end in .left",
    ))
}
