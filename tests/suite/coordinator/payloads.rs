//! Payloads and outputs keep their media types, on the way and in the store.

use unanimo_proto::v1::{Mode, Payload, WaitFor};
use unanimo_tests::postgres::Server;

use super::{World, config, sqlite_url, tcc};

#[tokio::test]
async fn media_types_reach_participants_and_survive_a_restart() {
    for url in [sqlite_url(), Server::shared().database().await] {
        let world = World::start(config(&url)).await;
        let json = Payload { data: "{}".into(), media_type: "application/json".into() };
        let text = Payload { data: "o".into(), media_type: "text/plain".into() };
        let mut request = tcc("g", &["typed", "ok"]);
        request.branches[0].payload = Some(json.clone());
        // An absent payload and an empty one are the same.
        request.branches[1].payload = Some(Payload::default());
        request.wait_for = WaitFor::Ended.into();
        request.include_outputs = true;
        let result = world.submit(request.clone()).await.unwrap();
        assert_eq!(result.branches[0].output.as_ref(), Some(&text));
        assert_eq!(result.branches[1].output, None);
        let types: Vec<_> =
            world.p.seen().into_iter().filter(|seen| seen.branch_id == "a").collect();
        let types: Vec<_> = types.iter().map(|seen| (seen.operation, &seen.media_types)).collect();
        let of = |payload: &str, output: &str| [payload.to_owned(), output.to_owned()];
        let at_prepare = of("application/json", "");
        let at_commit = of("application/json", "text/plain");
        assert_eq!(types, [("prepare", &at_prepare), ("commit", &at_commit)]);

        let world = world.crash_and_restart().await;
        let shown = world.get("g").await;
        assert_eq!(shown.branches[0].payload, Some(json));
        assert_eq!(shown.branches[0].output, Some(text));
        assert_eq!(shown.branches[1].payload, None);
        assert!(shown.branches.iter().all(|branch| branch.mode() == Mode::Tcc));

        // The type is part of what makes two requests the same (S9), an empty payload is not.
        request.branches[1].payload = None;
        assert_eq!(world.submit(request.clone()).await.unwrap().tx_id, result.tx_id);
        request.branches[0].payload.as_mut().unwrap().media_type = "text/json".into();
        let status = world.submit(request).await.unwrap_err();
        assert_eq!(super::describe(&status).1, "GID_REUSED");
    }
}
