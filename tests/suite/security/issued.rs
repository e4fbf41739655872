//! Tokens of an issuer (JWT): signed by real keys, good, bad and replaced.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Status};
use unanimo_coordinator::Config;
use unanimo_coordinator::env::{Env, SystemEnv};
use unanimo_core::{Timestamp, TxId};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::roles::Signing;
use super::setting;
use crate::coordinator::http::http_get;
use crate::coordinator::{World, config, sqlite_url, tcc};

/// Made for these tests, and used nowhere else.
const RSA: &str = include_str!("rsa-2048.pem");

pub(super) const ISSUER: &str = "https://login.example";

/// Key set with a key that is too weak.
const WEAK: &str = r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#;

/// Key of an issuer, of one of the three kinds.
pub(crate) enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn rsa() -> Self {
        let key = PrivatePkcs8KeyDer::from_pem_slice(RSA.as_bytes()).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap())
    }

    fn p256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// Its public half, in a key set.
    pub(crate) fn public(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                let (n, e) = (encoded(public.n), encoded(public.e));
                json!({ "kty": "RSA", "use": "sig", "kid": kid, "n": n, "e": e })
            }
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid, "x": x, "y": y })
            }
            Self::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encoded(key.public_key()) })
            }
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let signature = encoded(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A good token for these claims.
    pub(crate) fn good(&self, kid: &str, claims: &Value) -> String {
        self.token(&json!({ "alg": self.alg(), "kid": kid, "typ": "JWT" }), claims)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Good claims of an initiator.
pub(crate) fn claims() -> Value {
    let (iat, exp) = (now(), now() + 600);
    json!({ "iss": ISSUER, "aud": "unanimo", "sub": "web", "iat": iat, "nbf": iat, "exp": exp })
}

/// The good claims with another value of one of them; without it, if that is null.
pub(super) fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

pub(super) fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Writes identities with claims, and keys.
pub(crate) fn write(keys: &[Value]) -> (PathBuf, PathBuf) {
    let (identities, set) = (new_path(), new_path());
    let entry = |name: &str, role: &str, claims: &str| {
        format!("[[identity]]\nname = \"{name}\"\nroles = [\"{role}\"]\nclaims = [{claims}]\n")
    };
    let text = entry("web", "initiator", "\"web\"")
        + &entry("batch", "initiator", "\"batch\"")
        + &entry("ann", "operator", "\"ann\", \"night\"");
    fs::write(&identities, text).unwrap();
    fs::write(&set, key_set(keys)).unwrap();
    (identities, set)
}

fn new_path() -> PathBuf {
    run_folder().join(Uuid::new_v4().to_string())
}

/// A coordinator that knows an issuer.
struct Issued {
    world: World,
    set: PathBuf,
}

impl Issued {
    async fn start(keys: &[Value], claim: &str, env: Arc<dyn Env>) -> Self {
        let (identities, set) = write(keys);
        let config = Config {
            identities: setting(&identities),
            jwt_keys: setting(&set),
            jwt_issuer: ISSUER.to_owned(),
            jwt_audience: "unanimo".to_owned(),
            jwt_claim: claim.to_owned(),
            ..config(&sqlite_url())
        };
        Self { world: World::start_at(config, Default::default(), env).await, set }
    }

    async fn of(keys: &[Value]) -> Self {
        Self::start(keys, "sub", Arc::new(SystemEnv)).await
    }

    async fn submit(&self, token: &str, gid: &str) -> Result<(), Status> {
        let header = Signing::bearer(token);
        let mut client = CoordinatorServiceClient::new(InterceptedService::new(
            self.world.channel.clone(),
            header,
        ));
        client.submit_transaction(tcc(gid, &["ok"])).await.map(drop)
    }

    /// Submits with this token, and expects that it is refused, without a word of it in the answer.
    async fn refused(&self, token: &str, why: &str) {
        let status = self.submit(token, "refused").await.expect_err(why);
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, why), "{token}");
        let shown = format!("{status:?}");
        assert!(token.split('.').all(|part| part.len() < 9 || !shown.contains(part)), "{shown}");
    }
}

