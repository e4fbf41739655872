//! Participants that are long gone leave the directory and the store.

use std::sync::Arc;
use std::time::Duration;

use unanimo_core::Incarnation;

use crate::engine::Handle;
use crate::participants::directory::{Directory, Stale};
use crate::store::{self, Store};

/// Pause between two looks, in intervals in which participants register.
const INTERVALS_BETWEEN_LOOKS: u32 = 6;

/// Shortest pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Forgets what is long gone, for as long as the process lives; first the names for which there was no place
/// at the start. It begins once everything is adopted that earlier incarnations left: before that nobody knows
/// to whom something is owed.
pub(super) async fn forget_stale(
    engine: Handle,
    directory: Arc<Directory>,
    store: Arc<dyn Store>,
    me: Incarnation,
) {
    let pause = (directory.keep_alive_interval() * INTERVALS_BETWEEN_LOOKS).max(PAUSE_MIN);
    while !engine.has_adopted() {
        tokio::time::sleep(PAUSE_MIN).await;
    }
    loop {
        for stale in directory.stale() {
            if let Err(error) = forget(&directory, &*store, me, &stale).await {
                let error = store::in_full(&error);
                tracing::warn!(
                    error,
                    "failed to forget a participant that is gone; it is repeated"
                );
                break;
            }
        }
        directory.close_unused();
        tokio::time::sleep(pause).await;
    }
}

async fn forget(
    directory: &Directory,
    store: &dyn Store,
    me: Incarnation,
    stale: &Stale,
) -> Result<(), store::Error> {
    let (Stale::Instance { name, .. } | Stale::Name(name)) = stale;
    // It may have registered a moment ago, and its row is a new one then.
    let _turn = directory.turn(name).await;
    if !directory.is_stale(stale) {
        return Ok(());
    }
    match stale {
        Stale::Instance { name, url, instance } => {
            store.endpoints().deregister(me, name, url, instance).await?;
            directory.leave(name, url, instance);
            tracing::info!(
                participant = %name, endpoint = url, instance,
                "an instance that is long gone was forgotten"
            );
        }
        Stale::Name(name) => {
            store.endpoints().forget(me, name).await?;
            directory.forget(name);
            tracing::info!(participant = %name, "a participant that is long gone was forgotten");
        }
    }
    Ok(())
}
