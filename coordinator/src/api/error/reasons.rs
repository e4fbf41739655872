//! Reasons of refusals, and the statuses made of them. docs/reference/errors.md is made from
//! [`TABLE`].

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_core::Violation;

use super::super::bounds::{MESSAGE_BYTES_MAX, METADATA_BYTES_MAX, bounded, first_fields};
use crate::store::FeedEnds;

/// Domain of every reason.
pub const DOMAIN: &str = "unanimo";

/// When to come back after an overload, or while something is on its way.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Most bad fields that a status's message names.
const LINES_MAX: usize = 4;

/// Effect of a call that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It changed nothing.
    None,
    /// It may have changed something.
    Unknown,
}

impl Effect {
    /// Returns its name, as it stands in the metadata of a refusal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// A reason, as documented.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The reason.
    pub name: &'static str,
    /// The gRPC status code that it comes with.
    pub code: Code,
    /// The same request may succeed when it is sent again.
    pub retryable: bool,
    /// Effect of the call that is answered so.
    pub effect: Effect,
    /// Meaning, and what to do.
    pub help: &'static str,
}

macro_rules! reasons {
    ($($reason:ident = $name:literal, $code:ident, $retry:ident, $effect:ident, $help:literal;)*) => {
        /// Reason for which a request was not served.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::api) enum Reason { $($reason,)* }

        /// Every reason.
        pub const TABLE: &[Described] = &[$(Described {
            name: $name,
            code: Code::$code,
            retryable: reasons!(@$retry),
            effect: Effect::$effect,
            help: $help,
        },)*];

        impl Reason {
            fn described(self) -> &'static Described {
                &TABLE[self as usize]
            }
        }
    };
    (@retry) => { true };
    (@final) => { false };
}

