//! Answers to a caller of a namespace: names without it.

use unanimo_core::Namespace;
use unanimo_proto::v1;

use super::local;

/// Answer of an rpc, in which a caller of a namespace is told the names of it as it knows them. Every answer has to say
/// which names are in it.
pub(in crate::api) trait Told {
    /// Takes the namespace off its names.
    fn take_off(&mut self, namespace: &Namespace);
}

/// Takes the namespace off a name.
fn take_off(name: &mut String, namespace: &Namespace) {
    if let Some(name_in_it) = local(namespace, name) {
        *name = name_in_it.to_owned();
    }
}

macro_rules! told {
    ($($message:ident: $($field:ident)*;)*) => {
        $(impl Told for v1::$message {
            fn take_off(&mut self, namespace: &Namespace) {
                // Some have none.
                let _ = namespace;
                $(self.$field.take_off(namespace);)*
            }
        })*
    };
}

// Fields that are names, or have some. Texts that people read have names without a namespace from the beginning, and so
// has the context that participants get.
told! {
    SubmitTransactionResponse: ;
    BeginTransactionResponse: ;
    ExecuteBranchResponse: ;
    EnlistBranchResponse: ;
    CommitTransactionResponse: ;
    RollbackTransactionResponse: ;
    GetTransactionResponse: transaction;
    ListTransactionsResponse: transactions;
    WatchTransactionResponse: transaction;
    // The history is told as it was recorded: whoever replays it gets the same.
    ExportTransactionResponse: ;
    InquireBranchesResponse: ;
    GetServerInfoResponse: ;
    RegisterEndpointResponse: ;
    DeregisterEndpointResponse: ;
    ListParticipantsResponse: participants next_page_token;
    RetryTransactionResponse: transaction;
    ResolveBranchResponse: transaction;
    ForgetTransactionResponse: transaction;
    ListAuditResponse: entries;
    // Webhooks and what they sent are for callers without a namespace alone.
    ListWebhooksResponse: ;
    ListDeadLettersResponse: ;
    RedeliverEventsResponse: ;
    TestWebhookResponse: ;
    GetStatisticsResponse: ;
    Transaction: gid branches locks;
    Branch: participant child_gid;
    HeldLock: name holder_gid;
    Participant: name;
    AuditEntry: identity gid;
    TransactionEvent: gid initiator participants;
}

impl Told for String {
    fn take_off(&mut self, namespace: &Namespace) {
        take_off(self, namespace);
    }
}

impl<T: Told> Told for Option<T> {
    fn take_off(&mut self, namespace: &Namespace) {
        self.iter_mut().for_each(|told| told.take_off(namespace));
    }
}

impl<T: Told> Told for Vec<T> {
    fn take_off(&mut self, namespace: &Namespace) {
        self.iter_mut().for_each(|told| told.take_off(namespace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_without_the_callers_namespace() {
        let tenant = Namespace::new("tenant-a").expect("a namespace");
        let inside = |name: &str| format!("tenant-a/{name}");
        let branch = v1::Branch {
            participant: inside("bank"),
            child_gid: inside("g.c"),
            // What a participant said is not ours.
            heuristic_note: inside("note"),
            ..Default::default()
        };
        let coordinator = v1::Branch { participant: "unanimo".to_owned(), ..Default::default() };
        let lock =
            v1::HeldLock { name: inside("stock"), holder_gid: inside("h"), ..Default::default() };
        let mut told = v1::GetTransactionResponse {
            transaction: Some(v1::Transaction {
                gid: inside("g"),
                branches: vec![branch, coordinator],
                locks: vec![lock],
                ..Default::default()
            }),
        };
        told.take_off(&tenant);
        let tx = told.transaction.expect("it");
        let names = [&tx.gid, &tx.branches[0].participant, &tx.branches[0].child_gid];
        assert_eq!(names, ["g", "bank", "g.c"]);
        assert_eq!((&*tx.locks[0].name, &*tx.locks[0].holder_gid), ("stock", "h"));
        assert_eq!(tx.branches[0].heuristic_note, "tenant-a/note");
        assert_eq!(tx.branches[1].participant, "unanimo");
        let mut event = v1::TransactionEvent {
            gid: inside("g"),
            initiator: inside("web"),
            participants: vec![inside("bank"), "tenant-b/bank".to_owned()],
            ..Default::default()
        };
        event.take_off(&tenant);
        assert_eq!((&*event.gid, &*event.initiator), ("g", "web"));
        assert_eq!(event.participants, ["bank", "tenant-b/bank"]);
    }
}
