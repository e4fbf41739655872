//! Rows of coordinator groups that a participant does not register with: looked for as soon as it has
//! registered. A coordinator that was started on the wrong database, or on a copy, is another group, and
//! knows none of them.

use std::collections::BTreeSet;

use tokio::sync::watch;

use super::Service;
use crate::resource::{Fault, Resource};

/// Looks once every coordinator has the registration, and again when one answers for another group.
/// It ends with the registrations.
pub(super) fn watch<R: Resource>(service: Service<R>, mut groups: Vec<watch::Receiver<String>>) {
    tokio::spawn(async move {
        for group in &mut groups {
            if group.wait_for(|group| !group.is_empty()).await.is_err() {
                return;
            }
        }
        loop {
            let own: BTreeSet<String> =
                groups.iter_mut().map(|group| group.borrow_and_update().clone()).collect();
            if let Err(fault) = look(&service, &own).await {
                let participant = service.participant();
                tracing::warn!(
                    participant,
                    error = %fault,
                    "failed to look for rows of other coordinator groups"
                );
            }
            if !changed(&mut groups).await {
                return;
            }
        }
    });
}

/// Waits until one changes; `false` if there will be no more.
async fn changed(groups: &mut [watch::Receiver<String>]) -> bool {
    let changes = groups.iter_mut().map(|group| Box::pin(group.changed()));
    let mut changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        return false;
    }
    std::future::poll_fn(|context| {
        let mut all = changes.iter_mut();
        let ready = all.find_map(|change| match change.as_mut().poll(context) {
            std::task::Poll::Ready(result) => Some(result.is_ok()),
            std::task::Poll::Pending => None,
        });
        ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

async fn look<R: Resource>(service: &Service<R>, own: &BTreeSet<String>) -> Result<(), Fault> {
    let (participant, resource) = (service.participant(), &service.inner.resource);
    let found = service.queried(resource.group_rows(participant)).await?;
    let prepared = service.queried(resource.prepared_transactions(participant)).await?;
    let registered_with = own.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut foreign: BTreeSet<&str> = found.iter().map(|group| &*group.cluster_id).collect();
    foreign.extend(prepared.iter().map(|doubt| &*doubt.cluster_id));
    foreign.retain(|cluster_id| !own.contains(*cluster_id));
    for cluster_id in foreign {
        let rows = found.iter().find(|group| group.cluster_id == cluster_id);
        let transactions = prepared.iter().filter(|doubt| doubt.cluster_id == cluster_id).count();
        let in_doubt = rows.map_or(0, |rows| rows.prepared) + transactions as u64;
        tracing::error!(
            alarm = "other_cluster",
            participant,
            cluster_id,
            registered_with,
            rows = rows.map_or(0, |rows| rows.rows),
            in_doubt,
            "this participant's database holds branches of a coordinator group that it does not register \
             with: was the coordinator started on another database, or on a copy?"
        );
    }
    Ok(())
}
