//! What initiators call.

use std::pin::Pin;

use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use unanimo_core::{Drive, Enlistment, TxId, Violation};
use unanimo_proto::v1::coordinator_service_server::CoordinatorService;
use unanimo_proto::v1::{
    self, get_transaction_request, rollback_transaction_request, watch_transaction_request,
};

use super::error::{from_engine, invalid, other_cluster};
use super::parse::{self, Definable};
use super::{Api, convert, deadline};
use crate::engine::{Answer, Until, View};
use crate::store::{Filter, Key, PhaseName, Stored};
use crate::wire;

/// Transactions of a page that asks for none.
pub const PAGE_DEFAULT: u32 = 50;

/// Most transactions of a page.
pub const PAGE_MAX: u32 = 500;

/// Most branches of an inquiry.
pub const INQUIRE_MAX: usize = 256;

impl Api {
    fn answer_by(&self, headers: &MetadataMap) -> Instant {
        deadline::answer_by(headers, self.options.wait_max)
    }

    async fn submit(
        &self,
        request: Request<v1::SubmitTransactionRequest>,
    ) -> Result<v1::SubmitTransactionResponse, Status> {
        let by = self.answer_by(request.metadata());
        let (headers, _, request) = request.into_parts();
        let until = parse::wait_for(request.wait_for)?;
        let v1::SubmitTransactionRequest { gid, mode, branches, timeout, metadata, .. } = request;
        let drive = Drive::Declarative;
        let definable = Definable { gid, mode, drive, branches, timeout, metadata };
        let definition = parse::definition(definable, &headers)?;
        let answer = self.engine.begin(definition, until, by).await.map_err(from_engine)?;
        Ok(v1::SubmitTransactionResponse { result: Some(convert::result(answer)) })
    }

