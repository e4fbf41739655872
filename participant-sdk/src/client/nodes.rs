//! The nodes of a coordinator group that a client may ask.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tonic::{Request, Status};
use unanimo_proto::v1::GetServerInfoRequest;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;

use crate::channel::{Link, Route};

/// Longest wait for a node to say which group it is of.
const GROUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Nodes of one group. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    routes: Vec<Route>,
    message_bytes_max: usize,
    known: Arc<Known>,
}

/// Findings that all clones share.
#[derive(Debug)]
struct Known {
    /// The node that answered last.
    current: AtomicUsize,
    /// The group of the node that was asked first.
    group: OnceLock<String>,
    /// Nodes that have said to be of this group, and have not failed since.
    of_the_group: Vec<AtomicBool>,
}

impl Nodes {
    pub(super) fn new(routes: Vec<Route>, message_bytes_max: usize) -> Self {
        let of_the_group = routes.iter().map(|_| AtomicBool::new(false)).collect();
        let known = Known { current: AtomicUsize::new(0), group: OnceLock::new(), of_the_group };
        Self { routes, message_bytes_max, known: Arc::new(known) }
    }

    pub(super) fn message_bytes_at_most(&mut self, bytes: usize) {
        self.message_bytes_max = bytes;
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
        self.known.of_the_group[node].store(false, Ordering::Relaxed);
        let (current, next) = (&self.known.current, (node + 1) % self.count());
        // Another call may have turned to it meanwhile, or further.
        let _ = current.compare_exchange(node, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn service(&self, node: usize) -> CoordinatorServiceClient<Link> {
        CoordinatorServiceClient::new(self.routes[node].link())
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max)
    }

    /// Fails if a node is of another group than the first one, or does not say. Nothing was asked of it then.
    /// A client of one node need not know.
    pub(super) async fn is_of_the_group(&self, node: usize, left: Duration) -> Result<(), Status> {
        let Known { group, of_the_group, .. } = &*self.known;
        if self.count() == 1 || of_the_group[node].load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut request = Request::new(GetServerInfoRequest {});
        request.set_timeout(left.min(GROUP_TIMEOUT));
        let told = self.service(node).get_server_info(request).await?.into_inner().cluster_id;
        let of_the_first = group.get_or_init(|| told.clone());
        if *of_the_first == told {
            of_the_group[node].store(true, Ordering::Relaxed);
            return Ok(());
        }
        let coordinator = self.routes[node].name.as_str();
        tracing::error!(
            coordinator,
            cluster_id = told,
            of_the_first,
            "this coordinator is of another group than the client's first one: nothing is sent to it"
        );
        Err(Status::unavailable(format!(
            "the coordinator {coordinator} is of the group {told}, and not of {of_the_first} as the first"
        )))
    }
}
