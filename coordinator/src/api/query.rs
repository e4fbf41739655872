//! Questions: one transaction, many, and branches in doubt.

use tokio::time::Instant;
use tonic::{Request, Status};
use unanimo_core::{ParticipantName, TxId, Violation};
use unanimo_proto::v1::{self, get_transaction_request};

use super::access::Access;
use super::convert::{self, Content};
use super::error::{denied, from_engine, invalid, no_history, other_cluster, other_database};
use super::namespace::Names;
use super::{Api, calls, hidden, history, page, parse};
use crate::engine::{Answer, Error, Handle, Until, View};
use crate::store::{Filter, Key};

/// Most states by which transactions are listed: all that there are.
pub const STATES_MAX: usize = 7;

/// Most modes of a filter: all that there are.
pub const MODES_MAX: usize = 3;

/// Most entries of metadata in a filter.
pub const METADATA_MAX: usize = 16;

/// Most branches of an inquiry.
pub const INQUIRE_MAX: usize = 256;

impl Api {
    pub(super) async fn get(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<v1::GetTransactionResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let until = parse::wait_for_or(request.get_ref().wait_for, Until::Durable)?;
        if until != Until::Durable {
            calls::look_on(&request)?;
        }
        let request = request.into_inner();
        let content =
            Content { outputs: request.include_outputs, payloads: request.include_payloads };
        let key = match request.key {
            Some(get_transaction_request::Key::TxId(text)) => Key::Tx(parse::tx_id(&text)?),
            Some(get_transaction_request::Key::Gid(text)) => {
                Key::Gid(parse::known_gid(&text, access.names())?)
            }
            None => return Err(no_key()),
        };
        self.check_own(&access, &key, by).await?;
        let answer = match until {
            Until::Durable => self.engine.look(key, by).await,
            until => self.engine.wait(key, until, by).await,
        };
        let answer = answer.map_err(from_engine)?;
        let view = durable_view(answer)?;
        let events = match request.include_timeline {
            true => Some(self.engine.events(view.tx.tx_id()).await.map_err(from_engine)?),
            false => None,
        };
        let mut transaction = convert::transaction(&view, content, events.as_deref());
        name_parents_branch(&self.engine, &view, &mut transaction, by).await;
        if !self.may_read(&access, &view) {
            hidden::hide(&access, &mut transaction);
        }
        if !access.sees_all(&view) {
            keep_own_branches(&access, &mut transaction);
        }
        Ok(v1::GetTransactionResponse { transaction: Some(transaction) })
    }

    pub(super) async fn export(
        &self,
        request: Request<v1::ExportTransactionRequest>,
    ) -> Result<v1::ExportTransactionResponse, Status> {
        use v1::export_transaction_request::Key as Named;
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let v1::ExportTransactionRequest { key, page_size, page_token, .. } = request.into_inner();
        let key = match key {
            Some(Named::TxId(text)) => Key::Tx(parse::tx_id(&text)?),
            Some(Named::Gid(text)) => Key::Gid(parse::known_gid(&text, access.names())?),
            None => return Err(no_key()),
        };
        let page = history::Page::new(parse::version_token(&page_token)?, page_size);
        self.check_own(&access, &key, by).await?;
        let answer = self.engine.look(key, by).await.map_err(from_engine)?;
        let view = durable_view(answer)?;
        if view.stripped {
            return Err(from_engine(Error::Stripped));
        }
        let tx_id = view.tx.tx_id();
        let entries = self.engine.history(tx_id, page.after).await.map_err(from_engine)?;
        let document = history::document(&view.tx.record(), &entries, page);
        let (history_json, next) = document.ok_or_else(|| no_history(tx_id))?;
        let next_page_token = next.map(|next| next.0.to_string()).unwrap_or_default();
        Ok(v1::ExportTransactionResponse { history_json, next_page_token })
    }

    pub(super) async fn list(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<v1::ListTransactionsResponse, Status> {
        let access = Access::of(&request);
        let mut filter = filter(request.get_ref(), access.names())?;
        if !access.is_of_all() && request.get_ref().include_counts {
            self.note_denied(&access, "counts are of all transactions", None);
            return Err(denied(
                "counts are of all transactions: they need an operator or a viewer".to_owned(),
            ));
        }
        // Before rows are read, so that neither filters nor pages tell of those that the caller may not see.
        let of_own = self.check_list(&access, &mut filter)?;
        let limit = filter.limit as usize;
        // One more than the page holds tells whether there is a next page.
        filter.limit += 1;
        let page = self.engine.list(&filter).await.map_err(from_engine)?;
        let listed = &page.found;
        let metadata = request.get_ref().include_metadata && (access.is_of_all() || !of_own);
        let shown = listed.iter().take(limit).map(|found| convert::found(found, metadata));
        let (transactions, whole) = page::fitting(shown, page::PAGE_BYTES_MAX);
        let more = !whole || listed.len() > limit;
        let last = transactions.last().filter(|_| more).map(|last| last.tx_id.clone());
        let next = || page.next.map(|next| next.to_string());
        let next_page_token = last.or_else(next).unwrap_or_default();
        let ended_from = parse::time("counts_ended_from", request.get_ref().counts_ended_from)?;
        let counts = match request.get_ref().include_counts {
            true => Some(self.count_for(&access, ended_from).await.map_err(from_engine)?),
            false => None,
        };
        let counts = counts.as_ref().map(convert::counts);
        Ok(v1::ListTransactionsResponse { transactions, next_page_token, counts })
    }

    pub(super) async fn inquire(
        &self,
        request: Request<v1::InquireBranchesRequest>,
    ) -> Result<v1::InquireBranchesResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        let v1::InquireBranchesRequest { participant, branches, cluster_id, database_id, .. } =
            request.into_inner();
        let participant = parse::known_participant(&participant, access.names())?;
        self.check_speaks_for(&access, &participant)?;
        let found = branches.len();
        if found == 0 || found > INQUIRE_MAX {
            let rule = format!("must have 1 to {INQUIRE_MAX} branches, has {found}");
            return Err(invalid(Violation::new("branches", rule)));
        }
        let own = self.engine.cluster_id();
        if cluster_id.is_empty() {
            return Err(invalid(Violation::new("cluster_id", "must not be empty")));
        }
        if cluster_id != own {
            return Err(other_cluster(&cluster_id, own));
        }
        let databases = self.directory.databases();
        databases.check(&participant, &database_id).map_err(|other| other_database(&other))?;
        let branches: Vec<_> = branches
            .iter()
            .enumerate()
            .map(|(index, branch)| parse::inquired(&format!("branches[{index}]"), branch))
            .collect::<Result<_, Status>>()?;
        let known = self.engine.inquire(&participant, &branches, by).await.map_err(from_engine)?;
        let results = known.iter().map(|known| convert::inquired(known, self.engine.policy(), own));
        Ok(v1::InquireBranchesResponse { verdicts: results.collect() })
    }
}