#[tokio::test]
async fn tokens_of_each_algorithm_are_those_of_their_identity() {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let keys: Vec<_> = signers.iter().map(|signer| signer.public(signer.alg())).collect();
    let issued = Issued::of(&keys).await;
    for signer in &signers {
        let good = |claims: &Value| signer.good(signer.alg(), claims);
        let gid = signer.alg();
        issued.submit(&good(&claims()), gid).await.expect("a good token");
        issued.submit(&good(&with("aud", json!(["x", "unanimo"]))), gid).await.expect("a list");
        let another = issued.submit(&good(&with("sub", json!("batch"))), gid).await.unwrap_err();
        assert_eq!(another.code(), Code::AlreadyExists, "of another initiator: {another}");
        let operator = issued.submit(&good(&with("sub", json!("ann"))), gid).await.unwrap_err();
        assert_eq!(operator.code(), Code::PermissionDenied, "another role: {operator}");
        issued
            .refused(
                &good(&with("sub", json!("eve"))),
                "the token's claim is of no identity, or of several",
            )
            .await;
        // Each algorithm's signature is looked at.
        let token = good(&claims());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[7] ^= 1;
        let forged = format!("{signed}.{}", encoded(bytes));
        issued.refused(&forged, "the token's signature is not good").await;
    }
}

/// A signature by a shared secret that everybody knows: the public key.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    match key.len() {
        0..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

#[tokio::test]
async fn a_token_without_a_good_signature_is_refused_whatever_it_says_of_its_algorithm() {
    let (rsa, other) = (Signer::rsa(), Signer::ed25519());
    let secret = json!({ "kty": "oct", "kid": "secret", "k": encoded("a secret") });
    let issued = Issued::of(&[rsa.public("k"), other.public("o"), secret]).await;
    let claims = encoded(claims().to_string());
    const ALGORITHM: &str = "the token is signed by another algorithm than its key's";
    for alg in ["none", "None", "nOnE", ""] {
        let header = encoded(json!({ "alg": alg, "kid": "k" }).to_string());
        issued.refused(&format!("{header}.{claims}."), ALGORITHM).await;
    }
    // The public key is taken for a secret.
    let n = BASE64_URL_SAFE_NO_PAD.decode(rsa.public("k")["n"].as_str().unwrap()).unwrap();
    for (kid, key, why) in [
        ("k", n.as_slice(), ALGORITHM),
        ("k", RSA.as_bytes(), ALGORITHM),
        ("secret", b"a secret", "the token is signed with a key that is not known"),
    ] {
        let header = encoded(json!({ "alg": "HS256", "kid": kid }).to_string());
        let signed = format!("{header}.{claims}");
        let token = format!("{signed}.{}", encoded(hmac(key, signed.as_bytes())));
        issued.refused(&token, why).await;
    }
    let good = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(&claims).unwrap()).unwrap();
    for (header, why) in [
        (json!({ "alg": "RS384", "kid": "k" }), ALGORITHM),
        (json!({ "alg": "EdDSA", "kid": "k" }), ALGORITHM),
        (json!({ "alg": "RS256", "kid": "o" }), ALGORITHM),
        (json!({ "alg": "RS256", "kid": "x" }), "the token is signed with a key that is not known"),
        (json!({ "alg": "RS256" }), "the token is signed with a key that is not known"),
        (json!({ "alg": "RS256", "kid": "k", "crit": ["b64"] }), "the token is not well formed"),
        (json!({ "kid": "k" }), "the token is not well formed"),
    ] {
        issued.refused(&rsa.token(&header, &good), why).await;
    }
    let token = rsa.good("k", &good);
    for broken in
        [format!("{token}.x"), format!("{token}="), token.replacen('.', "..", 1), ".".into()]
    {
        let status = issued.submit(&broken, "g").await.expect_err("broken");
        assert_eq!(status.code(), Code::Unauthenticated, "{broken}: {status}");
    }
    issued.submit(&token, "g").await.expect("the good one");
}

