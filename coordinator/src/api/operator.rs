//! What operators call.

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use unanimo_core::{HeuristicKind, Violation};
use unanimo_proto::v1;
use unanimo_proto::v1::operator_service_server::OperatorService;

use super::error::{from_engine, invalid};
use super::parse::{self, NOTE_BYTES_MAX, OPERATOR_BYTES_MAX};
use super::{Api, convert, deadline};
use crate::engine::{Answer, Error};

impl Api {
    async fn retry_owed(
        &self,
        request: v1::RetryRequest,
        by: Instant,
    ) -> Result<v1::RetryResponse, Status> {
        let tx_id = parse::tx_id(&request.tx_id)?;
        parse::text("operator", &request.operator, OPERATOR_BYTES_MAX, true)?;
        let branch = match request.branch_id.as_str() {
            "" => None,
            id => Some(parse::branch_id("branch_id", id)?),
        };
        let answer = self.engine.retry(tx_id, branch.as_ref(), request.operator, by).await;
        Ok(v1::RetryResponse { transaction: shown(answer)? })
    }

    async fn resolve_branch(
        &self,
        request: v1::ResolveRequest,
        by: Instant,
    ) -> Result<v1::ResolveResponse, Status> {
        let resolution = request.resolution();
        let v1::ResolveRequest { tx_id, branch_id, operator, note, .. } = request;
        let tx_id = parse::tx_id(&tx_id)?;
        let branch_id = parse::branch_id("branch_id", &branch_id)?;
        let kind = match resolution {
            v1::Resolution::Committed => HeuristicKind::Commit,
            v1::Resolution::RolledBack => HeuristicKind::Rollback,
            v1::Resolution::Unknown => HeuristicKind::Hazard,
            v1::Resolution::Unspecified => {
                let rule = "must be COMMITTED, ROLLED_BACK or UNKNOWN";
                return Err(invalid(Violation::new("resolution", rule)));
            }
        };
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, false)?;
        parse::text("note", &note, NOTE_BYTES_MAX, false)?;
        let answer = self.engine.resolve(tx_id, &branch_id, kind, operator, note, by).await;
        Ok(v1::ResolveResponse { transaction: shown(answer)? })
    }

    async fn forget_transaction(
        &self,
        request: v1::ForgetRequest,
        by: Instant,
    ) -> Result<v1::ForgetResponse, Status> {
        let v1::ForgetRequest { tx_id, operator, note } = request;
        let tx_id = parse::tx_id(&tx_id)?;
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, false)?;
        parse::text("note", &note, NOTE_BYTES_MAX, false)?;
        let answer = self.engine.forget(tx_id, operator, note, by).await;
        Ok(v1::ForgetResponse { transaction: shown(answer)? })
    }
}

fn shown(answer: Result<Answer, Error>) -> Result<Option<v1::Transaction>, Status> {
    match answer.map_err(from_engine)? {
        Answer::View(view) => Ok(Some(convert::transaction(&view, None))),
        Answer::NotYet(_) => Err(from_engine(Error::Moving)),
    }
}

#[tonic::async_trait]
impl OperatorService for Api {
    async fn retry(
        &self,
        request: Request<v1::RetryRequest>,
    ) -> Result<Response<v1::RetryResponse>, Status> {
        let by = deadline::answer_by(request.metadata(), self.options.wait_max);
        let work = self.retry_owed(request.into_inner(), by);
        self.served("Retry", work).await.map(Response::new)
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let by = deadline::answer_by(request.metadata(), self.options.wait_max);
        let work = self.resolve_branch(request.into_inner(), by);
        self.served("Resolve", work).await.map(Response::new)
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        let by = deadline::answer_by(request.metadata(), self.options.wait_max);
        let work = self.forget_transaction(request.into_inner(), by);
        self.served("Forget", work).await.map(Response::new)
    }
}