reasons! {
    FieldInvalid = "FIELD_INVALID", InvalidArgument, final, None,
        "A field breaks a rule. `BadRequest` names each field and rule; where there are many, the first ones. Correct the request.";
    ParticipantUnknown = "PARTICIPANT_UNKNOWN", InvalidArgument, final, None,
        "A branch names a participant that never registered and is not configured. `BadRequest` names each such branch. Correct the name, or start the participant.";
    BranchUnknown = "BRANCH_UNKNOWN", InvalidArgument, final, None,
        "The request names a branch that the transaction does not have. `BadRequest` names the field.";
    ModeUnimplemented = "MODE_UNIMPLEMENTED", Unimplemented, final, None,
        "A branch has another mode than its transaction, which is no saga. The message names the field.";
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, final, None,
        "The coordinator has to know who calls, and the call does not show it. Where there is a file of [identities](../security.md#identities), it has no token and no certificate of one; a token that was revoked is not known, either. With `tls-client-ca`, also without identities, it came over HTTP without a certificate.";
    IssuerUnavailable = "ISSUER_UNAVAILABLE", Unavailable, retry, None,
        "The call has a token of the issuer, and nobody can tell yet whether it is good: its key is not among those that were fetched last, and they are fetched anew; or they [cannot be fetched](../security.md#keys-by-url). Nothing of the call was read. Come back after the delay in `RetryInfo`.";
    Denied = "DENIED", PermissionDenied, final, None,
        "The caller's identity may not make this call. It has none of the roles that may, or the call is about another participant or namespace than its own; the message says which. Let whoever keeps the file of [identities](../security.md#identities) give it a role that may, or call as an identity that has one: the [table](../security.md#roles) names the roles of each call, and `roles` in the metadata those of this one, where the identity has none of them. Another initiator's transaction is `NOT_FOUND` instead.";
    FeatureUnsupported = "FEATURE_UNSUPPORTED", Unimplemented, final, None,
        "The request requires a feature that this coordinator does not know; `feature` in the metadata names the first one. Nothing was stored. [Features](features.md) lists those that are known.";
    GidReused = "GID_REUSED", AlreadyExists, final, None,
        "The gid names another transaction: another mode, other branches, or begun the other way. The first request stands: ask for it by GetTransaction, or send the same bytes. For other work choose a new gid. `tx_id` in the metadata names its transaction, and `outcome` is `committed` or `aborted` once that is decided.";
    BranchReused = "BRANCH_REUSED", AlreadyExists, final, None,
        "The branch id names a branch with other content. The first request stands.";
    CommitReused = "COMMIT_REUSED", AlreadyExists, final, None,
        "The transaction waits to commit, and CommitTransaction listed other branches or votes then. The first list stands: send it again to wait with it, or roll back.";
    TransactionClosed = "TRANSACTION_CLOSED", FailedPrecondition, final, None,
        "The transaction is decided, or asked to commit: it takes no more branches. The branch of this call was not enlisted.";
    Decided = "TRANSACTION_DECIDED", FailedPrecondition, final, Unknown,
        "The branch of EnlistBranch is enlisted and counts, and its transaction was decided before the answer: its participant must not be called, and is sent a Cancel. `outcome` and `abort_cause` in the metadata tell the decision. `unlisted` means that CommitTransaction came before this answer, did not list the branch, and so aborted the transaction.";
    NotInteractive = "TRANSACTION_NOT_INTERACTIVE", FailedPrecondition, final, None,
        "The transaction was submitted with all its branches: it takes no others and commits by itself.";
    NothingToResolve = "NOTHING_TO_RESOLVE", FailedPrecondition, final, None,
        "The branch is not owed a commit or cancel, or an operator has resolved it otherwise before: that resolution stays, and the message names it.";
    NothingToForget = "NOTHING_TO_FORGET", FailedPrecondition, final, None,
        "The transaction has not ended, or is not heuristic.";
    StillHeld = "STILL_HELD", FailedPrecondition, final, None,
        "An operator has resolved branches of the transaction, the request says that nobody has looked since (`released` is false), and the participants that the message names may still hold what they had prepared or reserved. Look there, end by hand what is left, and say so: `released` is true then (`--released` of the command line).";
    NoHistory = "NO_HISTORY", FailedPrecondition, final, None,
        "No history of the transaction was recorded: the setting `history` says which transactions have one.";
    ParentDecides = "PARENT_DECIDES", FailedPrecondition, final, None,
        "The transaction is a branch of another one, and has voted: only that one's decision moves it. Commit or roll back the parent.";
    Stripped = "TRANSACTION_STRIPPED", FailedPrecondition, final, None,
        "The transaction has ended and its details were purged; its outcome can still be read.";
    NeverSeen = "TRANSACTION_NEVER_SEEN", NotFound, final, None,
        "No transaction of this tx_id ever reached this database.";
    Purged = "TRANSACTION_PURGED", NotFound, final, None,
        "The transaction of this tx_id ended so long ago that its outcome was deleted.";
    GidUnknown = "GID_UNKNOWN", NotFound, final, None,
        "No transaction has this gid: it was never seen, or was purged after the gid retention, which GetServerInfo tells.";
    RevisionUnknown = "REVISION_UNKNOWN", OutOfRange, final, None,
        "Events behind the revision of WatchTransactions were purged, or there is no such revision: the database is another one, has gone back, or was restored, and other events have followed. `oldest` in the metadata is the revision from which on all events are kept, `last` that of the last one. Begin with `after_revision` = `oldest`, and take into account that events were missed.";
    WebhookUnknown = "WEBHOOK_UNKNOWN", NotFound, final, None,
        "No webhook of this name is configured: the file of the setting `webhooks` has none, or cannot be used since it has changed.";
    OtherCluster = "OTHER_CLUSTER", FailedPrecondition, final, None,
        "The branches of InquireBranches belong to another coordinator group; `cluster_id` in the metadata names the one that was asked. Nothing can be told of them.";
    OtherDatabase = "OTHER_DATABASE", FailedPrecondition, final, None,
        "A process of a participant has another database than those that are alive, by the id beside its barrier, or a copy of it in another place; `database_id` in the metadata is theirs. `both_live` there is `false` for a registration as long as no process with the known one has registered since it came first: they may have died, or be about to move, and then the refusal ends by itself, at the latest after three `keep-alive-interval`s. If that was seen while an EnlistBranch was being stored, `effect` in the metadata is `unknown`, and the message says that the branch counts. All processes of one name must share one database.";
    EndpointNotAllowed = "ENDPOINT_NOT_ALLOWED", PermissionDenied, final, None,
        "No pattern of the coordinator's `endpoint-allow` list matches the endpoint.";
    ParticipantNotYet = "PARTICIPANT_NOT_REGISTERED_YET", Unavailable, retry, None,
        "A branch names a participant that nobody has registered yet, and the coordinator started less than three `keep-alive-interval`s ago. Nothing was stored. Later the same request is answered with PARTICIPANT_UNKNOWN.";
    ParticipantGone = "PARTICIPANT_GONE", Unavailable, retry, None,
        "A branch names a participant that is known and not alive. Nothing was stored.";
    ParticipantFailing = "PARTICIPANT_FAILING", Unavailable, retry, None,
        "A branch names a participant whose last calls have all failed; the message has the last error. Nothing was stored. The coordinator tries the participant from time to time, and takes new work for it after the first answer; now and then such a request is taken as the try.";
    Overloaded = "OVERLOADED", ResourceExhausted, retry, None,
        "Too much is in flight, altogether or with one participant; or as many participants are registered as may be, or a participant has as many endpoints as it may have; or as many streams of events are open as may be, altogether or of this caller; or as many acts of operators or tests of webhooks are under way as may be, or as many calls that wait, or as many of health and reflection, altogether or from one address. Nothing was stored. Come back after the delay in `RetryInfo`.";
    IdentityLimited = "IDENTITY_LIMITED", ResourceExhausted, retry, None,
        "The caller's identity has called more often than `identity-rate`, or has as many calls under way as `identity-calls`, or as [others leave it](../security.md#limits). Nothing of the call was done. Come back after the delay in `RetryInfo`. Others are not affected.";
    NamespaceLimited = "NAMESPACE_LIMITED", ResourceExhausted, retry, None,
        "All identities of the caller's namespace together have called more often than `namespace-rate`, or have as many calls under way as `namespace-calls`. Nothing of the call was read, and nothing was taken of the identity's own share. Come back after the delay in `RetryInfo`. Other namespaces are not affected.";
    AddressLimited = "ADDRESS_LIMITED", ResourceExhausted, retry, None,
        "Callers without an identity have called from this address more often than `address-rate`, or have as many calls under way as `address-calls`. Nothing of the call was read. Come back after the delay in `RetryInfo`. Other addresses are not affected.";
    QuotaReached = "QUOTA_REACHED", ResourceExhausted, retry, None,
        "The caller's identity, or its namespace, has as many transactions open as its [quota](../security.md#quotas) allows, or these hold as many bytes. `quota` in the metadata is `open-transactions` or `open-bytes`, or that of the namespace: `open-transactions-per-namespace` or `open-bytes-per-namespace`; `open` is what is open, and `max` the bound; a participant that joins another one's transaction is told neither. Nothing was stored. A request whose gid is known is answered all the same. Come back after the delay in `RetryInfo`, or once some of them have ended. Others are not affected.";
    QuotaNotCounted = "QUOTA_NOT_COUNTED", Unavailable, retry, None,
        "The caller's identity or its namespace has a [quota](../security.md#quotas), the coordinator has just started, and it was not known within the time of the call what is open. Nothing was stored.";
    Draining = "DRAINING", Unavailable, retry, None,
        "The coordinator is stopping. Nothing was stored.";
    AuditNotWritten = "AUDIT_NOT_WRITTEN", Unavailable, retry, None,
        "The entry of an operator's act cannot be written into the [audit](../security.md#audit), so the act was not carried out. The coordinator's database does not answer.";
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable, retry, Unknown,
        "The coordinator's database does not answer, or did not within the time of the call. What was asked for may or may not have happened; ask again under the same gid or ids.";
    Moving = "TRANSACTION_MOVING", Unavailable, retry, Unknown,
        "The transaction is on its way between owners, or EnlistBranch ran out while the transaction waited for its locks. `owner` in the metadata, where it is known, is the address of the coordinator that has the transaction. A WatchTransaction that ends so goes on from the last revision.";
    Stopped = "STOPPED", Unavailable, retry, Unknown,
        "The coordinator has stopped. What was asked for may or may not have happened; ask again under the same gid or ids. A WatchTransaction that ends so goes on from the last revision.";
    AnswerNotSent = "ANSWER_NOT_SENT", Unavailable, retry, Unknown,
        "Callers have not read as many bytes of answers as may be unread (`live-bytes-max`), so this answer was not sent. What was asked for may or may not have happened; ask again under the same gid or ids, and read the answers.";
    Unreadable = "TRANSACTION_UNREADABLE", Internal, final, None,
        "The transaction is stored in a form that this version of the coordinator cannot read: a later version wrote it, or it is damaged. The message names the column. It may be decided; nothing can be told of it, and nothing is done with it: this call has changed nothing.";
    StoreRefused = "STORE_REFUSED", Internal, final, Unknown,
        "The database refuses to store the transaction. A fault of ours: please report it.";
}

