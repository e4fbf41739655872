//! Things made of files, which are made again when the files change.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::{Error, File};

/// Pause between two looks at the files. What has changed is used once two looks in a row have found the same: it is for as
/// long that a file has to stay as it is. What revokes a token or renews a certificate need not be faster, and the files are
/// small.
pub const RELOAD_INTERVAL: Duration = Duration::from_millis(500);

/// Contents of the files, in their order.
type Contents = Vec<Vec<u8>>;

type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T, Error> + Send + Sync;

/// Hears what was used before, and what is used now.
type Told<T> = dyn Fn(&T, &T) + Send + Sync;

/// Result of a look: the contents, or why there are none.
type Found = Result<Contents, String>;

/// A thing made of the contents of files. It is made again when they change, compared by content: a change of
/// a link counts, too. While they are bad, the last good one is kept.
///
/// A file that is being written may be good half way, and say something else: an entry without its last line, authorities
/// without the last one. So what changes from look to look is not read at all.
pub struct Reload<T> {
    files: Vec<File>,
    make: Box<Make<T>>,
    current: RwLock<Arc<T>>,
    stale: Mutex<Option<String>>,
    told: OnceLock<Box<Told<T>>>,
}

impl<T> fmt::Debug for Reload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reload<T> {
    /// Reads the files, and looks at them again and again for as long as the result lives.
    ///
    /// # Errors
    /// A file cannot be read, or `make` refuses the contents.
    ///
    /// # Panics
    /// Outside a tokio runtime, if there is a file.
    pub fn start(
        files: Vec<File>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        let contents = read(&files)?;
        let current = RwLock::new(Arc::new(make(&contents)?));
        let follows = !files.is_empty();
        let (make, stale, told) = (Box::new(make), Mutex::default(), OnceLock::new());
        let made = Arc::new(Self { files, make, current, stale, told });
        if follows {
            tokio::spawn(follow(Arc::downgrade(&made), contents));
        }
        Ok(made)
    }

    /// Returns what was made of the last good contents.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns why the files that are there now are not used; `None` if they are.
    pub fn stale(&self) -> Option<String> {
        self.lock_stale().clone()
    }

    fn lock_stale(&self) -> MutexGuard<'_, Option<String>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of each change that takes effect from now on; the first one who asks is told.
    pub fn on_change(&self, told: impl Fn(&T, &T) + Send + Sync + 'static) {
        let _ = self.told.set(Box::new(told));
    }

    /// Takes the contents that were found, and returns those that are in use.
    fn look(&self, found: Found, used: Contents, before: &mut Option<Found>) -> Contents {
        if found.as_ref() == Ok(&used) {
            *before = None;
            *self.lock_stale() = None;
            return used;
        }
        if before.as_ref() != Some(&found) {
            *before = Some(found);
            return used;
        }
        let made = found.and_then(|found| match (self.make)(&found) {
            Ok(made) => Ok((Arc::new(made), found)),
            Err(error) => Err(error.to_string()),
        });
        match made {
            Ok((made, found)) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                let former = std::mem::replace(&mut *current, Arc::clone(&made));
                drop(current);
                if let Some(told) = self.told.get() {
                    told(&former, &made);
                }
                tracing::info!(files = %self.names(), "files have changed and are used");
                *before = None;
                *self.lock_stale() = None;
                found
            }
            Err(error) => {
                let mut stale = self.lock_stale();
                if stale.as_ref() != Some(&error) {
                    tracing::error!(
                        alarm = "files_not_used",
                        error,
                        "files have changed and cannot be used; the former ones stay in use"
                    );
                    *stale = Some(error);
                }
                used
            }
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.files.iter().map(|file| file.path.display().to_string()).collect();
        names.join(", ")
    }
}

fn read(files: &[File]) -> Result<Contents, Error> {
    files.iter().map(File::read).collect()
}

async fn follow<T: Send + Sync + 'static>(reload: Weak<Reload<T>>, mut used: Contents) {
    let mut before = None;
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let Some(reload) = reload.upgrade() else { return };
        let files = reload.files.clone();
        // A file on a network may hang, and must not hold up a thread of the runtime.
        let Ok(found) = tokio::task::spawn_blocking(move || read(&files)).await else { return };
        used = reload.look(found.map_err(|error| error.to_string()), used, &mut before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_told_when_it_stays_and_the_good_one_is_kept() {
        let file = File::new("number", "a-file");
        let make = move |contents: &[Vec<u8>]| {
            let text = String::from_utf8_lossy(&contents[0]).into_owned();
            text.parse::<u32>().map_err(|_| file.breaks("must be a number"))
        };
        let reload = Reload {
            files: vec![File::new("number", "a-file")],
            make: Box::new(make),
            current: RwLock::new(Arc::new(1)),
            stale: Mutex::default(),
            told: OnceLock::new(),
        };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        reload.on_change(move |old, new| hearing.lock().expect("a list").push((*old, *new)));
        let (mut used, mut before) = (vec![b"1".to_vec()], None);
        let mut look = |text: &str| {
            let found = Ok(vec![text.as_bytes().to_vec()]);
            used = reload.look(found, std::mem::take(&mut used), &mut before);
            (*reload.current(), reload.stale())
        };
        assert_eq!(look("1"), (1, None));
        assert_eq!(look("x"), (1, None), "it may be half written");
        let stale = Some("use the number a-file: must be a number".to_owned());
        assert_eq!(look("x"), (1, stale.clone()));
        assert_eq!(look("x"), (1, stale.clone()));
        assert_eq!(look("2"), (1, stale), "a good one may be half written, too");
        assert_eq!(look("2"), (2, None));
        assert_eq!(look("x"), (2, None));
        assert_eq!(look("2"), (2, None));
        assert_eq!(look("x"), (2, None), "counted anew");
        for part in ["3", "34", "345", "3456"] {
            assert_eq!(look(part), (2, None), "it grows");
        }
        assert_eq!(look("3456"), (3456, None));
        let expected = [(1, 2), (2, 3456)];
        assert_eq!(*heard.lock().expect("a list"), expected, "each change that took effect, once");
    }

    #[test]
    fn a_file_that_is_gone_is_told_when_it_stays_away() {
        let reload = Reload {
            files: Vec::new(),
            make: Box::new(|_: &[Vec<u8>]| Ok(())),
            current: RwLock::new(Arc::new(())),
            stale: Mutex::default(),
            told: OnceLock::new(),
        };
        let mut before = None;
        let gone = || Err("it is gone".to_owned());
        reload.look(gone(), Vec::new(), &mut before);
        assert_eq!(reload.stale(), None);
        reload.look(gone(), Vec::new(), &mut before);
        assert_eq!(reload.stale().as_deref(), Some("it is gone"));
        reload.look(Ok(Vec::new()), Vec::new(), &mut before);
        assert_eq!(reload.stale(), None);
    }
}
