//! A pool of the service's own whose connect options are followed.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Database, Pool};

/// Pause between two looks at a pool's options. Whoever changes a password lets both hold for a while.
const PAUSE: Duration = Duration::from_secs(1);

type Options<D> = <<D as Database>::Connection as Connection>::Options;

/// Follows the pool's connect options from these on: each change is applied, until that answers that
/// nobody is there any more, or the pool is closed.
pub(crate) fn follow<D: Database>(
    pool: Pool<D>,
    mut last: Arc<Options<D>>,
    apply: impl Fn(Option<Options<D>>) -> bool + Send + 'static,
) where
    Options<D>: Send + Sync,
{
    tokio::spawn(async move {
        while !pool.is_closed() {
            tokio::time::sleep(PAUSE).await;
            let now = pool.connect_options();
            let changed = (!Arc::ptr_eq(&last, &now)).then(|| Options::<D>::clone(&now));
            if !apply(changed) {
                return;
            }
            last = now;
        }
    });
}
