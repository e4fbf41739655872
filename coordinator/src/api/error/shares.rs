//! Errors of callers that have taken their share.

use std::time::Duration;

use tonic::Status;

use super::Reason;
use crate::engine::OverQuota;
use crate::identity::TooMany;

/// When to come back where a call's end is waited for.
const CALLS_DELAY: Duration = Duration::from_millis(100);

/// When to come back where a transaction's end is waited for.
const QUOTA_DELAY: Duration = Duration::from_secs(1);

/// Makes the error of a call that is one too many of its identity or its namespace, or from its address. It names the
/// limit.
pub(in crate::api) fn one_too_many(reason: Reason, name: &str, too_many: TooMany) -> Status {
    let (of, whose) = match reason {
        Reason::AddressLimited => ("address", name.to_owned()),
        Reason::NamespaceLimited => ("namespace", format!("the namespace {name}")),
        _ => ("identity", name.to_owned()),
    };
    let (message, delay) = match too_many {
        TooMany::Rate(after) => (format!("{whose} calls too often: see {of}-rate"), after),
        TooMany::Calls => {
            (format!("too many calls of {whose} are under way: see {of}-calls"), CALLS_DELAY)
        }
    };
    // A delay of nothing would be no delay.
    reason.status_after(message, &[], &[], delay.max(Duration::from_millis(1)))
}

/// Makes the error of a call whose identity has as many under way that wait as others leave it.
pub(in crate::api) fn too_many_calls_of(name: &str) -> Status {
    let message = format!(
        "so many calls of {name} are under way that one more would be another caller's: see identity-calls"
    );
    Reason::IdentityLimited.status_after(message, &[], &[], CALLS_DELAY)
}

/// Makes the error of a call over HTTP whose identity has as many under way there as others leave it.
pub(in crate::api) fn too_many_turns(name: &str) -> Status {
    let message = format!(
        "so many calls of {name} are under way over HTTP that one more would be another caller's"
    );
    Reason::IdentityLimited.status_after(message, &[], &[], CALLS_DELAY)
}

/// Makes the error of a request for which its identity or its namespace has too much open.
pub(in crate::api) fn over_quota(over: &OverQuota) -> Status {
    let (open, max) = over.numbers();
    let metadata =
        [("quota", over.quota().to_owned()), ("open", open.to_string()), ("max", max.to_string())];
    Reason::QuotaReached.status_after(over, &[], &metadata, QUOTA_DELAY)
}

/// Makes the same error for a caller who is not that identity, nor in that namespace: it learns neither its name nor its numbers.
pub(in crate::api) fn over_quota_of_another(over: &OverQuota) -> Status {
    let quota = over.quota();
    let message = format!("the transaction's initiator has reached its quota of {quota}");
    Reason::QuotaReached.status_after(message, &[], &[("quota", quota.to_owned())], QUOTA_DELAY)
}
