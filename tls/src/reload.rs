//! Things made of files, which are made again when the files change.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use crate::{Error, File};

/// Pause between two looks at the files. What revokes a token or renews a certificate need not be faster, and
/// the files are small.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Contents of the files, in their order.
type Contents = Vec<Vec<u8>>;

type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T, Error> + Send + Sync;

/// Hears what was used before, and what is used now.
type Told<T> = dyn Fn(&T, &T) + Send + Sync;

/// A thing made of the contents of files. It is made again when they change, compared by content: a change of
/// a link counts, too. While they are bad, the last good one is kept.
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
        self.stale.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of each change that takes effect from now on; the first one who asks is told.
    pub fn on_change(&self, told: impl Fn(&T, &T) + Send + Sync + 'static) {
        let _ = self.told.set(Box::new(told));
    }

    /// Takes the contents that were found, and returns those that are in use.
    fn look(
        &self,
        found: Result<Contents, Error>,
        used: Contents,
        before: &mut String,
    ) -> Contents {
        let made = found.and_then(|found| match found == used {
            true => Ok((None, found)),
            false => (self.make)(&found).map(|made| (Some(made), found)),
        });
        match made {
            Ok((made, found)) => {
                if let Some(made) = made {
                    let made = Arc::new(made);
                    let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                    let former = std::mem::replace(&mut *current, Arc::clone(&made));
                    drop(current);
                    if let Some(told) = self.told.get() {
                        told(&former, &made);
                    }
                    tracing::info!(files = %self.names(), "files have changed and are used");
                }
                before.clear();
                *self.stale.lock().unwrap_or_else(PoisonError::into_inner) = None;
                found
            }
            Err(error) => {
                // Two files that belong together change one after the other.
                let error = error.to_string();
                let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
                if *before == error && stale.as_ref() != Some(&error) {
                    tracing::error!(
                        alarm = "files_not_used",
                        error,
                        "files have changed and cannot be used; the former ones stay in use"
                    );
                    *stale = Some(error.clone());
                }
                *before = error;
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
    let mut before = String::new();
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let Some(reload) = reload.upgrade() else { return };
        let files = reload.files.clone();
        // A file on a network may hang, and must not hold up a thread of the runtime.
        let Ok(found) = tokio::task::spawn_blocking(move || read(&files)).await else { return };
        used = reload.look(found, used, &mut before);
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
        let (mut used, mut before) = (vec![b"1".to_vec()], String::new());
        let mut look = |text: &str| {
            let found = Ok(vec![text.as_bytes().to_vec()]);
            used = reload.look(found, std::mem::take(&mut used), &mut before);
            (*reload.current(), reload.stale())
        };
        assert_eq!(look("1"), (1, None));
        assert_eq!(look("x"), (1, None), "it may be half written");
        let stale = Some("use the number a-file: must be a number".to_owned());
        assert_eq!(look("x"), (1, stale.clone()));
        assert_eq!(look("x"), (1, stale));
        assert_eq!(look("2"), (2, None));
        assert_eq!(look("x"), (2, None));
        assert_eq!(look("2"), (2, None));
        assert_eq!(look("x"), (2, None), "counted anew");
        assert_eq!(*heard.lock().expect("a list"), [(1, 2)], "each change that took effect, once");
    }
}
