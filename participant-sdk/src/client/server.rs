//! Questions about the coordinator itself.

use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{GetServerInfoRequest, GetServerInfoResponse, ServerLimits};

use super::{Client, Error};
use crate::channel::Link;

/// The coordinator that answered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Version of the program, such as `0.1.0`.
    pub version: String,
    /// Its coordinator group.
    pub cluster_id: String,
    /// Features that it knows.
    pub features: Vec<String>,
    /// Limits in force.
    pub limits: ServerLimits,
}

impl Client {
    /// Returns version, coordinator group, features and limits of the coordinator that answers.
    ///
    /// # Errors
    /// The coordinator was not reached.
    pub async fn server_info(&self) -> Result<ServerInfo, Error> {
        let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
            service.get_server_info(request).await
        };
        let answer: GetServerInfoResponse = self.ask(GetServerInfoRequest {}, call).await?;
        let GetServerInfoResponse { version, cluster_id, features, limits, .. } = answer;
        Ok(ServerInfo { version, cluster_id, features, limits: limits.unwrap_or_default() })
    }
}
