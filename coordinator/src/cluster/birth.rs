//! Birth of an incarnation.
//!
//! The live incarnations are read first. A predecessor of the same node name is fenced at once:
//! whoever starts a node a second time means it. A node of another name is watched for one lease:
//! while its heartbeat moves the birth is refused, since nodes cannot share a database yet; once it
//! has stood still, it is fenced. Then the birth itself compares the number of births with the one
//! read at first, so of two at once one wins, and the loser has fenced only silent incarnations.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::Incarnation;

use crate::store::{self, LiveIncarnation, Store};

/// Failure to create an incarnation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another node serves this database.
    #[error(
        "node {other} serves this database and is alive; nodes cannot share a database yet: stop \
         it, or wait one lease after its end"
    )]
    OtherNode {
        /// Its name.
        other: String,
    },
    /// Another process created an incarnation at the same moment.
    #[error("another process started on this database at the same moment, and was faster")]
    Raced,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A new incarnation, and the time just before its birth was sent.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// From when on its lease is counted.
    pub at: Instant,
}

/// Creates an incarnation of `node`.
///
/// # Errors
/// Another node is alive, another birth was faster, or the store failed.
pub async fn create(store: &dyn Store, node: &str, lease: Duration) -> Result<Created, Error> {
    let incarnations = store.incarnations().list().await?;
    let (own, others): (Vec<&LiveIncarnation>, Vec<&LiveIncarnation>) =
        incarnations.live.iter().partition(|live| live.node == node);
    await_silence(store, &others, lease).await?;
    for predecessor in own.into_iter().chain(others) {
        let by = if predecessor.node == node {
            format!("by its successor: node {node} was started again")
        } else {
            let silent = predecessor.lease.unwrap_or(lease);
            format!("by node {node}, which found it silent for {silent:?}")
        };
        tracing::info!(
            incarnation = %predecessor.incarnation,
            node = predecessor.node,
            "fencing an earlier incarnation"
        );
        // Of its own name whoever starts a node means it. Another one may have woken since the watch.
        let incarnations = store.incarnations();
        if predecessor.node == node {
            incarnations.fence(predecessor.incarnation, &by).await?;
        } else {
            let LiveIncarnation { incarnation, counter, .. } = *predecessor;
            if !incarnations.fence_silent(incarnation, counter, &by).await? {
                return Err(Error::OtherNode { other: predecessor.node.clone() });
            }
        }
        crash_point!("birth-after-fence");
    }
    let at = Instant::now();
    let incarnation = store
        .incarnations()
        .create(node, incarnations.created, lease)
        .await?
        .ok_or(Error::Raced)?;
    crash_point!("birth-after-birth");
    Ok(Created { incarnation, at })
}

/// Watches heartbeats by this process's own clock, for as long as their own leases last.
async fn await_silence(
    store: &dyn Store,
    others: &[&LiveIncarnation],
    lease: Duration,
) -> Result<(), Error> {
    if others.is_empty() {
        return Ok(());
    }
    let lease = others.iter().map(|live| live.lease.unwrap_or(lease)).max().unwrap_or(lease);
    let names: Vec<&str> = others.iter().map(|live| live.node.as_str()).collect();
    tracing::info!(nodes = names.join(", "), ?lease, "watching other nodes' heartbeats");
    let until = Instant::now() + lease;
    loop {
        tokio::time::sleep((lease / 10).min(until.saturating_duration_since(Instant::now()))).await;
        let live = store.incarnations().list().await?.live;
        for other in others {
            let now = live.iter().find(|live| live.incarnation == other.incarnation);
            if now.is_some_and(|now| now.counter != other.counter) {
                return Err(Error::OtherNode { other: other.node.clone() });
            }
        }
        if Instant::now() >= until {
            return Ok(());
        }
    }
}
