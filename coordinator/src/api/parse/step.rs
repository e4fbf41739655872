//! The part of a branch that only sagas have, and locks, as the core's types. Each list is counted
//! before anything of it is read.

use std::time::Duration;

use tonic::Status;
use unanimo_core::{
    BRANCHES_MAX, BranchId, Compensation, InputName, Limits, Lock, LockMode, RetryPolicy,
    StepInput, StepSpec, Timestamp, Violation,
};
use unanimo_proto::v1;

use super::super::error::invalid;
use super::super::namespace::Names;
use super::{Reading, duration, named, time};

/// Time for which a lock is waited for where its request names none.
pub const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// Reads the place and manners of a branch in a saga.
pub(super) fn spec(
    field: &str,
    branch: &v1::BranchSpec,
    reading: Reading<'_>,
) -> Result<StepSpec, Status> {
    if is_plain(branch) {
        return Ok(StepSpec::default());
    }
    let at = |name: &str| format!("{field}.{name}");
    Ok(StepSpec {
        depends_on: depends_on(&at("depends_on"), &branch.depends_on)?,
        inputs: inputs(&at("inputs"), &branch.inputs)?,
        pivot: branch.pivot,
        compensation: compensation(&at("compensation"), branch.compensation)?,
        retry: branch.retry.as_ref().map(|policy| retry(&at("retry"), policy)).transpose()?,
        attempt_timeout: duration(&at("attempt_timeout"), branch.attempt_timeout)?,
        delay: duration(&at("delay"), branch.delay)?,
        start_at: start_at(&at("start_at"), branch.start_at, reading.now, reading.limits)?,
        locks: locks(&at("locks"), &branch.locks, reading.names)?,
    })
}

/// Tells whether the branch says nothing that only a saga has.
fn is_plain(branch: &v1::BranchSpec) -> bool {
    branch.depends_on.is_empty()
        && branch.inputs.is_empty()
        && !branch.pivot
        && branch.compensation == 0
        && branch.retry.is_none()
        && branch.attempt_timeout.is_none()
        && branch.delay.is_none()
        && branch.start_at.is_none()
        && branch.locks.is_empty()
}

/// Refuses a list that no limit allows, before anything of it is read.
pub(super) fn check_count(field: &str, what: &str, found: usize, max: usize) -> Result<(), Status> {
    if found <= BRANCHES_MAX {
        return Ok(());
    }
    let rule = format!("must have at most {max} {what}, has {found}");
    Err(invalid(Violation::new(field, rule)))
}

fn depends_on(field: &str, ids: &[String]) -> Result<Vec<BranchId>, Status> {
    check_count(field, "branches", ids.len(), BRANCHES_MAX)?;
    let read = |(at, id): (usize, &String)| named(&format!("{field}[{at}]"), BranchId::new(id));
    ids.iter().enumerate().map(read).collect::<Result<_, _>>().map_err(invalid)
}

fn inputs(field: &str, inputs: &[v1::StepInput]) -> Result<Vec<StepInput>, Status> {
    check_count(field, "inputs", inputs.len(), BRANCHES_MAX)?;
    let read = |(at, input): (usize, &v1::StepInput)| {
        Ok(StepInput {
            name: named(&format!("{field}[{at}].name"), InputName::new(&input.name))?,
            branch_id: named(&format!("{field}[{at}].branch_id"), BranchId::new(&input.branch_id))?,
        })
    };
    inputs.iter().enumerate().map(read).collect::<Result<_, _>>().map_err(invalid)
}

fn compensation(field: &str, compensation: i32) -> Result<Compensation, Status> {
    match v1::Compensation::try_from(compensation) {
        Ok(v1::Compensation::Unspecified | v1::Compensation::Compensate) => {
            Ok(Compensation::Compensate)
        }
        Ok(v1::Compensation::None) => Ok(Compensation::None),
        Ok(v1::Compensation::Kept) => Ok(Compensation::Kept),
        Err(_) => {
            let rule = "must be COMPENSATION_COMPENSATE, COMPENSATION_NONE or COMPENSATION_KEPT";
            Err(invalid(Violation::new(field, rule)))
        }
    }
}

fn retry(field: &str, policy: &v1::RetryPolicy) -> Result<RetryPolicy, Status> {
    let at = |name: &str| format!("{field}.{name}");
    let v1::RetryPolicy { attempts_max, backoff_min, backoff_max, give_up_after } = *policy;
    Ok(RetryPolicy {
        attempts_max: (attempts_max > 0).then_some(attempts_max),
        backoff_min: duration(&at("backoff_min"), backoff_min)?,
        backoff_max: duration(&at("backoff_max"), backoff_max)?,
        give_up_after: duration(&at("give_up_after"), give_up_after)?,
    })
}

/// Reads a time of a start, which is not too far ahead.
pub(super) fn start_at(
    field: &str,
    at: Option<prost_types::Timestamp>,
    now: Timestamp,
    limits: &Limits,
) -> Result<Option<Timestamp>, Status> {
    let at = time(field, at)?;
    let max = limits.start_delay_max;
    match at {
        Some(at) if at > now.after(max) => {
            let rule = format!("must be at most {} s ahead", max.as_secs());
            Err(invalid(Violation::new(field, rule)))
        }
        at => Ok(at),
    }
}

/// Reads locks.
pub(super) fn locks(
    field: &str,
    locks: &[v1::Lock],
    names: Names<'_>,
) -> Result<Vec<Lock>, Status> {
    check_count(field, "locks", locks.len(), BRANCHES_MAX)?;
    let read = |(at, lock): (usize, &v1::Lock)| {
        let name = names.lock(&lock.name);
        let wait_max = duration(&format!("{field}[{at}].wait_max"), lock.wait_max)?;
        Ok(Lock {
            name: named(&format!("{field}[{at}].name"), name).map_err(invalid)?,
            mode: lock_mode(&format!("{field}[{at}].mode"), lock.mode)?,
            wait_max: wait_max.unwrap_or(LOCK_WAIT_DEFAULT),
        })
    };
    locks.iter().enumerate().map(read).collect()
}

fn lock_mode(field: &str, mode: i32) -> Result<LockMode, Status> {
    match v1::LockMode::try_from(mode) {
        Ok(v1::LockMode::Unspecified | v1::LockMode::Exclusive) => Ok(LockMode::Exclusive),
        Ok(v1::LockMode::Shared) => Ok(LockMode::Shared),
        Err(_) => {
            let rule = "must be LOCK_MODE_EXCLUSIVE or LOCK_MODE_SHARED";
            Err(invalid(Violation::new(field, rule)))
        }
    }
}
