//! Access: who calls, whether it may make this call, and whether what it asks for is its own.

mod own;
mod standing;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Status};
use unanimo_core::{Namespace, ParticipantName, Timestamp};
use unanimo_tls::Peer;

pub(super) use self::standing::{Sight, Standing};
use super::Api;
use super::error::{
    Reason, from_engine, issuer_unavailable, no_role, one_too_many, over_quota_of_another,
    too_many_turns, unauthenticated,
};
use super::namespace::Names;
use super::rpc::Rpc;
use super::turns::Turn;
use crate::engine::{self, View};
use crate::identity::{Caller, Known, Place, Role, Unknown, authorization, network_of};

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

/// Tells whether whoever calls may look at all that a process does: an operator or a viewer, without a namespace. Without
/// identities anybody may.
pub(crate) fn sees_the_process(
    known: &Known,
    now: Timestamp,
    header: Option<&[u8]>,
    names: Option<&[String]>,
) -> bool {
    let caller = find(known, now, header, names);
    caller.is_ok_and(|caller| caller.has_any(&OF_ALL) && caller.namespace().is_none())
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
            let status = no_role(&caller, rpc);
            self.note_denied(&access(caller, false), "no role of it may make this call", None);
            return Err(status);
        }
        let all = sees_all(&caller, rpc);
        Ok(access(caller, all))
    }

    /// Finds out who calls.
    fn caller(&self, headers: &HeaderMap, of: &Extensions) -> Result<Caller, Unknown> {
        let names = of.get::<Peer>().and_then(|peer| peer.names.as_deref());
        find(&self.known, self.env.now(), authorization(headers), names)
    }

    /// Returns what is looked at again while a request is answered.
    pub(super) fn standing<T>(&self, rpc: Rpc, request: &Request<T>) -> Standing {
        let header = authorization(request.metadata().as_ref());
        let names = request.extensions().get::<Peer>().and_then(|peer| peer.names.clone());
        Standing {
            known: self.known.clone(),
            env: Arc::clone(&self.env),
            rpc,
            header: header.map(<[u8]>::to_vec),
            names: names.map(|names| names.to_vec()),
        }
    }

    /// Returns the namespace of whoever calls. Nothing is there for one who is not known.
    pub(super) fn namespace_of(
        &self,
        headers: &HeaderMap,
        of: &Extensions,
    ) -> Result<Option<Namespace>, Unknown> {
        Ok(self.caller(headers, of)?.namespace().cloned())
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

    /// Counts the turn of a call over HTTP as its identity's, unless that has so many that others would have none.
    pub(super) fn take_turn(&self, access: &Access, of: &Extensions) -> Result<(), Status> {
        let (Some(turn), Caller::Known(identity)) = (of.get::<Turn>(), &access.caller) else {
            return Ok(());
        };
        if turn.is_of(&identity.name) {
            return Ok(());
        }
        self.metrics.call_limited();
        self.known.denials.note(&identity.name, access.rpc.name(), "one too many over HTTP");
        Err(too_many_turns(&identity.name))
    }

    /// Counts a call of its identity and its namespace, or of its address where it has none, as long as it is not one too
    /// many.
    pub(super) fn take_place(&self, access: &Access) -> Result<[Option<Place>; 2], Status> {
        let (known, rpc) = (&self.known, access.rpc.name());
        let refused = |reason, of: &str, name: &str, too_many| {
            self.metrics.call_limited();
            known.denials.note(of, rpc, "one too many");
            one_too_many(reason, name, too_many)
        };
        let now = Instant::now();
        let identity = match (&access.caller, access.from) {
            (Caller::Known(identity), _) => identity,
            (Caller::Anybody, Some(from)) => {
                let name = network_of(from.ip()).to_string();
                let place = known.addresses.take(&name, now);
                let place =
                    place.map_err(|many| refused(Reason::AddressLimited, &name, &name, many))?;
                return Ok([place, None]);
            }
            (Caller::Anybody, None) => return Ok([None, None]),
        };
        let name = &identity.name;
        let own = known.shares.take(name, now);
        let own = own.map_err(|many| refused(Reason::IdentityLimited, name, name, many))?;
        let Some(namespace) = &identity.namespace else { return Ok([own, None]) };
        match known.namespaces.take(namespace.as_str(), now) {
            Ok(shared) => Ok([own, shared]),
            Err(many) => {
                // What is refused takes nothing of its own share.
                own.into_iter().for_each(Place::untake);
                Err(refused(Reason::NamespaceLimited, name, namespace.as_str(), many))
            }
        }
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

    /// Returns the names of the caller's roles. Without identities anybody has all.
    pub(super) fn role_names(&self) -> Vec<String> {
        let own = Role::ALL.into_iter().filter(|role| self.caller.has_any(&[*role]));
        own.map(|role| role.name().to_owned()).collect()
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
        self.caller.full_name()
    }

    /// Makes the status of an error. Who joins another one's transaction is not told what that one has open.
    pub(super) fn told(&self, error: engine::Error) -> Status {
        match error {
            engine::Error::OverQuota(over) if !over.owner().has(&self.initiator()) => {
                over_quota_of_another(&over)
            }
            error => from_engine(error),
        }
    }

    /// Returns its namespace.
    pub(super) fn namespace(&self) -> Option<&Namespace> {
        self.caller.namespace()
    }

    /// Returns the names that it may write.
    pub(super) fn names(&self) -> Names<'_> {
        let is_of_all = OF_ALL.iter().any(|role| self.rpc.roles().contains(role));
        match is_of_all && self.sees_whole() {
            true => Names::full(),
            false => Names::of(self.namespace()),
        }
    }

    /// Returns the names that it may write of what may be new. Without identities there are no namespaces.
    pub(super) fn names_of_new(&self) -> Names<'_> {
        match self.caller {
            Caller::Anybody => Names::of(None),
            Caller::Known(_) => self.names(),
        }
    }

    /// Returns what it sees of all transactions.
    pub(super) fn sight(&self) -> Sight {
        Sight::of(&self.caller, self.rpc)
    }

    /// Tells whether it sees every namespace, and all of it.
    fn sees_whole(&self) -> bool {
        self.all && self.namespace().is_none()
    }

    /// Tells whether there may be anything for it in this namespace, or in none.
    pub(super) fn reaches(&self, namespace: Option<&Namespace>) -> bool {
        self.sees_whole() || self.namespace() == namespace
    }

    fn has(&self, view: &View) -> bool {
        self.reaches(view.tx.identity().gid.namespace().as_ref())
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
        self.has(view)
            && (self.began(initiator(view)) || (self.rpc == Rpc::GetTransaction && has_branch()))
    }

    /// Tells whether it may read what this transaction holds: it is an operator, or has begun it.
    pub(super) fn reads(&self, view: &View) -> bool {
        self.is_operator() || self.caller.began(initiator(view))
    }

    /// Tells whether all of this transaction may be seen.
    pub(super) fn sees_all(&self, view: &View) -> bool {
        self.has(view) && self.began(initiator(view))
    }
}

/// Returns the address of the other end, with TLS or without.
pub(super) fn address(of: &Extensions) -> Option<SocketAddr> {
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
        Unknown::Certificate => {
            "no name in the certificate is known, or they are of several identities"
        }
    }
}
