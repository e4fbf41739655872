//! Connections of the service's own making, and files that are none.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use super::Sqlite;
use crate::schema::Error;

impl Sqlite {
    /// Opens the file of this pool, with its options. The connections are the participant's own, beside the
    /// pool's: what handlers do to one never meets the service's other work. SQLite runs one writing
    /// transaction at a time, whoever begins it, so a long one of the service keeps handlers waiting.
    ///
    /// # Errors
    /// As of [`open`](Self::open); the pool is closed, or its database is in memory.
    pub async fn from_pool(pool: SqlitePool) -> Result<Self, Error> {
        if pool.is_closed() {
            return Err(Error::Unfit("the pool is closed".to_owned()));
        }
        Self::connect_with(SqliteConnectOptions::clone(&pool.connect_options())).await
    }
}

/// Fails if this names no file: each connection would have a database of its own, which ends with it.
pub(super) fn is_a_file(name: &Path) -> Result<(), Error> {
    let text = name.to_string_lossy();
    let in_memory = text.is_empty()
        || text == ":memory:"
        || text.starts_with("file:") && (text.contains(":memory:") || text.contains("mode=memory"))
        // The name that sqlx gives a database in memory.
        || text.starts_with("file:sqlx-in-memory");
    if in_memory {
        return Err(Error::Unfit(format!(
            "a database in memory ({text:?}) is lost with the process, and with it every vote; name a file"
        )));
    }
    if text.starts_with("sqlite:") {
        return Err(Error::Unfit(format!(
            "{text:?} is a URL; name the file, or parse it as SqliteConnectOptions for `connect_with`"
        )));
    }
    Ok(())
}

/// Returns the place of a file: a copy of it is another file, also of the same name on another machine, as a rule.
#[cfg(unix)]
pub(super) fn place(name: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let file = std::fs::metadata(name).ok()?;
    Some(format!("file.{}.{}", file.dev(), file.ino()))
}

/// Returns nothing: files have no numbers here.
#[cfg(not(unix))]
pub(super) fn place(_: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_file_is_refused_with_a_sentence() {
        let in_memory: SqliteConnectOptions = "sqlite::memory:".parse().expect("a URL");
        let named = in_memory.get_filename().to_owned();
        for name in [
            Path::new(":memory:"),
            Path::new(""),
            Path::new("file:x?mode=memory&cache=shared"),
            &named,
        ] {
            let error = Sqlite::open(name).await.expect_err("no file").to_string();
            assert!(error.contains("is lost with the process"), "{error}");
        }
        let error = Sqlite::from_pool(SqlitePool::connect_lazy_with(in_memory)).await;
        assert!(error.expect_err("no file").to_string().contains("is lost with the process"));
        let error = Sqlite::open("sqlite:shop.db").await.expect_err("a URL").to_string();
        assert!(error.contains("is a URL"), "{error}");
    }
}
