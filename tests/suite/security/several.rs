//! Callers who show more than one name, or more than one token: which of them is meant nobody guesses.

use std::fs;
use std::net::Ipv4Addr;

use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};
use unanimo_coordinator::Config;
use unanimo_proto::v1::GetServerInfoRequest;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;

use super::roles::File;
use super::{Authority, Valid, ask, channel, guarded, setting};
use crate::coordinator::http::http_call;
use crate::coordinator::{World, config, sqlite_url};

/// A certificate with names of two identities is nobody's, in whichever order it has them.
#[tokio::test]
async fn a_certificate_of_several_identities_is_nobodys() {
    let authority = Authority::new();
    let file = authority.folder.join("identities.toml");
    let entry = |name: &str, role: &str, subjects: &[&str]| {
        format!("[[identity]]\nname = \"{name}\"\nroles = [\"{role}\"]\nsubjects = {subjects:?}\n")
    };
    let (uri, other) = ("spiffe://shop.example/web", "spiffe://shop.example/ann");
    let web = entry("web", "initiator", &[uri, "web.shop.example"]);
    let ann = entry("ann", "operator", &[other, "ann.shop.example"]);
    fs::write(&file, format!("{web}{ann}")).unwrap();
    let config = Config { identities: setting(&file), ..guarded(&authority) };
    let world = World::start(config).await;
    let url = format!("https://{}", world.running.grpc_address().unwrap());
    let asked = async |names: &[&str]| {
        let (cert, key) = authority.sign(names, Valid::Now);
        ask(channel(&url, authority.trusting().identity(cert, key))).await
    };
    for names in [&[uri][..], &[uri, "web.shop.example"], &[uri, "node-7"], &["ann.shop.example"]] {
        asked(names).await.unwrap_or_else(|error| panic!("{names:?}: {error}"));
    }
    for names in [
        &[uri, "ann.shop.example"][..],
        &["ann.shop.example", uri],
        &[uri, other],
        &[other, uri],
        &["web.shop.example", "ann.shop.example"],
    ] {
        let error = asked(names).await.expect_err("two identities");
        assert!(error.contains("or they are of several identities"), "{names:?}: {error}");
    }
}

/// A call with two tokens is nobody's, over gRPC, over HTTP, and on the pages: a proxy may have looked at the other one.
#[tokio::test]
async fn a_call_with_two_tokens_is_nobodys() {
    const VIEWER: usize = 5;
    let file = File::new();
    let of_file = || {
        let mut config = config(&sqlite_url());
        config.identities = file.setting();
        config
    };
    let world = World::start(of_file()).await;
    // Where others reach them, the metrics need an identity, too.
    let mut reached = Config { insecure: true, ..of_file() };
    reached.admin_listen = ([0, 0, 0, 0], 0).into();
    let reached = World::start(reached).await;
    let good = format!("Bearer {}", file.token(VIEWER));
    let cases = [
        (vec![good.clone()], true),
        (vec![good.clone(), good.clone()], false),
        (vec![good.clone(), "Bearer x".to_owned()], false),
        (vec!["Bearer x".to_owned(), good.clone()], false),
        (vec![format!("{good}, Bearer x")], false),
    ];
    let http = |world: &World| {
        let port = world.running.admin_address().unwrap().port();
        (Ipv4Addr::LOCALHOST, port).into()
    };
    for (shown, is_known) in cases {
        let headers: Vec<_> = shown.iter().map(|one| ("authorization", one.as_str())).collect();
        for (world, path) in [(&world, "/v1/server"), (&world, "/"), (&reached, "/metrics")] {
            let reply = http_call(http(world), "GET", path, &headers, b"").await;
            assert_eq!(reply.code == 200, is_known, "{path}, {shown:?}: {reply:?}");
        }
        let tokens = shown.clone();
        let sign = move |mut request: Request<()>| {
            for token in &tokens {
                request.metadata_mut().append("authorization", token.parse().unwrap());
            }
            Ok::<_, Status>(request)
        };
        let link = InterceptedService::new(world.channel.clone(), sign);
        let mut client = CoordinatorServiceClient::new(link);
        let asked = client.get_server_info(GetServerInfoRequest::default()).await;
        let code = asked.map_or_else(|status| status.code(), |_| Code::Ok);
        let expected = if is_known { Code::Ok } else { Code::Unauthenticated };
        assert_eq!(code, expected, "{shown:?}");
    }
}