#[tokio::test]
async fn claims_are_for_this_coordinator_and_for_now() {
    let signer = Signer::ed25519();
    // A set with one key, and tokens that do not name it.
    let issued = Issued::of(&[signer.public("")]).await;
    let token = |claims: &Value| signer.token(&json!({ "alg": "EdDSA" }), claims);
    let (expired, not_yet) = ("the token has expired", "the token is not valid yet");
    let (audience, issuer) =
        ("the token is for another audience", "the token is of another issuer");
    let malformed = "the token is not well formed";
    for (name, value, why) in [
        ("exp", json!(now() - 40), expired),
        ("exp", Value::Null, expired),
        ("exp", json!("4000000000"), malformed),
        ("nbf", json!(now() + 100), not_yet),
        ("iat", json!(now() + 100), not_yet),
        ("aud", json!("another"), audience),
        ("aud", json!(["another", 7]), audience),
        ("aud", json!("unanimo2"), audience),
        ("aud", Value::Null, audience),
        ("iss", json!("https://login.example.evil"), issuer),
        ("iss", json!([ISSUER]), issuer),
        ("iss", Value::Null, issuer),
        ("sub", Value::Null, "the token does not say who calls"),
        ("sub", json!({ "x": "web" }), "the token does not say who calls"),
    ] {
        issued.refused(&token(&with(name, value)), why).await;
    }
    // Within the leeway of 30 s.
    for (name, value) in [("exp", now() - 5), ("nbf", now() + 5), ("iat", now() + 5)] {
        issued
            .submit(&token(&with(name, json!(value))), "g")
            .await
            .expect("a clock is off a little");
    }
    issued.submit(&token(&with("nbf", Value::Null)), "g").await.expect("no beginning");
    issued.submit(&token(&with("exp", json!(now() as f64 + 60.5))), "g").await.expect("a fraction");
}

/// A clock that is off by a time.
#[derive(Debug)]
struct Off(i64);

impl Env for Off {
    fn now(&self) -> Timestamp {
        Timestamp(SystemEnv.now().0.checked_add_signed(self.0 * 1000).unwrap())
    }

    fn tx_id(&self, now: Timestamp) -> TxId {
        SystemEnv.tx_id(now)
    }
}

#[tokio::test]
async fn a_coordinator_whose_clock_is_off_refuses_tokens_that_are_not_of_its_time() {
    let signer = Signer::ed25519();
    for (off, why) in [(-300, "the token is not valid yet"), (3600, "the token has expired")] {
        let issued = Issued::start(&[signer.public("k")], "sub", Arc::new(Off(off))).await;
        issued.refused(&signer.good("k", &claims()), why).await;
    }
}

/// A list, such as of groups, is somebody's if it is one identity's.
#[tokio::test]
async fn a_claim_may_be_a_list() {
    let signer = Signer::ed25519();
    let issued = Issued::start(&[signer.public("k")], "groups", Arc::new(SystemEnv)).await;
    let of = |groups: Value| signer.good("k", &with("groups", groups));
    issued.submit(&of(json!(["staff", "web"])), "g").await.expect("one of them");
    let nobody = "the token's claim is of no identity, or of several";
    for groups in [json!(["web", "batch"]), json!(["staff"])] {
        issued.refused(&of(groups), nobody).await;
    }
    for groups in [json!([]), json!("ann night"), json!([7])] {
        issued.submit(&of(groups), "g").await.expect_err("nobody");
    }
    let status = issued.submit(&of(json!(["ann", "night"])), "g").await.expect_err("an operator");
    assert_eq!(status.code(), Code::PermissionDenied, "two of one identity: {status}");
}

