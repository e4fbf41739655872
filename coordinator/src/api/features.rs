//! Features that a request may name in `requires`.
//!
//! A request that names one which this coordinator does not know would mean something else here: it
//! is refused as a whole, before anything of it is looked at.

use tonic::{Request, Status};
use unanimo_core::{FeatureName, Violation};
use unanimo_proto::v1;

use super::error::{invalid, unsupported};

/// Most features that a request may name.
pub const REQUIRES_MAX: usize = 16;

/// A feature, as documented.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The name.
    pub name: &'static str,
    /// The behaviour that a coordinator promises by knowing it.
    pub promise: &'static str,
}

/// Every feature that this coordinator knows. docs/reference/features.md is made from it.
pub const TABLE: &[Described] = &[
    Described {
        name: "two_phase_commit",
        promise: "Transactions of the mode `MODE_TWO_PHASE_COMMIT` are served.",
    },
    Described { name: "tcc", promise: "Transactions of the mode `MODE_TCC` are served." },
    Described {
        name: "saga",
        promise: "Transactions of the mode `MODE_SAGA` are served: order, inputs, a pivot, \
                  compensations, retry policies, and children.",
    },
    Described {
        name: "start_later",
        promise: "`start_at` and `start_delay` of SubmitTransaction are kept: nothing is sent to \
                  any participant before that.",
    },
    Described {
        name: "locks",
        promise: "`locks` of a transaction and of a saga's step are taken before anything is sent \
                  that needs them, and given back when the transaction has ended.",
    },
    Described {
        name: "history",
        promise: "ExportTransaction answers with the recorded history of a transaction, where one \
                  was recorded.",
    },
    Described {
        name: "history_pages",
        promise: "`page_size` and `page_token` of ExportTransaction are kept: a history of any length is \
                  exported page by page.",
    },
    Described {
        name: "wait_for_accepted",
        promise: "`WAIT_FOR_ACCEPTED` is answered as soon as the request is durable, and the \
                  transaction is then driven to its end without the caller.",
    },
    Described {
        name: "rollback_by_gid",
        promise: "RollbackTransaction takes a gid that was never seen: nothing will ever run under \
                  it.",
    },
    Described {
        name: "require_existing",
        promise: "`require_existing` of SubmitTransaction and BeginTransaction is kept: a gid that is \
                  not known is GID_UNKNOWN, and nothing is begun.",
    },
    Described {
        name: "resolve_output",
        promise: "`output` of ResolveBranch is kept, and handed to the steps that read it.",
    },
    Described {
        name: "forget_released",
        promise: "`released` of ForgetTransaction is kept: where it is false, a transaction of which an operator has \
                  resolved a branch is STILL_HELD.",
    },
    Described {
        name: "retry_note",
        promise: "`note` of RetryTransaction is kept, in the history of the transaction and in the audit.",
    },
    Described {
        name: "payload_media_type",
        promise: "The media type of a payload or output is kept and delivered with its bytes.",
    },
];

/// Returns the names of [`TABLE`].
pub(super) fn names() -> Vec<String> {
    TABLE.iter().map(|feature| feature.name.to_owned()).collect()
}

/// A request, and the features that it requires.
pub(super) trait Requires {
    /// Returns the names in `requires`.
    fn requires(&self) -> &[String];
}

macro_rules! requires {
    ($($request:ident),* $(,)?) => {
        $(impl Requires for v1::$request {
            fn requires(&self) -> &[String] {
                &self.requires
            }
        })*
    };
}

requires!(
    SubmitTransactionRequest,
    BeginTransactionRequest,
    ExecuteBranchRequest,
    EnlistBranchRequest,
    CommitTransactionRequest,
    RollbackTransactionRequest,
    GetTransactionRequest,
    ListTransactionsRequest,
    WatchTransactionRequest,
    WatchTransactionsRequest,
    ExportTransactionRequest,
    InquireBranchesRequest,
    RegisterEndpointRequest,
    DeregisterEndpointRequest,
    ListParticipantsRequest,
    RetryTransactionRequest,
    ResolveBranchRequest,
    ForgetTransactionRequest,
    ListAuditRequest,
    ListWebhooksRequest,
    ListDeadLettersRequest,
    RedeliverEventsRequest,
    TestWebhookRequest,
    GetStatisticsRequest,
);

impl Requires for v1::GetServerInfoRequest {
    /// Nothing: its answer says which features there are.
    fn requires(&self) -> &[String] {
        &[]
    }
}

/// Refuses a request that requires a feature which this coordinator does not know.
pub(super) fn check<T: Requires>(request: &Request<T>) -> Result<(), Status> {
    let requires = request.get_ref().requires();
    let at = |index: usize| format!("requires[{index}]");
    if requires.len() > REQUIRES_MAX {
        let rule = format!("would be one more than {REQUIRES_MAX} features");
        return Err(invalid(Violation::new(at(REQUIRES_MAX), rule)));
    }
    for (index, name) in requires.iter().enumerate() {
        FeatureName::new(name)
            .map_err(|rule| invalid(Violation::new(at(index), rule.to_string())))?;
    }
    let is_unknown = |name: &&String| TABLE.iter().all(|feature| feature.name != name.as_str());
    let unknown: Vec<&str> = requires.iter().filter(is_unknown).map(String::as_str).collect();
    if unknown.is_empty() { Ok(()) } else { Err(unsupported(&unknown)) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn features_have_distinct_names_of_the_alphabet() {
        let names: BTreeSet<_> = TABLE.iter().map(|feature| feature.name).collect();
        assert_eq!(names.len(), TABLE.len());
        let requires = self::names();
        let request = v1::GetTransactionRequest { requires, ..Default::default() };
        assert!(check(&Request::new(request)).is_ok());
    }
}
