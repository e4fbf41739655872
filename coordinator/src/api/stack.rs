//! The services of the contract, and what stands before them: one for gRPC and HTTP, so that they share every bound.

use std::sync::Arc;

use tonic::service::Routes;
use tower_layer::Layer;
use unanimo_proto::v1::coordinator_service_server::CoordinatorServiceServer;
use unanimo_proto::v1::operator_service_server::OperatorServiceServer;
use unanimo_proto::v1::participant_directory_service_server::ParticipantDirectoryServiceServer;

use super::admit::{Admit, Admitting};
use super::answers::Answers;
use super::calls::Calls;
use super::others::Others;
use super::uploads::Uploads;
use super::{Api, Options};

/// The services.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    api: Api,
    /// Requests on their way in.
    pub(super) uploads: Uploads,
    /// Calls under way.
    calls: Arc<Calls>,
    /// Those of what is no service of the contract.
    others: Arc<Others>,
    /// Answers on their way out.
    pub(super) answers: Answers,
    pub(super) routes: Routes,
}

impl Stack {
    pub(crate) fn new(api: Api) -> Self {
        let bytes = api.options.message_bytes_max;
        let coordinator = CoordinatorServiceServer::new(api.clone())
            .max_decoding_message_size(bytes)
            .max_encoding_message_size(usize::MAX);
        let directory =
            ParticipantDirectoryServiceServer::new(api.clone()).max_decoding_message_size(bytes);
        let operator = OperatorServiceServer::new(api.clone()).max_decoding_message_size(bytes);
        Self {
            calls: Calls::new(api.options.upload_bytes_max),
            others: Arc::default(),
            uploads: Uploads::new(api.options.upload_bytes_max),
            answers: Answers::new(api.options.unread_bytes_max, Arc::clone(&api.metrics)),
            routes: Routes::new(coordinator).add_service(directory).add_service(operator),
            api,
        }
    }

    pub(super) fn options(&self) -> &Options {
        &self.api.options
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.api.options.message_bytes_max
    }

    pub(super) fn admit(&self) -> Admit {
        Admit {
            api: self.api.clone(),
            calls: Arc::clone(&self.calls),
            others: Arc::clone(&self.others),
        }
    }

    /// Returns the services behind their admission.
    pub(super) fn admitting(&self) -> Admitting<Routes> {
        self.admit().layer(self.routes.clone())
    }
}
