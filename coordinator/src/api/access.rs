//! Access: who calls, whether it may make this call, and whether what it asks for is its own.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Status};
use unanimo_core::{ParticipantName, Timestamp};
use unanimo_tls::Peer;

use super::Api;
use super::error::{
    Reason, denied, from_engine, gid_of_another, issuer_unavailable, one_too_many, unauthenticated,
};
use super::rpc::Rpc;
use crate::engine::{self, Answer, View};
use crate::env::Env;
use crate::identity::{Caller, Known, Place, Role, Unknown, network_of};
use crate::store::{Filter, Key};

/// Roles that see every transaction.
const OF_ALL: [Role; 2] = [Role::Operator, Role::Viewer];

/// Access of one call.
#[derive(Clone, Debug)]
pub(super) struct Access {
    caller: Caller,
    /// It is for any transaction, in this call.
    all: bool,
    rpc: Rpc,
    /// Address from which the call came.
    from: Option<SocketAddr>,
}

/// Caller of a stream: whether it may still read is looked at again, for a token that was revoked or has expired and a role
/// that was taken away end it.
pub(super) struct Standing {
    known: Known,
    env: Arc<dyn Env>,
    rpc: Rpc,
    header: Option<Vec<u8>>,
    names: Option<Vec<String>>,
}

impl Standing {
    /// Returns the initiator of the transactions that may be seen, or nothing if all may.
    ///
    /// # Errors
    /// The same as those of a call that begins now.
    pub(super) fn look(&self) -> Result<Option<String>, Status> {
        let found =
            find(&self.known, self.env.now(), self.header.as_deref(), self.names.as_deref());
        let caller = found.map_err(refused)?;
        if !caller.has_any(self.rpc.roles()) {
            self.known.denials.note(caller.name(), self.rpc.name(), "its role was taken away");
            let words = format!("{} may not read on: it has no role for it", caller.name());
            return Err(denied(words));
        }
        let all = sees_all(&caller, self.rpc);
        Ok((!all).then(|| caller.name().to_owned()))
    }
}

/// Finds out who calls.
fn find(
    known: &Known,
    now: Timestamp,
    header: Option<&[u8]>,
    names: Option<&[String]>,
) -> Result<Caller, Unknown> {
    let Some(identities) = &known.identities else { return Ok(Caller::Anybody) };
    Caller::find(&identities.current(), (known.issuer.as_ref(), now), header, names)
}

/// Tells whether a caller sees every transaction in a call.
fn sees_all(caller: &Caller, rpc: Rpc) -> bool {
    let of_all = |role: &Role| rpc.roles().contains(role) && caller.has_any(&[*role]);
    *caller == Caller::Anybody || OF_ALL.iter().any(of_all)
}

impl Api {
    /// Finds out who calls, and refuses what no role of the caller allows. What is found goes with the request:
    /// [`Access::of`].
    pub(super) fn admit(
        &self,
        rpc: Rpc,
        headers: &HeaderMap,
        of: &Extensions,
    ) -> Result<Access, Status> {
        let from = address(of);
        let access = |caller, all| Access { caller, all, rpc, from };
        let caller = self.caller(headers, of).map_err(|unknown| {
            // A call that may be good the next moment was not denied: the log has it, and not the audit.
            match unknown.is_passing() {
                true => self.known.denials.note("", rpc.name(), why(unknown)),
                false => self.note_denied(&access(Caller::Anybody, false), why(unknown), None),
            }
            refused(unknown)
        })?;
        if !caller.has_any(rpc.roles()) {
            let (why, rpc) = ("no role of it may make this call", rpc.name());
            let words = format!("{} may not call {rpc}: it has no role for it", caller.name());
            self.note_denied(&access(caller, false), why, None);
            return Err(denied(words));
        }
        let all = sees_all(&caller, rpc);
        Ok(access(caller, all))
    }

    /// Finds out who calls.
    fn caller(&self, headers: &HeaderMap, of: &Extensions) -> Result<Caller, Unknown> {
        let names = of.get::<Peer>().and_then(|peer| peer.names.as_deref());
        let header = headers.get("authorization").map(|header| header.as_bytes());
        find(&self.known, self.env.now(), header, names)
    }

