//! The nodes of a coordinator group that a client may ask, and the proof that they are of one.
//!
//! A transaction that was begun in one group is unknown in another one, which would begin it once more. So a
//! client of several nodes asks each for its group before it sends it anything:
//!
//! - At its first call it asks all nodes at once. If they name several groups, the client is made wrongly, and
//!   nobody can tell which one is meant: every call is refused.
//! - Later it asks a node when it turns to it, after each failure of it, and when it was not used for a while: it
//!   may have come back on another database. One that is of another group is left out.
//! - A client that was told its [group](super::Client::group) sends nothing to a node of another one, whichever
//!   answers first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Request, Status};
use unanimo_proto::v1::GetServerInfoRequest;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;

use super::error::{Error, NodeGroup};
use crate::channel::{Link, Route};

/// Longest wait for a node to say which group it is of.
const GROUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the other nodes once the first one has said its group.
const OTHERS_WAIT: Duration = Duration::from_secs(1);

/// Time without an answer of a node after which it is asked for its group again.
const GROUP_LASTS: Duration = Duration::from_secs(10);

/// Nodes of one group. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    routes: Vec<Route>,
    message_bytes_max: usize,
    /// The group, where the client was told it.
    group: Option<String>,
    known: Arc<Known>,
}

/// Findings that all clones share.
#[derive(Debug)]
struct Known {
    /// The node that answered last.
    current: AtomicUsize,
    /// The group that the first call has found.
    group: OnceCell<String>,
    nodes: Vec<Mutex<Node>>,
}

/// Findings about a node.
#[derive(Clone, Debug, Default)]
enum Node {
    /// It has not said its group since it failed.
    #[default]
    Unknown,
    /// It is of the client's group, and answered last at this time.
    OfTheGroup(Instant),
    /// It is of this one, and not of the client's.
    OfAnother(String),
}

/// Failure to be allowed to ask a node. Nothing was sent to it.
pub(super) enum NotAsked {
    /// Another node may be asked, or this one later.
    Failed(Status),
    /// The client is made wrongly.
    Wrong(Error),
}

impl Nodes {
    pub(super) fn new(routes: Vec<Route>, message_bytes_max: usize) -> Self {
        let known = Self::nothing_known(routes.len());
        Self { routes, message_bytes_max, group: None, known }
    }

    fn nothing_known(nodes: usize) -> Arc<Known> {
        let nodes = (0..nodes).map(|_| Mutex::default()).collect();
        Arc::new(Known { current: AtomicUsize::new(0), group: OnceCell::new(), nodes })
    }

    pub(super) fn message_bytes_at_most(&mut self, bytes: usize) {
        self.message_bytes_max = bytes;
    }

    /// Sets the group. What is known goes by it from now on.
    pub(super) fn group(&mut self, cluster_id: String) {
        self.group = Some(cluster_id);
        self.known = Self::nothing_known(self.count());
    }

    pub(super) fn intercept(
        &mut self,
        interceptor: impl Fn(Request<()>) -> Result<Request<()>, Status> + Send + Sync + 'static,
    ) {
        let interceptor = Arc::new(interceptor);
        for route in &mut self.routes {
            let interceptor = Arc::clone(&interceptor);
            route.intercept(move |request| interceptor(request));
        }
    }

    pub(super) fn count(&self) -> usize {
        self.routes.len()
    }

    /// Returns the node that answered last.
    pub(super) fn current(&self) -> usize {
        self.known.current.load(Ordering::Relaxed) % self.count()
    }

