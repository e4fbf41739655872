//! Branches as the core's types, with the children that some of them are.

use prost::Message;
use tonic::Status;
use unanimo_core::{
    ActionName, BranchId, BranchNumber, BranchRequest, BranchSpec, Definition, Drive, Limits, Mode,
    Parent, Payload, Timestamp, TraceContext, TxId, Violation,
};
use unanimo_proto::v1;
use uuid::Uuid;

use super::super::error::{invalid, other_mode};
use super::super::namespace::Names;
use super::{bad_mode, duration, mode, named, step};
use crate::participants::own;
use crate::wire;

/// Media type of the payload of a branch that is a child.
const CHILD_MEDIA_TYPE: &str = "application/x-protobuf";

/// Circumstances under which a request is read.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct Reading<'a> {
    /// The time of day.
    pub(in crate::api) now: Timestamp,
    pub(in crate::api) limits: &'a Limits,
    /// Number of transactions around this one.
    pub(in crate::api) depth: usize,
    /// Names that the caller may write.
    pub(in crate::api) names: Names<'a>,
}

/// A branch that was read, and the child that it is.
#[derive(Debug)]
pub(in crate::api) struct Read {
    pub(in crate::api) branch: BranchRequest,
    pub(in crate::api) child: Option<Definition>,
}

/// Branches of a transaction, and those of them that are children.
type Branches = (Vec<BranchSpec>, Vec<(usize, Definition)>);

/// Reads the branches of a transaction of this mode; `field` is the path of their list.
pub(super) fn all(
    field: &str,
    specs: Vec<v1::BranchSpec>,
    of_transaction: Mode,
    reading: Reading<'_>,
) -> Result<Branches, Status> {
    step::check_count(field, "branches", specs.len(), reading.limits.branches_max)?;
    let mut branches = Vec::with_capacity(specs.len());
    let mut children = Vec::new();
    for (index, spec) in specs.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        let number = BranchNumber::from_index(index);
        let Read { branch, child } = one(&field, spec, number, reading)?;
        let own = branch.mode.unwrap_or(of_transaction);
        if own != of_transaction && of_transaction != Mode::Saga && child.is_none() {
            return Err(other_mode(&format!("{field}.mode"), of_transaction));
        }
        branches.push(branch.in_mode(of_transaction));
        children.extend(child.map(|child| (index, child)));
    }
    Ok((branches, children))
}

/// Reads a branch.
pub(super) fn one(
    field: &str,
    spec: v1::BranchSpec,
    number: BranchNumber,
    reading: Reading<'_>,
) -> Result<Read, Status> {
    let step = step::spec(field, &spec, reading)?;
    let at = |name: &str| format!("{field}.{name}");
    let branch_id = named(&at("branch_id"), BranchId::new(&spec.branch_id)).map_err(invalid)?;
    let own_mode = mode(&at("mode"), spec.mode)?;
    if let Some(child) = &spec.child {
        nothing_but_a_child(&at, &spec, own_mode)?;
        let payload =
            Payload { data: child.encode_to_vec().into(), media_type: CHILD_MEDIA_TYPE.to_owned() };
        let child = spec.child.map(|child| self::child(&at("child"), child, number, reading));
        // Its decision is the transaction's: it is told of COMMIT, too.
        let mode = Some(Mode::Tcc);
        let (participant, action) = (own::name(), own::action());
        let branch = BranchRequest { branch_id, participant, action, payload, mode, step };
        return Ok(Read { branch, child: child.transpose()? });
    }
    if spec.participant == own::NAME {
        let rule = "must not be unanimo: a transaction in the place of a participant is a `child`";
        return Err(invalid(Violation::new(at("participant"), rule)));
    }
    let checked = || {
        Ok(BranchRequest {
            branch_id,
            participant: named(&at("participant"), reading.names.participant(&spec.participant))?,
            action: named(&at("action"), ActionName::new(&spec.action))?,
            payload: spec.payload.map(wire::payload_from_wire).unwrap_or_default(),
            mode: own_mode,
            step,
        })
    };
    Ok(Read { branch: checked().map_err(invalid)?, child: None })
}

/// Refuses fields that speak of a participant beside a child.
fn nothing_but_a_child(
    at: &impl Fn(&str) -> String,
    spec: &v1::BranchSpec,
    mode: Option<Mode>,
) -> Result<(), Status> {
    let fields = [
        ("participant", spec.participant.is_empty(), "empty"),
        ("action", spec.action.is_empty(), "empty"),
        ("payload", spec.payload.is_none(), "absent"),
        ("mode", mode.is_none(), "unspecified"),
    ];
    match fields.into_iter().find(|(_, fits, _)| !fits) {
        None => Ok(()),
        Some((name, _, must_be)) => {
            let rule = format!("must be {must_be}: the branch is a child");
            Err(invalid(Violation::new(at(name), rule)))
        }
    }
}

/// Reads a child of a transaction that is not known here: it has the name, the parent and the rest of
/// what it inherits only once it begins.
fn child(
    field: &str,
    child: v1::ChildTransaction,
    number: BranchNumber,
    reading: Reading<'_>,
) -> Result<Definition, Status> {
    let depth = reading.depth + 1;
    // Each level is encoded into the one above: a deep one would be as much work as many large ones.
    if depth > reading.limits.children_depth_max {
        let rule = format!("must stand at most {} deep", reading.limits.children_depth_max);
        return Err(invalid(Violation::new(field, rule)));
    }
    let at = |name: &str| format!("{field}.{name}");
    let v1::ChildTransaction { mode: own, branches, timeout, locks } = child;
    let own = mode(&at("mode"), own)?.ok_or_else(|| bad_mode(&at("mode")))?;
    let reading = Reading { depth, ..reading };
    let (branches, children) = all(&at("branches"), branches, own, reading)?;
    let unknown = TxId(Uuid::nil());
    Ok(Definition {
        gid: (reading.names.known_gid("child"))
            .map_err(|rule| invalid(Violation::new(field, rule.to_string())))?,
        mode: own,
        drive: Drive::Declarative,
        branches,
        timeout: duration(&at("timeout"), timeout)?,
        start: Default::default(),
        locks: step::locks(&at("locks"), &locks, reading.names)?,
        parent: Some(Parent { tx_id: unknown, number, root: unknown }),
        children,
        metadata: Default::default(),
        trace: TraceContext::default(),
        initiator: String::new(),
    })
}

/// Reads the child that a stored branch is.
pub(in crate::api) fn stored_child(
    payload: &Payload,
    number: BranchNumber,
    reading: Reading<'_>,
) -> Result<Definition, String> {
    let decoded =
        v1::ChildTransaction::decode(&*payload.data).map_err(|error| error.to_string())?;
    // It was read before: only limits that were lowered since can be in its way.
    child("child", decoded, number, reading).map_err(|status| status.message().to_owned())
}