/// Leaves of a transaction what a participant of it may know: the branches of its names.
fn keep_own_branches(access: &Access, transaction: &mut v1::Transaction) {
    let own = |branch: &v1::Branch| {
        ParticipantName::full(&branch.participant).is_ok_and(|name| access.is(&name))
    };
    transaction.branches.retain(own);
    let is_shown = |id: &str| transaction.branches.iter().any(|branch| branch.branch_id == id);
    if !is_shown(&transaction.abort_branch_id) {
        transaction.abort_branch_id.clear();
        transaction.abort_detail.clear();
    }
    let is_own = |waiting: &v1::Waiting| {
        is_shown(&waiting.branch_id) && waiting.cause() != v1::WaitCause::Lock
    };
    transaction.waiting = transaction.waiting.take_if(|waiting| is_own(waiting));
    transaction.locks.clear();
    transaction.metadata.clear();
    transaction.parent = None;
    transaction.timeline.clear();
    transaction.timeline_dropped = 0;
}

/// Makes the error of a request that names no transaction.
pub(super) fn no_key() -> Status {
    invalid(Violation::new("key", "must be tx_id or gid"))
}

/// Returns the view, or that nothing can be said yet.
pub(super) fn durable_view(answer: Answer) -> Result<Box<View>, Status> {
    match answer {
        Answer::View(view) => Ok(view),
        // The engine answers at once, unless it waits for its database.
        Answer::NotYet(_) => Err(from_engine(Error::StoreSilent)),
    }
}

/// Returns the transaction after an act, without payloads and outputs.
pub(super) async fn shown(
    engine: &Handle,
    answer: Result<Answer, Error>,
    by: Instant,
) -> Result<Option<v1::Transaction>, Status> {
    let view = durable_view(answer.map_err(from_engine)?)?;
    let mut transaction = convert::transaction(&view, Content::default(), None);
    name_parents_branch(engine, &view, &mut transaction, by).await;
    Ok(Some(transaction))
}

/// Adds the id of the branch that a child is, as its parent knows it; nothing if the parent cannot be read.
async fn name_parents_branch(
    engine: &Handle,
    view: &View,
    transaction: &mut v1::Transaction,
    by: Instant,
) {
    let parent = view.tx.identity().parent;
    let (Some(shown), Some(parent)) = (&mut transaction.parent, parent) else { return };
    let parents = engine.look(Key::Tx(parent.tx_id), by).await;
    let Ok(Answer::View(parents)) = parents else { return };
    let branch = parents.tx.branch(parent.number);
    shown.branch_id = branch.map(|branch| branch.spec.branch_id.to_string()).unwrap_or_default();
}

fn filter(request: &v1::ListTransactionsRequest, names: Names<'_>) -> Result<Filter, Status> {
    let count = request.states.len();
    if count > STATES_MAX {
        let rule = format!("must have at most {STATES_MAX} states, has {count}");
        return Err(invalid(Violation::new("states", rule)));
    }
    let count = request.modes.len();
    if count > MODES_MAX {
        let rule = format!("must have at most {MODES_MAX} modes, has {count}");
        return Err(invalid(Violation::new("modes", rule)));
    }
    let count = request.metadata.len();
    if count > METADATA_MAX {
        let rule = format!("must have at most {METADATA_MAX} entries, has {count}");
        return Err(invalid(Violation::new("metadata", rule)));
    }
    let phases = request.states.iter().enumerate();
    let phases = phases.map(|(index, state)| parse::phase(&format!("states[{index}]"), *state));
    let modes = request.modes.iter().enumerate();
    let modes = modes.map(|(index, mode)| parse::known_mode(&format!("modes[{index}]"), *mode));
    let participant = match request.participant.as_str() {
        "" => None,
        name => Some(parse::known_participant(name, names)?),
    };
    let before = match request.page_token.as_str() {
        "" => None,
        token => Some(TxId::parse(token).map_err(|_| parse::bad_page_token())?),
    };
    Ok(Filter {
        phases: phases.collect::<Result<_, _>>()?,
        attention: request.attention,
        modes: modes.collect::<Result<_, _>>()?,
        metadata: request.metadata.clone().into_iter().collect(),
        gid_prefix: parse::gid_prefix(&request.gid_prefix, names)?,
        participant,
        initiator: None,
        created_from: parse::time("created_from", request.created_from)?,
        created_until: parse::time("created_until", request.created_until)?,
        before,
        confined: false,
        limit: page::size(request.page_size),
    })
}
