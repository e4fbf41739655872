//! Asking coordinators about branches.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    BranchVerdict, GetServerInfoRequest, GetTransactionRequest, InquireBranchesRequest,
    InquiredBranch, Payload, get_transaction_request, inquired_branch,
};
use uuid::Uuid;

use super::super::Error;
use super::super::directory::is_other_database;
use crate::causes::status_in_full;
use crate::channel::{Coordinator, Link};
use crate::doubt::BranchName;

/// Branches of a question: half of what a coordinator takes, so that its answer comes well before
/// [`CALL_TIMEOUT`] from a database that is slow, too.
pub(super) const BATCH: usize = 128;

/// Longest wait for an answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer: those of a transaction with all of its payloads. A coordinator's `message-bytes-max` may be raised, and
/// an answer over this bound would be none at all.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Time for which a cluster that is nobody's is not asked about again.
const OTHERS_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Clusters that are remembered so. A database has seen few.
const OTHERS_MAX: usize = 1000;

/// Reason of a coordinator that knows nothing of the branches' cluster.
const OTHER_CLUSTER: &str = "OTHER_CLUSTER";

/// Result of a question.
#[derive(Debug)]
pub(super) enum Asked {
    /// A result for each branch.
    Told(Vec<BranchVerdict>),
    /// Every coordinator answered, and none is of the branches' cluster.
    OtherCluster,
    /// The branches' cluster knows living processes of the participant on another database.
    OtherDatabase,
    /// None that could be of the branches' cluster answered.
    NoAnswer,
}

#[derive(Debug)]
pub(super) struct Inquirer {
    coordinators: Vec<(String, CoordinatorServiceClient<Link>)>,
    /// Clusters that nobody answered for in this sweep: they are not asked again before the next.
    silent: HashSet<String>,
    /// Clusters that are nobody's, and when that was said.
    others: HashMap<String, Instant>,
    /// The coordinator that told last, by cluster: it is asked first.
    told: HashMap<String, usize>,
    /// The coordinator that answered last, for whichever cluster: it is asked first for those that nobody has told of.
    answered: usize,
    /// The coordinator that gave a payload last.
    gave_payload: usize,
    /// Coordinators that were asked in this sweep, and have not answered. Each would cost its timeout for every cluster
    /// that nobody claims.
    deaf: HashSet<usize>,
}

/// A coordinator that speaks for its group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) coordinator: String,
    pub(super) client: CoordinatorServiceClient<Link>,
}

/// Subject of a question: branches of a participant's name, in its database.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) participant: &'a str,
    pub(super) database_id: &'a str,
    pub(super) cluster_id: &'a str,
}

impl Inquirer {
    pub(super) fn new(coordinators: Vec<Coordinator>) -> Result<Self, Error> {
        let client = |coordinator: Coordinator| {
            let route = coordinator.route(std::convert::identity)?;
            let client = CoordinatorServiceClient::new(route.link())
                .max_decoding_message_size(ANSWER_BYTES_MAX);
            Ok((route.name, client))
        };
        let coordinators = coordinators.into_iter().map(client).collect::<Result<_, Error>>()?;
        let (silent, others, told) = (HashSet::new(), HashMap::new(), HashMap::new());
        let (answered, gave_payload, deaf) = (0, 0, HashSet::new());
        Ok(Self { coordinators, silent, others, told, answered, gave_payload, deaf })
    }

    /// A new sweep begins.
    pub(super) fn begin(&mut self) {
        self.silent.clear();
        self.deaf.clear();
        self.others.retain(|_, said| said.elapsed() < OTHERS_PAUSE);
    }

    /// Returns the clusters of the coordinators that answer.
    pub(super) async fn clusters(&mut self) -> HashSet<String> {
        let mut clusters = HashSet::new();
        for index in 0..self.coordinators.len() {
            if let Some(cluster_id) = self.cluster_of(index).await {
                clusters.insert(cluster_id);
            }
        }
        clusters
    }

    /// Returns one coordinator of each group that answers, and the names of those that do not.
    pub(super) async fn groups(&mut self) -> (BTreeMap<String, Group>, Vec<String>) {
        let (mut groups, mut silent) = (BTreeMap::new(), Vec::new());
        for index in 0..self.coordinators.len() {
            let told = self.cluster_of(index).await;
            let (name, client) = &self.coordinators[index];
            match told {
                Some(cluster_id) => {
                    let group = Group { coordinator: name.clone(), client: client.clone() };
                    groups.entry(cluster_id).or_insert(group);
                }
                None => silent.push(name.clone()),
            }
        }
        (groups, silent)
    }

    /// Asks a coordinator for its cluster, unless it is deaf.
    async fn cluster_of(&mut self, index: usize) -> Option<String> {
        if self.deaf.contains(&index) {
            return None;
        }
        let (_, client) = &mut self.coordinators[index];
        match client.get_server_info(bounded(GetServerInfoRequest::default())).await {
            Ok(info) => Some(info.into_inner().cluster_id),
            Err(status) => {
                self.failed(index, &status);
                None
            }
        }
    }