/// The issuer takes a new key while the coordinator runs, and the old one is given up on open connections, too.
#[tokio::test]
async fn keys_are_replaced_while_it_runs_and_bad_ones_change_nothing() {
    let (old, new) = (Signer::ed25519(), Signer::p256());
    let issued = Issued::of(&[old.public("old")]).await;
    let accepted = async |token: &str| issued.submit(token, "g").await.is_ok();
    let (by_old, by_new) = (old.good("old", &claims()), new.good("new", &claims()));
    assert!(accepted(&by_old).await && !accepted(&by_new).await);
    let write = |text: &str| fs::write(&issued.set, text).unwrap();
    write(&key_set(&[old.public("old"), new.public("new")]));
    until("the new key", async || accepted(&by_new).await.then_some(())).await;
    assert!(accepted(&by_old).await, "both");
    write(&key_set(&[new.public("new")]));
    until("the old key to go", async || (!accepted(&by_old).await).then_some(())).await;
    assert!(accepted(&by_new).await);
    let good = fs::read(&issued.set).unwrap();
    let stale = "unanimo_alarms{alarm=\"files_not_used\"} ";
    let alarms = async |number: &str| {
        let expected = format!("{stale}{number}");
        let (_, text) = http_get(&issued.world, "/metrics").await;
        text.lines().any(|line| line == expected).then_some(())
    };
    for bad in ["", "{}", "{\"keys\": [7]}", WEAK] {
        write(bad);
        until("the alarm", async || alarms("1").await).await;
        assert!(accepted(&by_new).await, "the former keys stay: {bad}");
        fs::write(&issued.set, &good).unwrap();
        until("its end", async || alarms("0").await).await;
    }
    write(WEAK);
    let mut config = config(&sqlite_url());
    config.identities = issued.world.config.identities.clone();
    config.jwt_keys = setting(&issued.set);
    (config.jwt_issuer, config.jwt_audience) = (ISSUER.to_owned(), "unanimo".to_owned());
    let error = unanimo_coordinator::Builder::new(config).start().await.expect_err("a weak key");
    assert!(error.to_string().contains("keys[0] is too weak"), "{error}");
}

/// A set of which no key can be used is no bad one: its issuer has revoked what it had.
#[tokio::test]
async fn keys_that_are_revoked_are_accepted_no_more() {
    let signer = Signer::ed25519();
    let issued = Issued::of(&[signer.public("k")]).await;
    let token = signer.good("k", &claims());
    let other = |name: &str, value: Value| {
        let mut key = signer.public("k");
        key[name] = value;
        key
    };
    let passed_over = [
        other("use", json!("enc")),
        other("use", json!(7)),
        other("alg", json!("ECDH-ES")),
        other("kty", json!(7)),
        other("kid", json!(7)),
        json!({ "kty": "oct", "kid": null, "k": encoded("a secret") }),
        json!({ "kty": "RSA", "kid": "k", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB" }),
        json!({ "kty": "RSA", "kid": "k", "use": "enc" }),
        json!({}),
    ];
    for set in [vec![], passed_over.to_vec()] {
        fs::write(&issued.set, key_set(&[signer.public("k")])).unwrap();
        until("the key", async || issued.submit(&token, "g").await.ok()).await;
        fs::write(&issued.set, key_set(&set)).unwrap();
        until("its end", async || issued.submit(&token, "g").await.err()).await;
        issued.refused(&token, "the token is signed with a key that is not known").await;
    }
    // Without a name it is the only key that can be used.
    let unnamed = [&passed_over[..], &[other("kid", Value::Null)]].concat();
    fs::write(&issued.set, key_set(&unnamed)).unwrap();
    let by_only = signer.token(&json!({ "alg": "EdDSA" }), &claims());
    until("the only key", async || issued.submit(&by_only, "g").await.ok()).await;
}
