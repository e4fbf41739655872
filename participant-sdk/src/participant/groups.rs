//! Rows of coordinator groups that a participant neither registers with nor asks: looked for as soon as it
//! knows the groups of its coordinators. A coordinator that was started on the wrong database, or on a copy, is another group, and
//! knows none of them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Request;
use unanimo_proto::v1::GetServerInfoRequest;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;

use super::{Error, Service};
use crate::action::caught;
use crate::channel::{Coordinator, Link};
use crate::client::jittered;
use crate::resource::{Fault, Resource};

/// Longest wait for a coordinator to say which group it is of.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before it is asked again.
const ASK_PAUSE: Duration = Duration::from_secs(5);

/// A coordinator that is asked and not told.
#[derive(Debug)]
pub(super) struct Asked(CoordinatorServiceClient<Link>);

impl Asked {
    pub(super) fn new(coordinator: Coordinator) -> Result<Self, Error> {
        let route = coordinator.route(std::convert::identity)?;
        Ok(Self(CoordinatorServiceClient::new(route.link())))
    }

    /// Asks for its group until it says it.
    async fn group(&mut self) -> String {
        loop {
            let mut request = Request::new(GetServerInfoRequest {});
            request.set_timeout(ASK_TIMEOUT);
            match self.0.get_server_info(request).await {
                Ok(info) => return info.into_inner().cluster_id,
                Err(_) => tokio::time::sleep(jittered(ASK_PAUSE)).await,
            }
        }
    }
}

/// Looks once every coordinator has the registration, and those that are only asked have said their groups;
/// and again when one answers for another group. It ends when the participant leaves. One that knows no
/// coordinator looks for nothing.
pub(super) fn watch<R: Resource>(
    service: Service<R>,
    groups: Vec<watch::Receiver<String>>,
    asked: Vec<Asked>,
    mut leave: watch::Receiver<bool>,
) {
    if groups.is_empty() && asked.is_empty() {
        return;
    }
    tokio::spawn(async move {
        let participant = service.participant().to_owned();
        tokio::select! {
            followed = caught(follow(service, groups, asked)) => if let Err(broken) = followed {
                let error = broken.text();
                tracing::error!(
                    participant, error,
                    "the look for rows of other coordinator groups has panicked; they are not looked for any more"
                );
            },
            // An error says that the registrations were dropped.
            _ = leave.wait_for(|leave| *leave) => {}
        }
    });
}

async fn follow<R: Resource>(
    service: Service<R>,
    mut groups: Vec<watch::Receiver<String>>,
    asked: Vec<Asked>,
) {
    for group in &mut groups {
        if group.wait_for(|group| !group.is_empty()).await.is_err() {
            return;
        }
    }
    let mut of_the_asked = BTreeSet::new();
    for mut asked in asked {
        of_the_asked.insert(asked.group().await);
    }
    loop {
        let own = groups.iter_mut().map(|group| group.borrow_and_update().clone());
        let own: BTreeSet<String> = own.chain(of_the_asked.iter().cloned()).collect();
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
            "this participant's database holds branches of a coordinator group that it neither registers \
             with nor asks: was the coordinator started on another database, or on a copy?"
        );
    }
    Ok(())
}