    /// Returns what is looked at again while a request is answered.
    pub(super) fn standing<T>(&self, rpc: Rpc, request: &Request<T>) -> Standing {
        let header = request.metadata().get("authorization");
        let names = request.extensions().get::<Peer>().and_then(|peer| peer.names.clone());
        Standing {
            known: self.known.clone(),
            env: Arc::clone(&self.env),
            rpc,
            header: header.map(|header| header.as_bytes().to_vec()),
            names: names.map(|names| names.to_vec()),
        }
    }

    /// Tells whether a call would be admitted, and notes nothing of it.
    pub(super) fn would_admit(&self, rpc: Rpc, headers: &HeaderMap, of: &Extensions) -> bool {
        self.caller(headers, of).is_ok_and(|caller| caller.has_any(rpc.roles()))
    }

    /// Refuses a call without a certificate, where each must have one. Nothing is told of its address; what is one of
    /// an rpc is noted.
    pub(super) fn uncertified(&self, rpc: Option<Rpc>, peer: Option<&Peer>) -> Status {
        let why = "a client certificate is needed";
        let status = unauthenticated(why);
        if let Some(rpc) = rpc {
            let from = peer.and_then(|peer| peer.address);
            self.note_denied(&Access { caller: Caller::Anybody, all: false, rpc, from }, why, None);
            self.metrics.served(rpc.name(), status.code());
        }
        status
    }

    /// Counts a call of its identity, or of its address where it has none, as long as it is not one too many.
    pub(super) fn take_place(&self, access: &Access) -> Result<Option<Place>, Status> {
        let (shares, name) = match (&access.caller, access.from) {
            (Caller::Known(identity), _) => (&self.known.shares, identity.name.clone()),
            (Caller::Anybody, Some(from)) => {
                (&self.known.addresses, network_of(from.ip()).to_string())
            }
            (Caller::Anybody, None) => return Ok(None),
        };
        shares.take(&name, Instant::now()).map_err(|too_many| {
            self.metrics.call_limited();
            self.known.denials.note(&name, access.rpc.name(), "one too many");
            match access.caller {
                Caller::Known(_) => one_too_many(Reason::IdentityLimited, &name, too_many),
                Caller::Anybody => one_too_many(Reason::AddressLimited, &name, too_many),
            }
        })
    }

    /// Answers as if there were no such transaction, if it is another one's.
    pub(super) async fn check_own(
        &self,
        access: &Access,
        key: &Key,
        by: Instant,
    ) -> Result<(), Status> {
        if access.all {
            return Ok(());
        }
        match self.engine.look(key.clone(), by).await.map_err(from_engine)? {
            Answer::View(view) if access.sees(&view) => Ok(()),
            Answer::View(_) => {
                self.note_denied(access, "of another one", Some(key));
                Err(from_engine(match key {
                    Key::Tx(_) => engine::Error::NeverSeen,
                    Key::Gid(_) => engine::Error::UnknownGid,
                }))
            }
            Answer::NotYet(_) => Err(from_engine(engine::Error::StoreSilent)),
        }
    }

    /// The same for a gid that may be new.
    pub(super) async fn check_own_or_new(
        &self,
        access: &Access,
        key: &Key,
        by: Instant,
    ) -> Result<(), Status> {
        if access.all {
            return Ok(());
        }
        match self.engine.look(key.clone(), by).await {
            Err(engine::Error::UnknownGid) => Ok(()),
            _ => self.check_own(access, key, by).await,
        }
    }