    /// Notes that a coordinator has not answered, unless the error is an answer.
    fn failed(&mut self, index: usize, status: &tonic::Status) {
        if is_none(status) {
            self.deaf.insert(index);
        }
    }

    /// Returns the payload of a branch; the outer `None` if a coordinator that may know it has not answered, and the
    /// inner one if nobody knows it. The first that is asked is the one that told last.
    pub(super) async fn payload(&mut self, tx_id: Uuid, id: &str) -> Option<Option<Payload>> {
        let request = GetTransactionRequest {
            key: Some(get_transaction_request::Key::TxId(tx_id.to_string())),
            include_payloads: true,
            ..GetTransactionRequest::default()
        };
        let (first, mut all_answered) = (self.gave_payload, true);
        for index in 0..self.coordinators.len() {
            let index = (first + index) % self.coordinators.len();
            if self.deaf.contains(&index) {
                all_answered = false;
                continue;
            }
            let (_, client) = &mut self.coordinators[index];
            match client.get_transaction(bounded(request.clone())).await {
                Ok(found) => {
                    self.gave_payload = index;
                    let branches = found.into_inner().transaction.unwrap_or_default().branches;
                    let of = branches.into_iter().find(|branch| branch.branch_id == id);
                    return Some(of.and_then(|branch| branch.payload));
                }
                // It belongs to another group, or was purged.
                Err(status) if is_coordinators(&status) && status.code() == Code::NotFound => {}
                Err(status) => {
                    all_answered = false;
                    self.failed(index, &status);
                }
            }
        }
        all_answered.then_some(None)
    }

    /// Asks one coordinator after the other, until one tells. The first is the one that told last, and one that has not
    /// answered in this sweep is not asked again: it would cost its timeout for every batch, and every cluster.
    pub(super) async fn ask(
        &mut self,
        about: About<'_>,
        branches: impl Iterator<Item = (Uuid, &BranchName)>,
    ) -> Asked {
        let cluster_id = about.cluster_id;
        if self.silent.contains(cluster_id) {
            return Asked::NoAnswer;
        }
        if self.others.contains_key(cluster_id) {
            return Asked::OtherCluster;
        }
        let branches: Vec<InquiredBranch> = branches.map(to_wire).collect();
        let request = InquireBranchesRequest {
            participant: about.participant.to_owned(),
            branches,
            cluster_id: cluster_id.to_owned(),
            requires: Vec::new(),
            database_id: about.database_id.to_owned(),
        };
        let first = self.told.get(cluster_id).copied().unwrap_or(self.answered);
        let mut all_others = true;
        for index in 0..self.coordinators.len() {
            let index = (first + index) % self.coordinators.len();
            if self.deaf.contains(&index) {
                all_others = false;
                continue;
            }
            let (coordinator, client) = &mut self.coordinators[index];
            let error = match client.inquire_branches(bounded(request.clone())).await {
                Ok(response) => {
                    let results = response.into_inner().verdicts;
                    if results.len() == request.branches.len() {
                        self.told.insert(cluster_id.to_owned(), index);
                        self.answered = index;
                        return Asked::Told(results);
                    }
                    "it answered for another number of branches".to_owned()
                }
                Err(status) if is_other_cluster(&status) => {
                    self.answered = index;
                    continue;
                }
                Err(status) if is_other_database(&status) => return Asked::OtherDatabase,
                Err(status) => {
                    if is_none(&status) {
                        self.deaf.insert(index);
                    }
                    status_in_full(&status)
                }
            };
            all_others = false;
            let branches = request.branches.len();
            tracing::warn!(
                coordinator = coordinator.as_str(),
                cluster_id,
                branches,
                error,
                "the coordinator did not answer for branches in doubt; the next sweep asks again"
            );
        }
        if all_others {
            if self.others.len() < OTHERS_MAX {
                self.others.insert(cluster_id.to_owned(), Instant::now());
            }
            return Asked::OtherCluster;
        }
        self.silent.insert(cluster_id.to_owned());
        Asked::NoAnswer
    }
}

/// A question that is given up after a while.
pub(super) fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn to_wire((tx_id, name): (Uuid, &BranchName)) -> InquiredBranch {
    use inquired_branch::Branch;
    let branch = match name {
        BranchName::Id(id) => Branch::BranchId(id.clone()),
        BranchName::Number(number) => Branch::BranchNumber(u32::from(*number)),
    };
    InquiredBranch { tx_id: tx_id.to_string(), branch: Some(branch) }
}

fn is_coordinators(status: &tonic::Status) -> bool {
    status.get_error_details().error_info().is_some()
}

fn is_other_cluster(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    status.code() == Code::FailedPrecondition
        && details.error_info().is_some_and(|info| info.reason == OTHER_CLUSTER)
}

/// Tells whether an error stands for no answer: nobody was there, or none came in time.
fn is_none(status: &tonic::Status) -> bool {
    let codes = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown];
    !is_coordinators(status) && codes.contains(&status.code())
}
