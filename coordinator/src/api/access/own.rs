//! Transactions, participants and lists that are a caller's own. What is not, and what is in another namespace, is answered
//! as if it had never been.

use tokio::time::Instant;
use tonic::Status;
use unanimo_core::ParticipantName;
use unanimo_core::ids::NAMESPACE_END;

use super::{Access, initiator};
use crate::api::Api;
use crate::api::error::{denied, from_engine, gid_of_another};
use crate::api::namespace::{is_inside, local};
use crate::engine::{self, Answer, View};
use crate::identity::{Caller, Role};
use crate::store::{Filter, Key, Unreadable};

impl Api {
    /// Answers as if there were no such transaction, if it is another one's.
    pub(in crate::api) async fn check_own(
        &self,
        access: &Access,
        key: &Key,
        by: Instant,
    ) -> Result<(), Status> {
        match access.sees_whole() {
            true => Ok(()),
            false => self.check_view(access, key, by, |view| access.sees(view)).await,
        }
    }

    /// Answers as if there were no such transaction, if it is in another namespace.
    pub(in crate::api) async fn check_reach(
        &self,
        access: &Access,
        key: &Key,
        by: Instant,
    ) -> Result<(), Status> {
        match access.caller {
            Caller::Anybody => Ok(()),
            Caller::Known(_) => self.check_view(access, key, by, |view| access.has(view)).await,
        }
    }

    async fn check_view(
        &self,
        access: &Access,
        key: &Key,
        by: Instant,
        may: impl Fn(&View) -> bool,
    ) -> Result<(), Status> {
        match self.engine.look(key.clone(), by).await {
            Ok(Answer::View(view)) if may(&view) => Ok(()),
            Ok(Answer::View(view)) => {
                match access.has(&view) {
                    true => self.note_denied(access, "of another one", Some(key)),
                    false => self.note_stranger(access, key),
                }
                Err(self.not_there(key).await)
            }
            Ok(Answer::NotYet(_)) => Err(from_engine(engine::Error::StoreSilent)),
            Err(engine::Error::Unreadable(unreadable)) => {
                match told_unreadable(access, key, *unreadable) {
                    Some(told) => Err(from_engine(engine::Error::Unreadable(Box::new(told)))),
                    None => Err(self.not_there(key).await),
                }
            }
            Err(error) => Err(from_engine(error)),
        }
    }

    /// Answers what is answered to who asks for what was never there.
    async fn not_there(&self, key: &Key) -> Status {
        from_engine(self.engine.missing(key).await.unwrap_or_else(|error| error))
    }

    /// The same for a gid that may be new.
    pub(in crate::api) async fn check_own_or_new(
        &self,
        access: &Access,
        key: &Key,
        by: Instant,
    ) -> Result<(), Status> {
        if access.sees_whole() {
            return Ok(());
        }
        match self.engine.look(key.clone(), by).await {
            Err(engine::Error::UnknownGid) => Ok(()),
            _ => self.check_own(access, key, by).await,
        }
    }

    /// Tells whether a call is an operator's act, and not an initiator's own. Without identities nobody can tell. What
    /// nobody has begun yet another initiator may begin before the call is carried out.
    pub(in crate::api) async fn is_operators(
        &self,
        access: &Access,
        key: &Key,
        by: Instant,
    ) -> bool {
        let Caller::Known(_) = &access.caller else { return false };
        if !access.caller.has_any(&[Role::Operator]) {
            return false;
        }
        if !access.caller.has_any(&[Role::Initiator]) {
            return true;
        }
        match self.engine.look(key.clone(), by).await {
            Ok(Answer::View(view)) => !access.caller.began(initiator(&view)),
            _ => true,
        }
    }

    /// Refuses the answer to Submit or Begin if the gid is of a transaction that another one has begun, and tells
    /// nothing of that.
    pub(in crate::api) async fn began(
        &self,
        access: &Access,
        answer: Result<Answer, engine::Error>,
        by: Instant,
    ) -> Result<Answer, Status> {
        if access.caller == Caller::Anybody {
            return answer.map_err(from_engine);
        }
        let began = |view: &View| access.caller.began(initiator(view));
        match answer {
            Ok(Answer::View(view)) if began(&view) => return Ok(Answer::View(view)),
            Ok(Answer::View(_)) => {}
            // Nobody knows yet whose it is.
            Ok(Answer::NotYet(_)) => return Ok(Answer::NotYet(None)),
            Err(engine::Error::GidReused { tx_id, outcome }) => {
                let known = self.engine.look(Key::Tx(tx_id), by).await;
                match known.map_err(from_engine)? {
                    Answer::View(view) if began(&view) => {
                        return Err(from_engine(engine::Error::GidReused { tx_id, outcome }));
                    }
                    Answer::View(_) => {}
                    Answer::NotYet(_) => return Err(from_engine(engine::Error::StoreSilent)),
                }
            }
            Err(error) => return Err(from_engine(error)),
        }
        self.note_denied(access, "the gid is of another one", None);
        Err(gid_of_another())
    }

    /// Confines a list to what the caller may see, and tells whether it is one of its branches: with its own name as
    /// the filter. Otherwise it is one of what it began.
    pub(in crate::api) fn check_list(
        &self,
        access: &Access,
        filter: &mut Filter,
    ) -> Result<bool, Status> {
        let of_own = filter.participant.as_ref().is_some_and(|name| access.is(name));
        filter.confined = !access.sees_whole();
        if access.all || of_own {
            return Ok(of_own);
        }
        let name = access.caller.name();
        if !access.caller.has_any(&[Role::Initiator]) {
            self.note_denied(access, "without its own name as the filter", None);
            return Err(denied(format!(
                "{name} has the role participant alone, and may list the transactions of one of its own names: give that as the \
                 filter `participant`. Those of all need the role operator or viewer"
            )));
        }
        filter.initiator = Some(access.initiator());
        Ok(false)
    }

    /// Refuses a participant's call under a name that is not its own.
    pub(in crate::api) fn check_speaks_for(
        &self,
        access: &Access,
        participant: &ParticipantName,
    ) -> Result<(), Status> {
        if access.caller.is(participant) {
            return Ok(());
        }
        self.note_denied(access, "in another one's name", None);
        let name = access.caller.name();
        Err(denied(format!("{name} may not speak for the participant {}", participant.local())))
    }

    /// Refuses what is about the whole coordinator to a caller of a namespace.
    pub(in crate::api) fn check_whole(&self, access: &Access) -> Result<(), Status> {
        let Some(namespace) = access.namespace() else { return Ok(()) };
        self.note_denied(access, "it is of a namespace", None);
        let (name, rpc) = (access.name(), access.rpc_name());
        Err(denied(format!(
            "{name} may not call {rpc}: it is of the namespace {namespace}, and this is about all"
        )))
    }
}

/// Returns what may be told of a transaction that cannot be read; nothing if it may be in another namespace.
fn told_unreadable(access: &Access, key: &Key, unreadable: Unreadable) -> Option<Unreadable> {
    let gid = &unreadable.gid;
    let Some(namespace) = access.namespace() else {
        return (!gid.contains(NAMESPACE_END)).then_some(unreadable);
    };
    // Under a gid the caller finds what is in its own namespace alone.
    let is_own = is_inside(namespace, gid) || matches!(key, Key::Gid(_));
    let gid = local(namespace, gid).unwrap_or_default().to_owned();
    is_own.then_some(Unreadable { gid, ..unreadable })
}