    /// Tells whether a call is an operator's act, and not an initiator's own. Without identities nobody can tell. What
    /// nobody has begun yet another initiator may begin before the call is carried out.
    pub(super) async fn is_operators(&self, access: &Access, key: &Key, by: Instant) -> bool {
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
    pub(super) async fn began(
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
    pub(super) fn check_list(&self, access: &Access, filter: &mut Filter) -> Result<bool, Status> {
        let of_own = filter.participant.as_ref().is_some_and(|name| access.is(name));
        filter.confined = !access.all;
        if access.all || of_own {
            return Ok(of_own);
        }
        let name = access.caller.name();
        if !access.caller.has_any(&[Role::Initiator]) {
            self.note_denied(access, "without its own name as the filter", None);
            return Err(denied(format!("{name} may list by its own names as a participant alone")));
        }
        filter.initiator = Some(name.to_owned());
        Ok(false)
    }

    /// Refuses a participant's call under a name that is not its own.
    pub(super) fn check_speaks_for(
        &self,
        access: &Access,
        participant: &ParticipantName,
    ) -> Result<(), Status> {
        if access.caller.is(participant) {
            return Ok(());
        }
        self.note_denied(access, "in another one's name", None);
        let name = access.caller.name();
        Err(denied(format!("{name} may not speak for the participant {participant}")))
    }
}

impl Access {
    /// Tells whether the caller is an operator. Without identities anybody is.
    pub(super) fn is_operator(&self) -> bool {
        self.caller.has_any(&[Role::Operator])
    }

    /// Refuses a request that was not admitted as this rpc, such as one of a server without that layer.
    pub(super) fn check<T>(rpc: Rpc, request: &Request<T>) -> Result<(), Status> {
        match request.extensions().get::<Self>() {
            Some(access) if access.rpc == rpc => Ok(()),
            _ => Err(unauthenticated("nobody has asked who calls")),
        }
    }

    /// Returns that of a request.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let access = request.extensions().get::<Self>().cloned();
        access.expect("every call is admitted before its handler runs")
    }

    /// Returns the name of its identity.
    pub(super) fn name(&self) -> &str {
        self.caller.name()
    }

    /// Returns the names of its identity's roles.
    pub(super) fn roles(&self) -> String {
        self.caller.roles()
    }

    /// Returns the name of the rpc.
    pub(super) fn rpc_name(&self) -> &'static str {
        self.rpc.name()
    }

    /// Returns the address from which it came; empty if nobody knows.
    pub(super) fn address(&self) -> String {
        self.from.map(|from| from.to_string()).unwrap_or_default()
    }

    /// Returns the name that is stored with what this call begins.
    pub(super) fn initiator(&self) -> String {
        self.caller.name().to_owned()
    }

    /// Tells whether it is for any transaction.
    pub(super) fn is_of_all(&self) -> bool {
        self.all
    }

    /// Tells whether the caller is this participant, by its identity or because there are none.
    pub(super) fn is(&self, participant: &ParticipantName) -> bool {
        self.caller.is(participant)
    }

    /// Returns the name of the operator that is stored with an act: the identity's, whatever was said.
    pub(super) fn operator(&self, said: String) -> String {
        match &self.caller {
            Caller::Anybody => said,
            Caller::Known(identity) => identity.name.clone(),
        }
    }

    /// Tells whether a transaction of this initiator may be seen.
    fn began(&self, initiator: &str) -> bool {
        self.all || self.caller.began(initiator)
    }

    /// Tells whether all of a transaction may be seen, or, where participants may look, a branch of it.
    fn sees(&self, view: &View) -> bool {
        let has_branch = || {
            let mut branches = view.tx.branches().iter();
            branches.any(|branch| self.caller.is(&branch.spec.participant))
        };
        self.began(initiator(view)) || (self.rpc == Rpc::GetTransaction && has_branch())
    }

    /// Tells whether all of this transaction may be seen.
    pub(super) fn sees_all(&self, view: &View) -> bool {
        self.began(initiator(view))
    }
}

/// Returns the address of the other end, with TLS or without.
fn address(of: &Extensions) -> Option<SocketAddr> {
    let of_tls = of.get::<Peer>().and_then(|peer| peer.address);
    of_tls.or_else(|| of.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr))
}

fn initiator(view: &View) -> &str {
    &view.tx.identity().initiator
}

fn refused(unknown: Unknown) -> Status {
    match unknown.is_passing() {
        true => issuer_unavailable(why(unknown)),
        false => unauthenticated(why(unknown)),
    }
}

fn why(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::Nothing => "the call has neither a token nor a certificate",
        Unknown::Token => "the token is not known",
        Unknown::Issued(bad) => bad.why(),
        Unknown::Nobody => "the token's claim is of no identity, or of several",
        Unknown::Certificate => "no name in the certificate is known",
    }
}
