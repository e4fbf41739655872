//! Operators' rpcs.

use tokio::time::Instant;
use tonic::{Request, Status};
use unanimo_core::{HeuristicKind, Rejection, TxId, Violation};
use unanimo_proto::v1;
use unanimo_proto::v1::operator_service_server::OperatorService;

use super::Api;
use super::access::Access;
use super::audit::Act;
use super::convert::{self, Content};
use super::error::{from_engine, invalid, still_held};
use super::parse::{self, NOTE_BYTES_MAX, OPERATOR_BYTES_MAX};
use super::query::{durable_view, shown};
use super::rpc::serve;
use crate::engine::{Error, Handle, Word};
use crate::store::Key;
use crate::wire::payload_from_wire;

impl Api {
    async fn retry_owed(
        &self,
        request: Request<v1::RetryTransactionRequest>,
    ) -> Result<v1::RetryTransactionResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let request = request.into_inner();
        let tx_id = parse::tx_id(&request.tx_id)?;
        parse::text("operator", &request.operator, OPERATOR_BYTES_MAX, true)?;
        parse::text("note", &request.note, NOTE_BYTES_MAX, true)?;
        let branch = match request.branch_id.as_str() {
            "" => None,
            id => Some(parse::branch_id("branch_id", id)?),
        };
        let v1::RetryTransactionRequest { branch_id, operator, note, .. } = request;
        let act = Act { branch_id, ..Act::on(tx_id, &operator, &note) };
        let operator = match access.operator(operator) {
            nobody if nobody.is_empty() => "an operator without a name".to_owned(),
            operator => operator,
        };
        let (this, of) = (self.clone(), access.clone());
        let work = async move {
            this.check_own(&of, &Key::Tx(tx_id), by).await?;
            let answer = this.engine.retry(tx_id, branch.as_ref(), operator, note, by).await;
            Ok(v1::RetryTransactionResponse { transaction: shown(&this.engine, answer, by).await? })
        };
        self.audited(&access, act, by, work).await
    }

    async fn resolve_one(
        &self,
        request: Request<v1::ResolveBranchRequest>,
    ) -> Result<v1::ResolveBranchResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let request = request.into_inner();
        let resolution = request.resolution();
        let v1::ResolveBranchRequest { tx_id, branch_id, operator, note, output, .. } = request;
        let tx_id = parse::tx_id(&tx_id)?;
        let branch_id = parse::branch_id("branch_id", &branch_id)?;
        let kind = match resolution {
            v1::Resolution::Committed => HeuristicKind::Commit,
            v1::Resolution::RolledBack => HeuristicKind::Rollback,
            v1::Resolution::Hazard => HeuristicKind::Hazard,
            v1::Resolution::Unspecified => {
                let rule =
                    "must be RESOLUTION_COMMITTED, RESOLUTION_ROLLED_BACK or RESOLUTION_HAZARD";
                return Err(invalid(Violation::new("resolution", rule)));
            }
        };
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, false)?;
        parse::text("note", &note, NOTE_BYTES_MAX, false)?;
        // One that is there, and empty, is an output without bytes.
        let output = output.map(payload_from_wire);
        let reason = format!("as {}: {note}", kind_name(kind));
        let act = Act { branch_id: branch_id.to_string(), ..Act::on(tx_id, &operator, &reason) };
        let operator = access.operator(operator);
        let word = Word { kind, output, operator, note };
        let (this, of) = (self.clone(), access.clone());
        let work = async move {
            this.check_own(&of, &Key::Tx(tx_id), by).await?;
            let answer = this.engine.resolve(tx_id, &branch_id, word, by).await;
            Ok(v1::ResolveBranchResponse { transaction: shown(&this.engine, answer, by).await? })
        };
        self.audited(&access, act, by, work).await
    }

    async fn forget_one(
        &self,
        request: Request<v1::ForgetTransactionRequest>,
    ) -> Result<v1::ForgetTransactionResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let v1::ForgetTransactionRequest { tx_id, operator, note, released, .. } =
            request.into_inner();
        let tx_id = parse::tx_id(&tx_id)?;
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, false)?;
        parse::text("note", &note, NOTE_BYTES_MAX, false)?;
        let act = Act::on(tx_id, &operator, &note);
        let (this, of) = (self.clone(), access.clone());
        let operator = access.operator(operator);
        let work = async move {
            this.check_own(&of, &Key::Tx(tx_id), by).await?;
            if released == Some(false) {
                check_released(&this.engine, tx_id, by).await?;
            }
            let answer = this.engine.forget(tx_id, operator, note, by).await;
            Ok(v1::ForgetTransactionResponse {
                transaction: shown(&this.engine, answer, by).await?,
            })
        };
        self.audited(&access, act, by, work).await
    }
}

/// Refuses a transaction whose branches an operator has resolved, and which has an alarm still. One that has not ended is
/// refused here as well: a branch of it may be resolved before it would be forgotten.
async fn check_released(engine: &Handle, tx_id: TxId, by: Instant) -> Result<(), Status> {
    let view = durable_view(engine.look(Key::Tx(tx_id), by).await.map_err(from_engine)?)?;
    let tx = convert::transaction(&view, Content::default(), None);
    if tx.ended_at.is_none() && !tx.stripped {
        return Err(from_engine(Error::Rejected(Rejection::NothingToForget)));
    }
    let is_resolved = tx.branches.iter().any(|branch| !branch.resolved_by.is_empty());
    if tx.attention && is_resolved { Err(still_held(&tx)) } else { Ok(()) }
}

/// Returns a resolution in a word, as the command line has it.
fn kind_name(kind: HeuristicKind) -> &'static str {
    match kind {
        HeuristicKind::Commit => "committed",
        HeuristicKind::Rollback => "rolled-back",
        HeuristicKind::Hazard => "hazard",
    }
}

serve! {
    OperatorService {}

    retry_transaction:
        RetryTransaction(v1::RetryTransactionRequest) -> v1::RetryTransactionResponse = retry_owed;
    resolve_branch:
        ResolveBranch(v1::ResolveBranchRequest) -> v1::ResolveBranchResponse = resolve_one;
    forget_transaction:
        ForgetTransaction(v1::ForgetTransactionRequest) -> v1::ForgetTransactionResponse
            = forget_one;
    list_audit:
        ListAudit(v1::ListAuditRequest) -> v1::ListAuditResponse = audit_page;
    list_webhooks:
        ListWebhooks(v1::ListWebhooksRequest) -> v1::ListWebhooksResponse = webhooks;
    list_dead_letters:
        ListDeadLetters(v1::ListDeadLettersRequest) -> v1::ListDeadLettersResponse = dead_letters;
    redeliver_events:
        RedeliverEvents(v1::RedeliverEventsRequest) -> v1::RedeliverEventsResponse = redeliver;
    test_webhook:
        TestWebhook(v1::TestWebhookRequest) -> v1::TestWebhookResponse = test_one_webhook;
    get_statistics:
        GetStatistics(v1::GetStatisticsRequest) -> v1::GetStatisticsResponse = statistics;
}
