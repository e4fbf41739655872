//! The coordinator about itself.

use tonic::{Request, Status};
use unanimo_proto::v1;

use super::access::Access;
use super::{Api, features};

impl Api {
    #[expect(clippy::unused_async, reason = "served as every rpc is")]
    pub(super) async fn server_info(
        &self,
        request: Request<v1::GetServerInfoRequest>,
    ) -> Result<v1::GetServerInfoResponse, Status> {
        let limits = &self.engine.policy().limits;
        let period = |period| prost_types::Duration::try_from(period).ok();
        let limits = v1::ServerLimits {
            branches_max: u32::try_from(limits.branches_max).unwrap_or(u32::MAX),
            payload_bytes_max: limits.payload_bytes_max as u64,
            payloads_bytes_max: limits.payloads_bytes_max as u64,
            output_bytes_max: limits.output_bytes_max as u64,
            outputs_bytes_max: limits.outputs_bytes_max as u64,
            metadata_bytes_max: limits.metadata_bytes_max as u64,
            message_bytes_max: self.options.message_bytes_max as u64,
            timeout_max: period(limits.timeout_max),
            timeout_default: period(limits.timeout_default),
            wait_max: period(self.options.wait_max),
            gid_retention: period(self.options.gid_retention),
            locks_max: u32::try_from(limits.locks_max).unwrap_or(u32::MAX),
            start_delay_max: period(limits.start_delay_max),
        };
        Ok(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.engine.cluster_id().to_owned(),
            features: features::names(),
            limits: Some(limits),
            caller_roles: Access::of(&request).role_names(),
        })
    }
}
