//! Asking coordinators about branches.

use std::collections::HashSet;
use std::time::Duration;

use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{BranchVerdict, InquireBranchesRequest, InquiredBranch, inquired_branch};
use uuid::Uuid;

use super::super::Error;
use crate::causes::status_in_full;
use crate::doubt::BranchName;

/// Branches of a question: half of what a coordinator takes, so that its answer comes well before
/// [`CALL_TIMEOUT`] from a database that is slow, too.
pub(super) const BATCH: usize = 128;

/// Longest wait for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason of a coordinator that knows nothing of the branches' cluster.
const OTHER_CLUSTER: &str = "OTHER_CLUSTER";

/// Result of a question.
#[derive(Debug)]
pub(super) enum Asked {
    /// A result for each branch.
    Told(Vec<BranchVerdict>),
    /// Every coordinator answered, and none is of the branches' cluster.
    OtherCluster,
    /// None that could be of the branches' cluster answered.
    NoAnswer,
}

#[derive(Debug)]
pub(super) struct Inquirer {
    participant: String,
    coordinators: Vec<(String, CoordinatorServiceClient<Channel>)>,
    /// Clusters that nobody answered for in this sweep: they are not asked again before the next.
    silent: HashSet<String>,
}

impl Inquirer {
    pub(super) fn new(coordinators: Vec<String>, participant: &str) -> Result<Self, Error> {
        let client = |endpoint: String| {
            let channel = Endpoint::from_shared(endpoint.clone())
                .map_err(|source| Error::Coordinator { endpoint: endpoint.clone(), source })?
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(CALL_TIMEOUT)
                .connect_lazy();
            Ok((endpoint, CoordinatorServiceClient::new(channel)))
        };
        let coordinators = coordinators.into_iter().map(client).collect::<Result<_, Error>>()?;
        Ok(Self { participant: participant.to_owned(), coordinators, silent: HashSet::new() })
    }

    /// A new sweep begins.
    pub(super) fn begin(&mut self) {
        self.silent.clear();
    }

    /// Asks one coordinator after the other, until one tells.
    pub(super) async fn ask(
        &mut self,
        cluster_id: &str,
        branches: impl Iterator<Item = (Uuid, &BranchName)>,
    ) -> Asked {
        if self.silent.contains(cluster_id) {
            return Asked::NoAnswer;
        }
        let branches: Vec<InquiredBranch> = branches.map(to_wire).collect();
        let request = InquireBranchesRequest {
            participant: self.participant.clone(),
            branches,
            cluster_id: cluster_id.to_owned(),
            requires: Vec::new(),
        };
        let mut all_others = true;
        for (coordinator, client) in &mut self.coordinators {
            let error = match client.inquire_branches(request.clone()).await {
                Ok(response) => {
                    let results = response.into_inner().verdicts;
                    if results.len() == request.branches.len() {
                        return Asked::Told(results);
                    }
                    "it answered for another number of branches".to_owned()
                }
                Err(status) if is_other_cluster(&status) => continue,
                Err(status) => status_in_full(&status),
            };
            all_others = false;
            let branches = request.branches.len();
            tracing::warn!(
                coordinator,
                cluster_id,
                branches,
                error,
                "the coordinator did not answer for branches in doubt; the next sweep asks again"
            );
        }
        if all_others {
            return Asked::OtherCluster;
        }
        self.silent.insert(cluster_id.to_owned());
        Asked::NoAnswer
    }
}

fn to_wire((tx_id, name): (Uuid, &BranchName)) -> InquiredBranch {
    use inquired_branch::Branch;
    let branch = match name {
        BranchName::Id(id) => Branch::BranchId(id.clone()),
        BranchName::Number(number) => Branch::BranchNumber(u32::from(*number)),
    };
    InquiredBranch { tx_id: tx_id.to_string(), branch: Some(branch) }
}

fn is_other_cluster(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    status.code() == Code::FailedPrecondition
        && details.error_info().is_some_and(|info| info.reason == OTHER_CLUSTER)
}
