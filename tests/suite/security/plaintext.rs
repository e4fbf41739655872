//! Addresses without TLS that other machines can reach. 0.0.0.0 is one, and leads to this machine.

use tonic::Request;
use unanimo_sdk::{Client, Coordinator, Serve};
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::Authority;
use super::roles::File;
use crate::coordinator::World;
use crate::participant::over_tls::bank;
use crate::participant::registration::Lines;

/// Address of a coordinator as one of another machine.
fn far(world: &World) -> String {
    format!("http://0.0.0.0:{}", world.running.grpc_address().unwrap().port())
}

/// A token goes to no such address, whoever adds it, unless the program says that others may read it.
#[tokio::test]
async fn a_token_goes_over_no_network_without_tls() {
    let file = File::new();
    let world = file.world().await;
    let url = far(&world);
    let header: tonic::metadata::MetadataValue<_> =
        format!("Bearer {}", file.token(0)).parse().unwrap();
    let signed = move |mut call: Request<()>| {
        call.metadata_mut().insert("authorization", header.clone());
        Ok(call)
    };
    let path = run_folder().join(Uuid::new_v4().to_string());
    std::fs::write(&path, file.token(0)).unwrap();
    let rule = "a token is sent to it, so it must be https, or this machine's loopback, unless Coordinator::insecure";

    let error = Client::of([Coordinator::at(&url).token_file(&path)]).expect_err("the file's");
    assert!(error.to_string().contains(rule), "{error}");
    let asks = async |client: Client| client.server_info().await.map(drop);
    let client = || Client::of([Coordinator::at(&url)]).unwrap();
    for client in [
        client().intercept(signed.clone()),
        Client::of([Coordinator::at(&url).intercept(signed.clone())]).unwrap(),
    ] {
        let error = asks(client).await.expect_err("an interceptor's").to_string();
        assert!(error.contains(rule) && !error.contains(file.token(0)), "{error}");
    }
    // Nothing has come: the coordinator would know the token.
    let error = asks(client()).await.expect_err("without a token").to_string();
    assert!(error.contains("neither a token nor a certificate"), "{error}");
    let allowed = || Coordinator::at(&url).insecure();
    asks(Client::of([allowed().token_file(&path)]).unwrap()).await.expect("it is allowed");
    asks(Client::of([allowed().intercept(signed)]).unwrap()).await.expect("it is allowed");
}

/// Without a token the log tells it, once for each address.
#[tokio::test]
async fn calls_that_others_can_read_are_told_once() {
    let world = World::sqlite().await;
    let (lines, _guard) = Lines::listen();
    let told = || lines.of("is called without TLS").len();
    let near = format!("http://{}", world.running.grpc_address().unwrap());
    for at in [Coordinator::at(near), Coordinator::at(far(&world)).insecure()] {
        Client::of([at]).unwrap().server_info().await.expect("it is served");
    }
    assert_eq!(told(), 0);
    for _ in 0..3 {
        Client::new(far(&world)).unwrap().server_info().await.expect("it is served");
    }
    let serve = Serve::on("127.0.0.1:0").register_with(far(&world));
    let mut serving = bank().await.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    serving.stop().await.unwrap();
    assert_eq!(told(), 1, "{:?}", lines.of("WARN"));
}

/// A participant at an address that others reach tells what they can do there.
#[tokio::test]
async fn a_participant_tells_what_others_can_do_with_it() {
    let authority = Authority::new();
    let (cert, key) = authority.server();
    let without_ca = unanimo_tls::ServerFiles::new(cert, key);
    let plain = "which has no TLS, and every caller is accepted";
    for (on, tls, insecure, words) in [
        ("127.0.0.1:0", None, false, None),
        ("0.0.0.0:0", None, true, None),
        ("0.0.0.0:0", Some(authority.serves()), false, None),
        (
            "0.0.0.0:0",
            Some(without_ca),
            false,
            Some("and every caller is accepted: whoever reaches it can commit"),
        ),
        ("0.0.0.0:0", None, false, Some(plain)),
    ] {
        let (lines, _guard) = Lines::listen();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut serve = Serve::on(on).advertise(format!("{scheme}://bank:7000")).without_sweep();
        serve = tls.into_iter().fold(serve, Serve::tls);
        let serve = if insecure { serve.insecure() } else { serve };
        let serving = bank().await.serve(serve).await.unwrap();
        let told = lines.of("other machines can reach this address");
        match words {
            None => assert!(told.is_empty(), "{on}: {told:?}"),
            Some(words) => {
                assert!(told.len() == 1 && told[0].contains(words), "{words}: {told:?}");
                assert!(told[0].contains("participant=\"bank\""), "{told:?}");
            }
        }
        serving.stop().await.unwrap();
    }
}
