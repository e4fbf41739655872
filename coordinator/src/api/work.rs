//! Transactions that are begun, given branches, and ended: the rpcs of initiators.

use tokio::time::Instant;
use tonic::{Request, Status};
use unanimo_core::{
    BRANCHES_MAX, BranchId, BranchRequest, Definition, Digest, Drive, Enlistment, Payload,
    Rejection, TxId, Violation,
};
use unanimo_proto::v1::{self, rollback_transaction_request};

use super::access::Access;
use super::audit::Act;
use super::directory::INSTANCE_BYTES_MAX;
use super::error::{
    enlisted_and_decided, enlisted_elsewhere, from_engine, invalid, other_database, waits_for_locks,
};
use super::namespace::Names;
use super::parse::{self, Definable, NOTE_BYTES_MAX, Read, Reading};
use super::query::{durable_view, no_key};
use super::{Api, calls, convert};
use crate::engine::{self, Answer, Until, View};
use crate::participants::databases::Database;
use crate::store::Key;
use crate::wire;

impl Api {
    pub(super) async fn submit(
        &self,
        request: Request<v1::SubmitTransactionRequest>,
    ) -> Result<v1::SubmitTransactionResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let (headers, _, request) = request.into_parts();
        let until = parse::wait_for(request.wait_for)?;
        let outputs = request.include_outputs;
        let must_exist = request.require_existing;
        let definable = Definable {
            gid: request.gid,
            mode: request.mode,
            drive: Drive::Declarative,
            branches: request.branches,
            timeout: request.timeout,
            metadata: request.metadata,
            start_at: request.start_at,
            start_delay: request.start_delay,
            locks: request.locks,
            initiator: access.initiator(),
        };
        let definition = parse::definition(definable, &headers, self.reading(&access))?;
        let answer = self.begin_or_find(definition, must_exist, until, by).await;
        let answer = self.began(&access, answer, by).await?;
        Ok(v1::SubmitTransactionResponse { result: Some(convert::result(answer, outputs)) })
    }

    pub(super) async fn begin(
        &self,
        request: Request<v1::BeginTransactionRequest>,
    ) -> Result<v1::BeginTransactionResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let (headers, _, request) = request.into_parts();
        let must_exist = request.require_existing;
        let definable = Definable {
            gid: request.gid,
            mode: request.mode,
            drive: Drive::Interactive,
            branches: Vec::new(),
            timeout: request.timeout,
            metadata: request.metadata,
            start_at: None,
            start_delay: None,
            locks: request.locks,
            initiator: access.initiator(),
        };
        let definition = parse::definition(definable, &headers, self.reading(&access))?;
        let answer = self.begin_or_find(definition, must_exist, Until::Durable, by).await;
        let answer = self.began(&access, answer, by).await?;
        let View { tx, .. } = *durable_view(answer)?;
        Ok(v1::BeginTransactionResponse {
            tx_id: tx.tx_id().to_string(),
            deadline: Some(wire::time_to_wire(tx.deadline())),
            outcome: convert::outcome(tx.outcome()).into(),
            cluster_id: self.engine.cluster_id().to_owned(),
        })
    }

    /// Begins a transaction, unless the request is for one that must exist already.
    async fn begin_or_find(
        &self,
        definition: Definition,
        must_exist: bool,
        until: Until,
        by: Instant,
    ) -> Result<Answer, engine::Error> {
        match must_exist {
            true => self.engine.find_begun(definition, until, by).await,
            false => self.engine.begin(definition, until, by).await,
        }
    }

    /// Refuses a list of branches that no transaction can have. Whether this one may have so many is
    /// said by the engine, once it knows that the request is not one that came before.
    fn check_count(&self, found: usize) -> Result<(), Status> {
        if found <= BRANCHES_MAX {
            return Ok(());
        }
        let max = self.engine.policy().limits.branches_max;
        let rule = format!("must have at most {max} branches, has {found}");
        Err(invalid(Violation::new("branches", rule)))
    }

    async fn enlist_branch(
        &self,
        access: &Access,
        tx_id: TxId,
        Read { branch, child }: Read,
        enlistment: Enlistment,
        by: Instant,
    ) -> Result<Answer, Status> {
        let again = child.as_ref().map(|child| (child.digest(), branch.clone()));
        let enlisted = self.engine.enlist(tx_id, branch, child, enlistment, by).await;
        if let Err(engine::Error::Rejected(Rejection::BranchReused(_))) = &enlisted
            && let Some((digest, branch)) = again
            && let Some(payload) = self.same_child(tx_id, &branch.branch_id, digest, by).await
        {
            let branch = BranchRequest { payload, ..branch };
            return self
                .engine
                .enlist(tx_id, branch, None, enlistment, by)
                .await
                .map_err(|error| access.told(error));
        }
        enlisted.map_err(|error| access.told(error))
    }

    /// Returns the payload of a known branch that is the child with this digest: one that comes again may have other
    /// times and attempts, which are not compared, and those that came first count.
    async fn same_child(
        &self,
        tx_id: TxId,
        id: &BranchId,
        digest: Digest,
        by: Instant,
    ) -> Option<Payload> {
        let known = self.engine.wait(Key::Tx(tx_id), Until::Durable, by).await;
        let Ok(Answer::View(view)) = known else { return None };
        let branch = view.tx.branch_by_id(id).filter(|branch| branch.spec.is_child())?;
        let payload = branch.spec.payload.clone();
        let (limits, namespace) =
            (&self.engine.policy().limits, view.tx.identity().gid.namespace());
        let names = Names::of(namespace.as_ref());
        let reading = Reading { now: self.engine.now(), limits, depth: 0, names };
        let child = parse::stored_child(&payload, branch.number, reading).ok()?;
        (child.digest() == digest).then_some(payload)
    }

    pub(super) async fn execute(
        &self,
        request: Request<v1::ExecuteBranchRequest>,
    ) -> Result<v1::ExecuteBranchResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let v1::ExecuteBranchRequest { tx_id, branch, .. } = request.into_inner();
        let (tx_id, read) =
            (parse::tx_id(&tx_id)?, parse::one_branch(branch, self.reading(&access))?);
        self.check_own(&access, &Key::Tx(tx_id), by).await?;
        let id = read.branch.branch_id.clone();
        match self.enlist_branch(&access, tx_id, read, Enlistment::Coordinator, by).await? {
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

    pub(super) async fn enlist(
        &self,
        request: Request<v1::EnlistBranchRequest>,
    ) -> Result<v1::EnlistBranchResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let v1::EnlistBranchRequest { tx_id, branch, database_id, .. } = request.into_inner();
        parse::text("database_id", &database_id, INSTANCE_BYTES_MAX, true)?;
        let (tx_id, read) =
            (parse::tx_id(&tx_id)?, parse::one_branch(branch, self.reading(&access))?);
        if read.child.is_some() {
            let rule = "must be absent: the initiator cannot call a child, ExecuteBranch can";
            return Err(invalid(Violation::new("branch.child", rule)));
        }
        // A participant may join with a branch of its own.
        if access.is(&read.branch.participant) {
            self.check_reach(&access, &Key::Tx(tx_id), by).await?;
        } else {
            if !database_id.is_empty() {
                let rule =
                    "must be empty: only the branch's participant itself may name its database";
                return Err(invalid(Violation::new("database_id", rule)));
            }
            self.check_own(&access, &Key::Tx(tx_id), by).await?;
        }
        let id = read.branch.branch_id.clone();
        let (databases, participant) =
            (self.directory.databases(), read.branch.participant.clone());
        databases.check(&participant, &database_id).map_err(|other| other_database(&other))?;
        let answer = self.enlist_branch(&access, tx_id, read, Enlistment::Initiator, by).await?;
        let View { tx, .. } = *durable_view(answer)?;
        // A branch that is known may be called only while nothing is decided. It counts all the same:
        // a Commit that came before this answer did not list it.
        if tx.phase().decision().is_some() {
            return Err(enlisted_and_decided(&tx, &id));
        }
        // Its participant is called once the transaction has its locks.
        if !tx.has_its_locks() {
            return Err(waits_for_locks(tx_id));
        }
        let Some(branch) = tx.branch_by_id(&id) else {
            return Err(from_engine(crate::engine::Error::Moving));
        };
        // Only a request that is served tells of a database. Whoever was sooner is the one that is known.
        databases
            .votes(&participant, &database_id)
            .map_err(|other| enlisted_elsewhere(&other, &id))?;
        let cluster_id = self.engine.cluster_id();
        let context = wire::context(tx.identity(), &branch.spec, branch.number, cluster_id);
        let today = databases.of(&branch.spec.participant);
        let database = match database_id.as_str() {
            "" => today,
            asked if asked == today.id => today,
            _ => Database { id: database_id, place: String::new() },
        };
        // The participant does no work on another one.
        self.engine.note_database(tx_id, branch.number, database.id.clone());
        Ok(v1::EnlistBranchResponse {
            context: Some(v1::BranchContext {
                database_id: database.id,
                database_place: database.place,
                ..context
            }),
            prepare_until: tx.prepare_until(branch, self.engine.policy()).map(wire::time_to_wire),
            metadata: tx.identity().metadata.clone().into_iter().collect(),
        })
    }

    pub(super) async fn commit(
        &self,
        request: Request<v1::CommitTransactionRequest>,
    ) -> Result<v1::CommitTransactionResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let until = wait_of(&request, request.get_ref().wait_for)?;
        let v1::CommitTransactionRequest { tx_id, branches, include_outputs, .. } =
            request.into_inner();
        let tx_id = parse::tx_id(&tx_id)?;
        self.check_count(branches.len())?;
        let listed = branches
            .iter()
            .enumerate()
            .map(|(index, branch)| {
                let field = |name: &str| format!("branches[{index}].{name}");
                let id = parse::branch_id(&field("branch_id"), &branch.branch_id)?;
                Ok((id, parse::vote(&field("vote"), branch.vote)?))
            })
            .collect::<Result<Vec<_>, Status>>()?;
        self.check_own(&access, &Key::Tx(tx_id), by).await?;
        let answer = self.engine.commit(tx_id, listed, until, by).await.map_err(from_engine)?;
        Ok(v1::CommitTransactionResponse { result: Some(convert::result(answer, include_outputs)) })
    }

    pub(super) async fn rollback(
        &self,
        request: Request<v1::RollbackTransactionRequest>,
    ) -> Result<v1::RollbackTransactionResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let until = wait_of(&request, request.get_ref().wait_for)?;
        let request = request.into_inner();
        let (outputs, note) = (request.include_outputs, request.note);
        parse::text("note", &note, NOTE_BYTES_MAX, true)?;
        let key = match request.key {
            Some(rollback_transaction_request::Key::TxId(text)) => Key::Tx(parse::tx_id(&text)?),
            Some(rollback_transaction_request::Key::Gid(text)) => {
                Key::Gid(parse::gid(&text, access.names_of_new())?)
            }
            None => return Err(no_key()),
        };
        let act = match &key {
            Key::Tx(tx_id) => {
                self.check_own(&access, &key, by).await?;
                Act::on(*tx_id, "", &note)
            }
            Key::Gid(gid) => {
                self.check_own_or_new(&access, &key, by).await?;
                Act { gid: gid.to_string(), note, ..Act::default() }
            }
        };
        let is_act = self.is_operators(&access, &key, by).await;
        let (engine, initiator) = (self.engine.clone(), access.initiator());
        let work = async move {
            let answer = match key {
                Key::Tx(tx_id) => engine.rollback(tx_id, until, by).await,
                Key::Gid(gid) => engine.rollback_gid(gid, initiator, until, by).await,
            };
            let result = convert::result(answer.map_err(from_engine)?, outputs);
            Ok(v1::RollbackTransactionResponse { result: Some(result) })
        };
        match is_act {
            true => self.audited(&access, act, by, work).await,
            false => work.await,
        }
    }
}

/// Returns the state that a Commit or Rollback waits for: where as many calls wait as may be, that it is accepted.
fn wait_of<T>(request: &Request<T>, wait_for: i32) -> Result<Until, Status> {
    let until = parse::wait_for(wait_for)?;
    Ok(if calls::is_over(request.extensions()) { Until::Durable } else { until })
}
