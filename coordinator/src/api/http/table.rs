//! Addresses of the rpcs over HTTP.
//!
//! A transaction is `transactions/{gid}` by its client's name, and `tx/{tx_id}` by the coordinator's. A colon that is no
//! part of a name is followed by an act.

use http::Method;

use crate::api::rpc::Rpc;

/// Address of an rpc.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) rpc: Rpc,
    /// The fields of the request are in the query, and not in a body.
    pub(super) by_query: bool,
    /// Template of the path. `{field}` is the value of that field of the request.
    pub(super) path: &'static str,
}

impl Route {
    pub(super) fn method(&self) -> Method {
        if self.by_query { Method::GET } else { Method::POST }
    }

    /// Returns the fields that are in the path.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
    }
}

macro_rules! routes {
    ($($rpc:ident: $method:ident $path:literal;)*) => {
        /// Every address.
        pub(super) const ROUTES: &[Route] = &[$(Route {
            rpc: Rpc::$rpc,
            by_query: routes!(@$method),
            path: $path,
        },)*];
    };
    (@GET) => { true };
    (@POST) => { false };
}

routes! {
    SubmitTransaction: POST "/v1/transactions";
    ListTransactions: GET "/v1/transactions";
    BeginTransaction: POST "/v1/transactions:begin";
    GetTransaction: GET "/v1/transactions/{gid}";
    GetTransaction: GET "/v1/tx/{tx_id}";
    WatchTransaction: GET "/v1/transactions/{gid}:watch";
    WatchTransaction: GET "/v1/tx/{tx_id}:watch";
    WatchTransactions: GET "/v1/transactions:watch";
    ExportTransaction: GET "/v1/transactions/{gid}:export";
    ExportTransaction: GET "/v1/tx/{tx_id}:export";
    RollbackTransaction: POST "/v1/transactions/{gid}:rollback";
    RollbackTransaction: POST "/v1/tx/{tx_id}:rollback";
    CommitTransaction: POST "/v1/tx/{tx_id}:commit";
    ExecuteBranch: POST "/v1/tx/{tx_id}/branches:execute";
    EnlistBranch: POST "/v1/tx/{tx_id}/branches:enlist";
    RetryTransaction: POST "/v1/tx/{tx_id}:retry";
    ResolveBranch: POST "/v1/tx/{tx_id}/branches/{branch_id}:resolve";
    ForgetTransaction: POST "/v1/tx/{tx_id}:forget";
    InquireBranches: POST "/v1/branches:inquire";
    ListAudit: GET "/v1/audit";
    ListWebhooks: GET "/v1/webhooks";
    RedeliverEvents: POST "/v1/webhooks/{webhook}:redeliver";
    TestWebhook: POST "/v1/webhooks/{webhook}:test";
    ListDeadLetters: GET "/v1/dead-letters";
    ListParticipants: GET "/v1/participants";
    RegisterEndpoint: POST "/v1/participants/{participant}:register";
    DeregisterEndpoint: POST "/v1/participants/{participant}:deregister";
    GetServerInfo: GET "/v1/server";
    GetStatistics: GET "/v1/statistics";
}

/// Address that was found, with the texts of the fields in its path.
pub(super) type Found = (&'static Route, Vec<(&'static str, String)>);

/// Returns the address of this method and path, or the methods of the path if it has others; none if nothing is there.
pub(super) fn find(method: &Method, path: &str) -> Result<Found, Vec<Method>> {
    let of_path = ROUTES.iter().filter_map(|route| Some((route, texts(route.path, path)?)));
    let mut others = Vec::new();
    for (route, texts) in of_path {
        if route.method() == *method {
            return Ok((route, texts));
        }
        others.push(route.method());
    }
    Err(others)
}

/// Returns the texts of the fields of a template in a path, if it is one of that template.
fn texts(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    let (mut templates, mut parts) = (template.split('/'), path.split('/'));
    loop {
        let (template, part) = match (templates.next(), parts.next()) {
            (None, None) => return Some(found),
            (template, part) => (template?, part?),
        };
        let Some((field, act)) = template.strip_prefix('{').and_then(|rest| rest.split_once('}'))
        else {
            if template != part {
                return None;
            }
            continue;
        };
        let name = part.strip_suffix(act)?;
        // In a name a colon is encoded.
        if name.is_empty() || name.contains(':') {
            return None;
        }
        found.push((field, decoded(name)?));
    }
}

/// Decodes a text of an address.
pub(super) fn decoded(text: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rpc_has_an_address() {
        let all: BTreeSet<_> = Rpc::ALL.iter().map(|(_, rpc)| rpc.name()).collect();
        let routed: BTreeSet<_> = ROUTES.iter().map(|route| route.rpc.name()).collect();
        assert_eq!(routed, all, "api/http/table.rs");
    }

    #[test]
    fn addresses_are_told_apart() {
        for (method, path, expected) in [
            (Method::GET, "/v1/transactions", "ListTransactions"),
            (Method::POST, "/v1/transactions", "SubmitTransaction"),
            (Method::GET, "/v1/transactions/a%3Ab", "GetTransaction a:b"),
            (Method::GET, "/v1/transactions/a:watch", "WatchTransaction a"),
            (Method::GET, "/v1/transactions:watch", "WatchTransactions"),
            (Method::GET, "/v1/transactions/a%3Awatch", "GetTransaction a:watch"),
            (Method::POST, "/v1/tx/t/branches/b:resolve", "ResolveBranch t b"),
            (Method::POST, "/v1/tx/t:commit", "CommitTransaction t"),
            (Method::GET, "/v1/tx/t:commit", "[POST]"),
            (Method::DELETE, "/v1/transactions", "[POST, GET]"),
            (Method::GET, "/v1/transactions/", "[]"),
            (Method::GET, "/v1/transactions/a:nothing", "[]"),
            (Method::GET, "/v1/transactions/a/b", "[]"),
            (Method::GET, "/v1/transactions/%ff", "[]"),
            (Method::GET, "/v1", "[]"),
        ] {
            let found = match find(&method, path) {
                Ok((route, texts)) => {
                    let texts: Vec<_> = texts.into_iter().map(|(_, text)| text).collect();
                    [vec![route.rpc.name().to_owned()], texts].concat().join(" ")
                }
                Err(methods) => format!("{methods:?}"),
            };
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