    /// Turns from a node that has failed to the next one, unless another call has done so. Before it is sent
    /// anything again it is asked for its group: it may come back on another database.
    pub(super) fn turn_from(&self, node: usize) {
        let mut known = self.node(node);
        if let Node::OfTheGroup(_) = *known {
            *known = Node::Unknown;
        }
        drop(known);
        let (current, next) = (&self.known.current, (node + 1) % self.count());
        // Another call may have turned to it meanwhile, or further.
        let _ = current.compare_exchange(node, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The node has answered.
    pub(super) fn has_answered(&self, node: usize) {
        if let Node::OfTheGroup(last) = &mut *self.node(node) {
            *last = Instant::now();
        }
    }

    pub(super) fn service(&self, node: usize) -> CoordinatorServiceClient<Link> {
        CoordinatorServiceClient::new(self.routes[node].link())
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max)
    }

    /// Fails if a node is of another group than the client's, or does not say. Nothing was asked of it then.
    /// A client of one node that was told no group need not know.
    pub(super) async fn is_of_the_group(
        &self,
        node: usize,
        left: Duration,
    ) -> Result<(), NotAsked> {
        if self.count() == 1 && self.group.is_none() {
            return Ok(());
        }
        if matches!(&*self.node(node), Node::OfTheGroup(last) if last.elapsed() < GROUP_LASTS) {
            return Ok(());
        }
        let group = match &self.group {
            Some(group) => group,
            None => self.known.group.get_or_try_init(|| self.first_contact(node, left)).await?,
        };
        // The first contact may have found it out.
        if matches!(&*self.node(node), Node::OfTheGroup(last) if last.elapsed() < GROUP_LASTS) {
            return Ok(());
        }
        let told = self.ask(node, left).await;
        let told = told.map_err(NotAsked::Failed)?;
        if told == *group {
            *self.node(node) = Node::OfTheGroup(Instant::now());
            return Ok(());
        }
        Err(self.left_out(node, &told, group))
    }

    /// Asks all nodes for their groups; answers with the one that all name who have answered. `node` is the one
    /// whose failure is told if none has.
    async fn first_contact(&self, node: usize, left: Duration) -> Result<String, NotAsked> {
        let mut asking = JoinSet::new();
        for number in 0..self.count() {
            let this = self.clone();
            asking.spawn(async move { (number, this.ask(number, left).await) });
        }
        let mut groups = BTreeMap::new();
        let mut failure = Status::unavailable("no coordinator has said which group it is of");
        let mut until = Instant::now() + left.min(GROUP_TIMEOUT);
        // An error says that the time is up: those that are silent are asked when it is their turn.
        while let Ok(Some(asked)) = tokio::time::timeout_at(until, asking.join_next()).await {
            match asked {
                Ok((number, Ok(group))) => {
                    groups.insert(number, group);
                    until = until.min(Instant::now() + OTHERS_WAIT);
                }
                Ok((number, Err(status))) if number == node => failure = status,
                Ok((_, Err(_))) | Err(_) => {}
            }
        }
        let Some(group) = groups.values().next().cloned() else {
            return Err(NotAsked::Failed(failure));
        };
        if groups.values().any(|other| *other != group) {
            return Err(NotAsked::Wrong(self.several(groups)));
        }
        for number in groups.into_keys() {
            *self.node(number) = Node::OfTheGroup(Instant::now());
        }
        Ok(group)
    }

    async fn ask(&self, node: usize, left: Duration) -> Result<String, Status> {
        let mut request = Request::new(GetServerInfoRequest {});
        request.set_timeout(left.min(GROUP_TIMEOUT));
        let told = self.service(node).get_server_info(request).await?;
        Ok(told.into_inner().cluster_id)
    }

    /// Notes that a node is of another group, and says so.
    fn left_out(&self, node: usize, told: &str, group: &str) -> NotAsked {
        let coordinator = self.routes[node].name.as_str();
        let is_new = !matches!(&*self.node(node), Node::OfAnother(known) if known == told);
        if is_new {
            tracing::error!(
                coordinator,
                cluster_id = told,
                group,
                "this coordinator is of another group than the client's: nothing is sent to it"
            );
        }
        *self.node(node) = Node::OfAnother(told.to_owned());
        let text = format!(
            "the coordinator {coordinator} is of the group {told}, and not of {group} as the client"
        );
        let others: BTreeMap<usize, String> = (0..self.count())
            .filter_map(|number| match &*self.node(number) {
                Node::OfAnother(group) => Some((number, group.clone())),
                Node::Unknown | Node::OfTheGroup(_) => None,
            })
            .collect();
        // Only one who named the group can be wrong about all of them.
        if self.group.is_some() && others.len() == self.count() {
            return NotAsked::Wrong(self.several(others));
        }
        NotAsked::Failed(Status::unavailable(text))
    }

    fn several(&self, groups: BTreeMap<usize, String>) -> Error {
        let told = groups.into_iter().map(|(node, cluster_id)| NodeGroup {
            coordinator: self.routes[node].name.clone(),
            cluster_id,
        });
        Error::OtherGroup { expected: self.group.clone(), told: told.collect() }
    }

    fn node(&self, node: usize) -> MutexGuard<'_, Node> {
        self.known.nodes[node].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