impl Reason {
    pub(super) fn status(self, message: impl std::fmt::Display) -> Status {
        self.status_with(message, &[], &[])
    }

    /// Makes the status. Whatever it is made of, it stays below [`STATUS_BYTES_MAX`](super::super::bounds::STATUS_BYTES_MAX).
    pub(super) fn status_with(
        self,
        message: impl std::fmt::Display,
        violations: &[Violation],
        metadata: &[(&str, String)],
    ) -> Status {
        self.status_after(message, violations, metadata, RETRY_DELAY)
    }

    /// The same, where something was changed before: the reason alone would say that nothing was.
    pub(super) fn status_of_change(
        self,
        message: impl std::fmt::Display,
        metadata: &[(&str, String)],
    ) -> Status {
        self.status_that(Effect::Unknown, message, &[], metadata, RETRY_DELAY)
    }

    /// The same; a call that may be sent again comes back after this delay.
    pub(super) fn status_after(
        self,
        message: impl std::fmt::Display,
        violations: &[Violation],
        metadata: &[(&str, String)],
        delay: Duration,
    ) -> Status {
        self.status_that(self.described().effect, message, violations, metadata, delay)
    }

    fn status_that(
        self,
        effect: Effect,
        message: impl std::fmt::Display,
        violations: &[Violation],
        metadata: &[(&str, String)],
        delay: Duration,
    ) -> Status {
        let Described { name, code, retryable, .. } = *self.described();
        let mut info: HashMap<String, String> = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), bounded(value, METADATA_BYTES_MAX)))
            .collect();
        info.insert("retryable".to_owned(), retryable.to_string());
        info.insert("effect".to_owned(), effect.name().to_owned());
        let fields = first_fields(violations);
        if fields.len() < violations.len() {
            info.insert("violations".to_owned(), violations.len().to_string());
        }
        let mut details = ErrorDetails::with_error_info(name, DOMAIN, info);
        if !fields.is_empty() {
            details.set_bad_request(fields);
        }
        if retryable {
            details.set_retry_info(Some(delay));
        }
        let message = bounded(&message.to_string(), MESSAGE_BYTES_MAX);
        Status::with_error_details(code, message, details)
    }

    /// Makes the status of several bad fields.
    pub(super) fn status_of(self, violations: &[Violation]) -> Status {
        let lines = violations.iter().take(LINES_MAX).map(Violation::to_string);
        let mut message = lines.collect::<Vec<_>>().join("; ");
        if violations.len() > LINES_MAX {
            message = format!("{} fields break rules: {message}; …", violations.len());
        }
        self.status_with(message, violations, &[])
    }
}

