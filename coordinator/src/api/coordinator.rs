//! The service that initiators call: which method serves which rpc.

use unanimo_proto::v1;
use unanimo_proto::v1::coordinator_service_server::CoordinatorService;

use super::Api;
use super::feed::Following;
use super::rpc::serve;
use super::watch::Watching;

serve! {
    CoordinatorService { type WatchTransactionStream = Watching; type WatchTransactionsStream = Following; }

    submit_transaction:
        SubmitTransaction(v1::SubmitTransactionRequest) -> v1::SubmitTransactionResponse = submit;
    begin_transaction:
        BeginTransaction(v1::BeginTransactionRequest) -> v1::BeginTransactionResponse = begin;
    execute_branch:
        ExecuteBranch(v1::ExecuteBranchRequest) -> v1::ExecuteBranchResponse = execute;
    enlist_branch:
        EnlistBranch(v1::EnlistBranchRequest) -> v1::EnlistBranchResponse = enlist;
    commit_transaction:
        CommitTransaction(v1::CommitTransactionRequest) -> v1::CommitTransactionResponse = commit;
    rollback_transaction:
        RollbackTransaction(v1::RollbackTransactionRequest) -> v1::RollbackTransactionResponse
            = rollback;
    get_transaction:
        GetTransaction(v1::GetTransactionRequest) -> v1::GetTransactionResponse = get;
    list_transactions:
        ListTransactions(v1::ListTransactionsRequest) -> v1::ListTransactionsResponse = list;
    watch_transaction:
        WatchTransaction(v1::WatchTransactionRequest) -> Watching = watch;
    watch_transactions:
        WatchTransactions(v1::WatchTransactionsRequest) -> Following = watch_all;
    export_transaction:
        ExportTransaction(v1::ExportTransactionRequest) -> v1::ExportTransactionResponse = export;
    inquire_branches:
        InquireBranches(v1::InquireBranchesRequest) -> v1::InquireBranchesResponse = inquire;
    get_server_info:
        GetServerInfo(v1::GetServerInfoRequest) -> v1::GetServerInfoResponse = server_info;
}
