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
        request: v1::RetryTransactionRequest,
        by: Instant,
    ) -> Result<v1::RetryTransactionResponse, Status> {
        let tx_id = parse::tx_id(&request.tx_id)?;
        parse::text("operator", &request.operator, OPERATOR_BYTES_MAX, true)?;
        let branch = match request.branch_id.as_str() {
            "" => None,
            id => Some(parse::branch_id("branch_id", id)?),
        };
        let answer = self.engine.retry(tx_id, branch.as_ref(), request.operator, by).await;
        Ok(v1::RetryTransactionResponse { transaction: shown(answer)? })
    }

    async fn resolve_one(
        &self,
        request: v1::ResolveBranchRequest,
        by: Instant,
    ) -> Result<v1::ResolveBranchResponse, Status> {
        let resolution = request.resolution();
        let v1::ResolveBranchRequest { tx_id, branch_id, operator, note, .. } = request;
        let tx_id = parse::tx_id(&tx_id)?;
        let branch_id = parse::branch_id("branch_id", &branch_id)?;
        let kind = match resolution {
            v1::Resolution::Committed => HeuristicKind::Commit,
            v1::Resolution::RolledBack => HeuristicKind::Rollback,
            v1::Resolution::Hazard => HeuristicKind::Hazard,
            v1::Resolution::Unspecified => {
                let rule = "must be COMMITTED, ROLLED_BACK or HAZARD";
                return Err(invalid(Violation::new("resolution", rule)));
            }
        };
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, false)?;
        parse::text("note", &note, NOTE_BYTES_MAX, false)?;
        let answer = self.engine.resolve(tx_id, &branch_id, kind, operator, note, by).await;
        Ok(v1::ResolveBranchResponse { transaction: shown(answer)? })
    }

    async fn forget_one(
        &self,
        request: v1::ForgetTransactionRequest,
        by: Instant,
    ) -> Result<v1::ForgetTransactionResponse, Status> {
        let v1::ForgetTransactionRequest { tx_id, operator, note } = request;
        let tx_id = parse::tx_id(&tx_id)?;
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, false)?;
        parse::text("note", &note, NOTE_BYTES_MAX, false)?;
        let answer = self.engine.forget(tx_id, operator, note, by).await;
        Ok(v1::ForgetTransactionResponse { transaction: shown(answer)? })
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
    async fn retry_transaction(
        &self,
        request: Request<v1::RetryTransactionRequest>,
    ) -> Result<Response<v1::RetryTransactionResponse>, Status> {
        let by = deadline::answer_by(request.metadata(), self.options.wait_max);
        let work = self.retry_owed(request.into_inner(), by);
        self.served("RetryTransaction", work).await.map(Response::new)
    }

    async fn resolve_branch(
        &self,
        request: Request<v1::ResolveBranchRequest>,
    ) -> Result<Response<v1::ResolveBranchResponse>, Status> {
        let by = deadline::answer_by(request.metadata(), self.options.wait_max);
        let work = self.resolve_one(request.into_inner(), by);
        self.served("ResolveBranch", work).await.map(Response::new)
    }

    async fn forget_transaction(
        &self,
        request: Request<v1::ForgetTransactionRequest>,
    ) -> Result<Response<v1::ForgetTransactionResponse>, Status> {
        let by = deadline::answer_by(request.metadata(), self.options.wait_max);
        let work = self.forget_one(request.into_inner(), by);
        self.served("ForgetTransaction", work).await.map(Response::new)
    }
}