/// Refuses to go on from a revision: what comes behind it is not all there.
pub(in crate::api) fn revision_unknown(asked: u64, ends: FeedEnds) -> Status {
    let FeedEnds { purged, last } = ends;
    let message = if asked < purged {
        format!(
            "events behind revision {asked} were purged: all are kept that come behind revision {purged}"
        )
    } else {
        format!(
            "there is no revision {asked}: the last one is {last}, and the database has gone back, or is another one"
        )
    };
    let metadata = [("oldest", purged.to_string()), ("last", last.to_string())];
    Reason::RevisionUnknown.status_with(message, &[], &metadata)
}

/// As many streams of events are read as may be.
pub(in crate::api) fn too_many_streams() -> Status {
    Reason::Overloaded.status("there are as many streams of events, or of one caller, as may be")
}

/// Nobody can tell yet whether a token is good.
pub(in crate::api) fn issuer_unavailable(why: &str) -> Status {
    Reason::IssuerUnavailable.status(why)
}

/// As many calls of health, reflection and unknown paths are under way as may be.
pub(in crate::api) fn too_many_others() -> Status {
    Reason::Overloaded.status(
        "there are as many calls of health, reflection and unknown paths under way, or from one address, as may be",
    )
}

/// As many tests of webhooks are under way as may be.
pub(in crate::api) fn too_many_tests() -> Status {
    Reason::Overloaded.status("as many tests of webhooks are under way as may be: nothing was sent")
}

/// No webhook of this name is configured.
pub(in crate::api) fn no_webhook(name: &str) -> Status {
    let message = format!("no webhook {name} is configured in the file of the setting webhooks");
    Reason::WebhookUnknown.status(message)
}
