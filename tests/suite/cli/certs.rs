//! The program with TLS, and the certificates that it makes for trying it out.

use std::os::unix::fs::PermissionsExt;

use super::{addresses, new_path, run, serve, sqlite};

/// Commands that `certs dev` prints work.
#[tokio::test]
async fn certificates_for_trying_out_serve_a_coordinator_and_the_commands() {
    let folder = new_path("");
    let certs = folder.display().to_string();
    let made = run(&["certs", "dev", &certs, "--client", "shop"]).await;
    made.check(0);
    assert!(made.err.contains("not for production"), "{}", made.err);
    let file = |name: &str| folder.join(name).display().to_string();
    for name in ["ca-key.pem", "server-key.pem", "shop-key.pem"] {
        let mode = std::fs::metadata(file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    run(&["certs", "dev", &certs]).await.check(1).complains(&["ca.pem", "File exists"]);

    let (cert, key, ca) = (file("server.pem"), file("server-key.pem"), file("ca.pem"));
    let files = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let mut program = serve(&sqlite(&new_path(".db")), &files);
    let (grpc, admin) = addresses(&mut program).await;
    assert!(grpc.starts_with("https://") && admin.starts_with("https://"), "{grpc} {admin}");
    let (shop, shop_key) = (file("shop.pem"), file("shop-key.pem"));
    let list = ["tx", "list", "--endpoint", &grpc];
    let with = |more: &[&str]| {
        let args: Vec<String> = list.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        async move { run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    with(&["--tls-ca", &ca, "--tls-cert", &shop, "--tls-key", &shop_key]).await.check(0);
    with(&["--tls-ca", &ca]).await.check(1).complains(&["hint: ", "--tls-cert and --tls-key"]);
    with(&[]).await.check(1).complains(&["UnknownIssuer", "--tls-ca names the file"]);
    let shouted = grpc.replace("https://", "HTTPS://");
    let mutual = ["--tls-ca", &ca, "--tls-cert", &shop, "--tls-key", &shop_key];
    let over = async |url: &str| {
        let all: Vec<&str> =
            ["tx", "list", "--endpoint", url].iter().chain(&mutual).copied().collect();
        run(&all).await
    };
    over(&shouted).await.check(0);
    let named = [&mutual[..], &["--tls-name", "other.example"]].concat();
    with(&named).await.check(1).complains(&["--tls-name gives the name"]);
    // An authority of the same name.
    let others = new_path("");
    let made = run(&["certs", "dev", &others.display().to_string(), "--json"]).await;
    let told = made.check(0).json();
    for (of, name) in
        [(&told["ca"], "ca"), (&told["server"], "server"), (&told["clients"][0], "client")]
    {
        let [certificate, key] = ["", "-key"].map(|end| others.join(format!("{name}{end}.pem")));
        let expected = serde_json::json!({ "name": name, "certificate": certificate, "key": key });
        assert_eq!(*of, expected, "{told}");
        assert!(certificate.exists() && key.exists(), "{told}");
    }
    let other_ca = others.join("ca.pem").display().to_string();
    with(&["--tls-ca", &other_ca]).await.check(1).complains(&["of another authority"]);
    run(&["tx", "list", "--endpoint", &admin, "--tls-ca", &ca])
        .await
        .check(1)
        .complains(&["the address for health and metrics"]);
    run(&["tx", "list", "--endpoint", &grpc.replace("https://", "http://")])
        .await
        .check(1)
        .complains(&["begins with https://"]);
    let plain = over(&grpc.replace("https://", "http://")).await;
    plain.check(2).complains(&["--tls-*", "--endpoint must be https"]);
    let more = ["--tls-ca", &ca, "--tls-cert", &shop];
    with(&more).await.check(2).complains(&["use --tls-cert or --tls-key alone: give both"]);
    let more = ["--tls-ca", &ca, "--tls-cert", &shop, "--tls-key", &cert];
    with(&more).await.check(2).complains(&["private key", &cert, "has none"]);
}