    async fn begin(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> Result<v1::BeginTransactionResponse, Status> {
        let by = self.answer_by(request.metadata());
        let (headers, _, request) = request.into_parts();
        let v1::BeginTransactionRequest { gid, mode, timeout, metadata, .. } = request;
        let drive = Drive::Interactive;
        let definable = Definable { gid, mode, drive, branches: Vec::new(), timeout, metadata };
        let definition = parse::definition(definable, &headers)?;
        let answer = self.engine.begin(definition, Until::Durable, by).await;
        let View { tx, .. } = *settled(answer.map_err(from_engine)?)?;
        Ok(v1::BeginTransactionResponse {
            tx_id: tx.tx_id().to_string(),
            deadline: Some(wire::time_to_wire(tx.identity().deadline)),
            outcome: convert::outcome(tx.outcome()).into(),
            cluster_id: self.engine.cluster_id().to_owned(),
        })
    }

    async fn enlist_branch(
        &self,
        tx_id: TxId,
        branch: unanimo_core::BranchRequest,
        enlistment: Enlistment,
        by: Instant,
    ) -> Result<Answer, Status> {
        self.engine.enlist(tx_id, branch, enlistment, by).await.map_err(from_engine)
    }

    async fn execute(
        &self,
        request: Request<v1::ExecuteBranchRequest>,
    ) -> Result<v1::ExecuteBranchResponse, Status> {
        let by = self.answer_by(request.metadata());
        let v1::ExecuteBranchRequest { tx_id, branch, .. } = request.into_inner();
        let (tx_id, branch) = (parse::tx_id(&tx_id)?, parse::one_branch(branch)?);
        let id = branch.branch_id.clone();
        match self.enlist_branch(tx_id, branch, Enlistment::Coordinator, by).await? {
            Answer::View(view) => match view.tx.branch_by_id(&id) {
                Some(branch) => Ok(convert::executed(&view.tx, branch)),
                None => Err(from_engine(crate::engine::Error::Moving)),
            },
            Answer::NotYet(_) => Ok(v1::ExecuteBranchResponse {
                outcome: v1::Outcome::NotDecided.into(),
                ..Default::default()
            }),
        }
    }

    async fn enlist(
        &self,
        request: Request<v1::EnlistBranchRequest>,
    ) -> Result<v1::EnlistBranchResponse, Status> {
        let by = self.answer_by(request.metadata());
        let v1::EnlistBranchRequest { tx_id, branch, .. } = request.into_inner();
        let (tx_id, branch) = (parse::tx_id(&tx_id)?, parse::one_branch(branch)?);
        let id = branch.branch_id.clone();
        let answer = self.enlist_branch(tx_id, branch, Enlistment::Initiator, by).await?;
        let View { tx, .. } = *settled(answer)?;
        // A branch that is known may be called only while nothing is decided.
        if tx.phase().decision().is_some() {
            return Err(from_engine(unanimo_core::Rejection::Closed.into()));
        }
        let Some(branch) = tx.branch_by_id(&id) else {
            return Err(from_engine(crate::engine::Error::Moving));
        };
        let cluster_id = self.engine.cluster_id();
        let context = wire::context(tx.identity(), &branch.spec, branch.number, cluster_id);
        Ok(v1::EnlistBranchResponse {
            context: Some(context),
            prepare_until: Some(wire::time_to_wire(tx.prepare_until(self.engine.policy()))),
            metadata: tx.identity().metadata.clone().into_iter().collect(),
        })
    }

    async fn commit(
        &self,
        request: Request<v1::CommitTransactionRequest>,
    ) -> Result<v1::CommitTransactionResponse, Status> {
        let by = self.answer_by(request.metadata());
        let v1::CommitTransactionRequest { tx_id, branches, wait_for, .. } = request.into_inner();
        let (tx_id, until) = (parse::tx_id(&tx_id)?, parse::wait_for(wait_for)?);
        let listed = branches
            .iter()
            .enumerate()
            .map(|(index, branch)| {
                let field = |name: &str| format!("branches[{index}].{name}");
                let id = parse::branch_id(&field("branch_id"), &branch.branch_id)?;
                Ok((id, parse::vote(&field("vote"), branch.vote)?))
            })
            .collect::<Result<Vec<_>, Status>>()?;
        let answer = self.engine.commit(tx_id, listed, until, by).await.map_err(from_engine)?;
        Ok(v1::CommitTransactionResponse { result: Some(convert::result(answer)) })
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackTransactionRequest>,
    ) -> Result<v1::RollbackTransactionResponse, Status> {
        let by = self.answer_by(request.metadata());
        let request = request.into_inner();
        let until = parse::wait_for(request.wait_for)?;
        let answer = match request.key {
            Some(rollback_transaction_request::Key::TxId(text)) => {
                self.engine.rollback(parse::tx_id(&text)?, until, by).await
            }
            Some(rollback_transaction_request::Key::Gid(text)) => {
                self.engine.rollback_gid(parse::gid(&text)?, until, by).await
            }
            None => return Err(no_key()),
        };
        let answer = answer.map_err(from_engine)?;
        Ok(v1::RollbackTransactionResponse { result: Some(convert::result(answer)) })
    }

    async fn get(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<v1::GetTransactionResponse, Status> {
        let by = self.answer_by(request.metadata());
        let request = request.into_inner();
        let full = request.include_timeline;
        let key = match request.key {
            Some(get_transaction_request::Key::TxId(text)) => Key::Tx(parse::tx_id(&text)?),
            Some(get_transaction_request::Key::Gid(text)) => Key::Gid(parse::gid(&text)?),
            None => return Err(no_key()),
        };
        let answer = self.engine.wait(key, Until::Durable, by).await.map_err(from_engine)?;
        let view = settled(answer)?;
        let events = match full {
            true => Some(self.engine.events(view.tx.tx_id()).await.map_err(from_engine)?),
            false => None,
        };
        let transaction = convert::transaction(&view, events.as_deref());
        Ok(v1::GetTransactionResponse { transaction: Some(transaction) })
    }

    async fn list(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<v1::ListTransactionsResponse, Status> {
        let filter = filter(request.get_ref())?;
        let listed = self.engine.list(&filter).await.map_err(from_engine)?;
        let full = listed.len() == filter.limit as usize;
        let last = listed.last().filter(|_| full);
        let last = last.map(|stored| stored.record.identity.tx_id.to_string());
        let summary = |stored: &Stored| {
            convert::summary(&stored.record.identity, &stored.record.state, stored.stripped)
        };
        Ok(v1::ListTransactionsResponse {
            transactions: listed.iter().map(summary).collect(),
            next_page_token: last.unwrap_or_default(),
        })
    }

    async fn inquire(
        &self,
        request: Request<v1::InquireBranchesRequest>,
    ) -> Result<v1::InquireBranchesResponse, Status> {
        let by = self.answer_by(request.metadata());
        let v1::InquireBranchesRequest { participant, branches, cluster_id } = request.into_inner();
        let participant = parse::participant("participant", &participant)?;
        let found = branches.len();
        if found == 0 || found > INQUIRE_MAX {
            let rule = format!("must have 1 to {INQUIRE_MAX} branches, has {found}");
            return Err(invalid(Violation::new("branches", rule)));
        }
        let own = self.engine.cluster_id();
        if !cluster_id.is_empty() && cluster_id != own {
            return Err(other_cluster(&cluster_id, own));
        }
        let branches: Vec<_> = branches
            .iter()
            .enumerate()
            .map(|(index, branch)| parse::inquired(&format!("branches[{index}]"), branch))
            .collect::<Result<_, Status>>()?;
        let known = self.engine.inquire(&participant, &branches, by).await.map_err(from_engine)?;
        let results = known.iter().map(|known| convert::inquired(known, self.engine.policy(), own));
        Ok(v1::InquireBranchesResponse { verdicts: results.collect() })
    }

    async fn watch(
        &self,
        request: Request<v1::WatchTransactionRequest>,
    ) -> Result<Watching, Status> {
        let by = self.answer_by(request.metadata());
        let key = match request.into_inner().key {
            Some(watch_transaction_request::Key::TxId(text)) => Key::Tx(parse::tx_id(&text)?),
            Some(watch_transaction_request::Key::Gid(text)) => Key::Gid(parse::gid(&text)?),
            None => return Err(no_key()),
        };
        let (view, receiver) = self.engine.watch(key.clone(), by).await.map_err(from_engine)?;
        let shown = |view: &View| {
            Ok(v1::WatchTransactionResponse { transaction: Some(convert::transaction(view, None)) })
        };
        let first = tokio_stream::once(shown(&view));
        let Some(receiver) = receiver else { return Ok(Box::pin(first)) };
        // The last state is shown even if the transaction left memory before it was looked at.
        let rest = tokio_stream::wrappers::WatchStream::from_changes(receiver)
            .map(move |view| shown(&view));
        Ok(Box::pin(first.chain(rest)))
    }
}

fn no_key() -> Status {
    invalid(Violation::new("key", "must be tx_id or gid"))
}

/// The view, or that nothing can be said yet.
fn settled(answer: Answer) -> Result<Box<View>, Status> {
    match answer {
        Answer::View(view) => Ok(view),
        Answer::NotYet(_) => Err(from_engine(crate::engine::Error::Moving)),
    }
}

fn filter(request: &v1::ListTransactionsRequest) -> Result<Filter, Status> {
    let phases = request.states().map(|state| match state {
        v1::TransactionState::Active => Ok(PhaseName::Active),
        v1::TransactionState::Committing => Ok(PhaseName::Committing),
        v1::TransactionState::Aborting => Ok(PhaseName::Aborting),
        v1::TransactionState::Committed => Ok(PhaseName::Committed),
        v1::TransactionState::Aborted => Ok(PhaseName::Aborted),
        v1::TransactionState::Unspecified => {
            Err(invalid(Violation::new("states", "must be states of this version")))
        }
    });
    let participant = match request.participant.as_str() {
        "" => None,
        name => Some(parse::participant("participant", name)?),
    };
    if !request.gid_prefix.is_empty() {
        unanimo_core::Gid::new(&request.gid_prefix)
            .map_err(|rule| invalid(Violation::new("gid_prefix", rule.to_string())))?;
    }
    let limit = match request.page_size {
        0 => PAGE_DEFAULT,
        size if size <= PAGE_MAX => size,
        size => {
            let rule = format!("must be at most {PAGE_MAX}, is {size}");
            return Err(invalid(Violation::new("page_size", rule)));
        }
    };
    let before = match request.page_token.as_str() {
        "" => None,
        token => Some(TxId::parse(token).map_err(|_| {
            let rule = "must be the next_page_token of an earlier page";
            invalid(Violation::new("page_token", rule))
        })?),
    };
    Ok(Filter {
        phases: phases.collect::<Result<_, _>>()?,
        attention: request.attention,
        gid_prefix: request.gid_prefix.clone(),
        participant,
        created_from: parse::time("created_from", request.created_from)?,
        created_until: parse::time("created_until", request.created_until)?,
        before,
        limit,
    })
}

type Watching = Pin<Box<dyn Stream<Item = Result<v1::WatchTransactionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl CoordinatorService for Api {
    type WatchTransactionStream = Watching;

    async fn submit_transaction(
        &self,
        request: Request<v1::SubmitTransactionRequest>,
    ) -> Result<Response<v1::SubmitTransactionResponse>, Status> {
        self.served("SubmitTransaction", Self::submit(self, request)).await.map(Response::new)
    }

    async fn begin_transaction(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> Result<Response<v1::BeginTransactionResponse>, Status> {
        self.served("BeginTransaction", Self::begin(self, request)).await.map(Response::new)
    }

    async fn execute_branch(
        &self,
        request: Request<v1::ExecuteBranchRequest>,
    ) -> Result<Response<v1::ExecuteBranchResponse>, Status> {
        self.served("ExecuteBranch", Self::execute(self, request)).await.map(Response::new)
    }

    async fn enlist_branch(
        &self,
        request: Request<v1::EnlistBranchRequest>,
    ) -> Result<Response<v1::EnlistBranchResponse>, Status> {
        self.served("EnlistBranch", Self::enlist(self, request)).await.map(Response::new)
    }

    async fn commit_transaction(
        &self,
        request: Request<v1::CommitTransactionRequest>,
    ) -> Result<Response<v1::CommitTransactionResponse>, Status> {
        self.served("CommitTransaction", Self::commit(self, request)).await.map(Response::new)
    }

    async fn rollback_transaction(
        &self,
        request: Request<v1::RollbackTransactionRequest>,
    ) -> Result<Response<v1::RollbackTransactionResponse>, Status> {
        self.served("RollbackTransaction", Self::rollback(self, request)).await.map(Response::new)
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::GetTransactionResponse>, Status> {
        self.served("GetTransaction", Self::get(self, request)).await.map(Response::new)
    }

    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        self.served("ListTransactions", Self::list(self, request)).await.map(Response::new)
    }

    async fn watch_transaction(
        &self,
        request: Request<v1::WatchTransactionRequest>,
    ) -> Result<Response<Watching>, Status> {
        self.served("WatchTransaction", Self::watch(self, request)).await.map(Response::new)
    }

    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let work = async { Ok(v1::GetServerInfoResponse::default()) };
        self.served("GetServerInfo", work).await.map(Response::new)
    }

    async fn inquire_branches(
        &self,
        request: Request<v1::InquireBranchesRequest>,
    ) -> Result<Response<v1::InquireBranchesResponse>, Status> {
        self.served("InquireBranches", Self::inquire(self, request)).await.map(Response::new)
    }
}
