use std::borrow::Cow;

use sqlx::error::{DatabaseError, ErrorKind};

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("database disk image is malformed")]
struct Malformed;

impl DatabaseError for Malformed {
    fn message(&self) -> &str {
        "database disk image is malformed"
    }
    fn code(&self) -> Option<Cow<'_, str>> {
        Some("11".into())
    }
    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }
    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }
    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

fn malformed() -> Error {
    Error::database("purge")(sqlx::Error::Database(Box::new(Malformed)))
}

#[tokio::test]
async fn those_that_fail_are_not_all_that_it_ever_comes_to() {
    // The first 600 fail.
    let (passed, left) = (AtomicI64::new(0), AtomicI64::new(100));
    let purge = |part: Part| {
        let left = &left;
        async move {
            if part.from < 600 {
                return Err(malformed());
            }
            if left.load(Ordering::Relaxed) == 0 {
                return Ok(Taken::default());
            }
            left.fetch_sub(1, Ordering::Relaxed);
            Ok(Taken { due: 1, purged: 1, set_aside: 0 })
        }
    };
    let first = singly(&passed, purge).await;
    assert!(matches!(first, Err(Error::Damaged { .. })), "{first:?}");
    assert_eq!(singly(&passed, purge).await.expect("some are purged"), 100);
    for _ in 0..3 {
        let later = singly(&passed, purge).await;
        assert!(matches!(later, Err(Error::Damaged { .. })), "{later:?}");
    }
}

#[tokio::test]
async fn one_that_is_set_aside_is_not_the_last_that_is_due() {
    let (passed, taken) = (AtomicI64::new(0), AtomicI64::new(0));
    let purge = |part: Part| {
        let number = taken.fetch_add(1, Ordering::Relaxed);
        async move {
            assert_eq!(part.from, 0, "what is set aside is not due any more");
            Ok(match number {
                0 => Taken { due: 1, purged: 0, set_aside: 1 },
                1 => Taken { due: 1, purged: 1, set_aside: 0 },
                _ => Taken::default(),
            })
        }
    };
    assert_eq!(singly(&passed, purge).await.expect("it goes on"), 1);
}
