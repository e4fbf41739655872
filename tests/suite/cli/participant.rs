//! `unanimo participant check` against participants of the SDK, and against broken ones.

use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use sqlx::{MySqlPool, PgPool, SqliteConnection};
use unanimo_conformance::GUARANTEES;
use unanimo_coordinator::identity::Token;
use unanimo_examples::{accounts, tcc, two_phase};
use unanimo_sdk::{
    Accept, Call, Json, MySqlOptions, Participant, PhaseTwoError, Postgres, PostgresOptions,
    PrepareError, Serve, Serving, Sqlite, Tcc, TokioPostgres, refuse,
};
use unanimo_tests::faulty::{Fault, Faulty};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;
use unanimo_tests::{bank, mariadb};

use super::{Program, Ran, command, file, new_path, run};
use crate::coordinator::json_participants::server::{JsonServer, Wrong};
use crate::security::{Authority, Valid};

async fn check(endpoint: &str, participant: &str, action: &str, more: &[&str]) -> Ran {
    let mut args = vec!["participant", "check", "--endpoint", endpoint];
    args.extend(["--participant", participant, "--action", action]);
    args.extend(more);
    run(&args).await
}

const POSTING: &str = r#"{"account": "alice", "cents": 5}"#;
const TOO_MUCH: &str = r#"{"account": "alice", "cents": 5000}"#;

/// A bank on PostgreSQL, and its accounts.
async fn bank(make: impl FnOnce(&str, Postgres) -> Participant<Postgres>) -> (Serving, PgPool) {
    let (url, pool) = accounts().await;
    let database = options().connect(&url).await.unwrap();
    (make("bank", database).serve(Serve::on("127.0.0.1:0")).await.unwrap(), pool)
}

/// The same over `tokio-postgres`.
async fn tokio_bank(
    make: impl FnOnce(&str, Postgres<TokioPostgres>) -> Participant<Postgres<TokioPostgres>>,
) -> (Serving, PgPool) {
    let (url, pool) = accounts().await;
    let database = options().over(TokioPostgres::new(url.parse().unwrap())).await.unwrap();
    (make("bank", database).serve(Serve::on("127.0.0.1:0")).await.unwrap(), pool)
}

async fn accounts() -> (String, PgPool) {
    let url = Server::shared().database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    accounts::create(&pool, &[("alice".to_owned(), 1000)]).await.unwrap();
    (url, pool)
}

/// Duplicates wait for each other's locks; a short timeout keeps the test short.
fn options() -> PostgresOptions {
    PostgresOptions::default().lock_timeout(Duration::from_millis(200))
}

/// Checks that the participant passes all that concerns it; tells how many branches were committed.
async fn passed(serving: &Serving, mode: &str) -> i64 {
    let more = ["--payload", POSTING, "--refused-payload", TOO_MUCH, "--mode", mode, "--json"];
    let more = [&more[..], &["--input", "note=1"]].concat();
    let ran = check(serving.endpoint(), "bank", "debit", &more).await;
    let report = ran.check(0).json();
    ran.complains(&["warning: the check does real work at http://127.0.0.1:", "commits stays"]);
    assert_eq!(report["passed"], true);
    let guarantees = report["guarantees"].as_array().unwrap();
    assert_eq!(guarantees.len(), GUARANTEES.len());
    // Whether two calls have to wait in time to be compared is a matter of chance.
    let is_other = |g: &&serde_json::Value| g["result"] != "passed" && g["name"] != "working-grows";
    let others: Vec<_> = guarantees.iter().filter(is_other).collect();
    let names: Vec<_> = others.iter().map(|g| g["name"].as_str().unwrap()).collect();
    // A debit has no output; and in two-phase commit one branch may wait for the rows of another one.
    let skipped = ["output-bound", "saga-in-order"];
    let skipped = if mode == "tcc" { &skipped[..1] } else { &skipped[..] };
    assert_eq!(names, skipped, "{others:?}");
    assert!(others.iter().all(|guarantee| guarantee["result"] == "skipped"), "{others:?}");
    let committed = report["committed"].as_i64().unwrap();
    assert!(committed >= 5, "{report}");
    committed
}

/// Checks that the participant passes, and that only committed work is left.
async fn passes(serving: &Serving, pool: &PgPool, mode: &str) {
    let committed = passed(serving, mode).await;
    let (_, cents, held, incoming) = accounts::balances(pool).await.unwrap().remove(0);
    assert_eq!((cents, held, incoming), (1000 - 5 * committed, 0, 0), "S7");
    let prepared: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(prepared, 0);
}

#[tokio::test]
async fn a_tcc_participant_on_postgres_passes() {
    let (serving, pool) = bank(tcc::bank).await;
    passes(&serving, &pool, "tcc").await;
}

/// A participant that accepts its coordinators alone is checked as one of them: by its certificate, or by its token.
#[tokio::test]
async fn a_guarded_participant_is_checked_as_its_coordinator() {
    let authority = Authority::new();
    let token = Token::new([3; Token::RANDOM_BYTES]);
    let (hashes, secret) = (new_path(".hashes"), new_path(".token"));
    std::fs::write(&hashes, token.hashed()).unwrap();
    std::fs::write(&secret, token.text()).unwrap();
    let secret = secret.display().to_string();
    let serve = async |serve: Serve, accept: Accept| {
        let (url, _) = accounts().await;
        let database = options().connect(&url).await.unwrap();
        let accept = accept.token_hashes(&hashes);
        tcc::bank("bank", database).accept(accept).serve(serve).await.unwrap()
    };
    let checked = async |serving: &Serving, more: &[&str]| {
        let more = [&["--payload", POSTING, "--input", "note=1"], more].concat();
        check(serving.endpoint(), "bank", "debit", &more).await
    };
    let coordinator = Accept::new().subject("spiffe://shop.example/coordinator");
    let over_tls = serve(Serve::on("127.0.0.1:0").tls(authority.serves()), coordinator).await;
    let path = |path: std::path::PathBuf| path.display().to_string();
    let ca = path(authority.ca());
    let certificate = |name: &str| {
        let (cert, key) = authority.sign(&[name], Valid::Now);
        (path(cert), path(key))
    };
    checked(&over_tls, &[]).await.check(1).complains(&["failed to reach", "--tls-ca names"]);
    checked(&over_tls, &["--tls-ca", &ca, "--timeout", "1s"]).await.check(1);
    let (cert, key) = certificate("spiffe://shop.example/other");
    let other = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let refused = [&other[..], &["--timeout", "1s"]].concat();
    checked(&over_tls, &refused)
        .await
        .check(1)
        .complains(&["PERMISSION_DENIED", "--token-file or"]);
    let with_token = [&other[..], &["--token-file", &secret]].concat();
    checked(&over_tls, &with_token).await.check(0);
    let (cert, key) = certificate("spiffe://shop.example/coordinator");
    let own = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    checked(&over_tls, &own).await.check(0);
    checked(&over_tls, &own[..4]).await.check(2).complains(&["--tls-cert or --tls-key alone"]);

    let plain = serve(Serve::on("127.0.0.1:0"), Accept::new()).await;
    let nobody = checked(&plain, &["--timeout", "1s"]).await;
    nobody.check(1).complains(&["UNAUTHENTICATED", "--token-file"]);
    checked(&plain, &own).await.check(2).complains(&["--endpoint must be https"]);
    let known = checked(&plain, &["--token-file", &secret]).await;
    known.check(0);
    assert!(!format!("{}{}", known.out, known.err).contains(token.text()), "{}", known.err);
    let far = ["--payload", POSTING, "--token-file", &secret];
    let far = check("http://10.1.2.3:1", "bank", "debit", &far).await;
    far.check(2).complains(&["send a token to another machine without TLS"]);
}

#[tokio::test]
async fn participants_over_tokio_pass() {
    let (serving, pool) = tokio_bank(bank::tcc).await;
    passes(&serving, &pool, "tcc").await;
    let (serving, pool) = tokio_bank(bank::two_phase).await;
    passes(&serving, &pool, "two-phase").await;
}

#[tokio::test]
async fn a_two_phase_participant_on_postgres_passes() {
    let (serving, pool) = bank(two_phase::bank).await;
    passes(&serving, &pool, "two-phase").await;
    // The participant refuses a mode that it does not offer, so that guarantees after a vote
    // PREPARED are skipped.
    let more = ["--payload", POSTING, "--mode", "tcc"];
    let ran = check(serving.endpoint(), "bank", "debit", &more).await;
    ran.check(1).says(&[
        "not enough was checked: debit answers this payload REFUSED (MODE_NOT_OFFERED: bank does \
         debit in two-phase commit only",
        "hint: --payload JSON or --payload-file FILE gives one that it accepts",
        "nothing was committed, everything prepared was cancelled",
        "skipped: a refusal by the action's own rule, because there is no --refused-payload",
    ]);
}

#[tokio::test]
async fn a_two_phase_participant_on_mariadb_passes() {
    let url = mariadb::Server::shared().database().await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    bank::mariadb::create(&pool, &[("alice".to_owned(), 1000)]).await.unwrap();
    let options = MySqlOptions::default().lock_timeout(Duration::from_secs(1));
    let database = options.connect(&url).await.unwrap();
    let bank = bank::two_phase("bank", database);
    let serving = bank.serve(Serve::on("127.0.0.1:0")).await.unwrap();
    let committed = passed(&serving, "two-phase").await;
    let (_, cents, held, incoming) = bank::mariadb::balances(&pool).await.unwrap().remove(0);
    assert_eq!((cents, held, incoming), (1000 - 5 * committed, 0, 0), "S7");
}

struct Slow;

impl Tcc<Postgres> for Slow {
    type Payload = Json<bool>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut sqlx::PgConnection,
        call: &Call<Json<bool>>,
    ) -> Result<(), PrepareError> {
        let takes = if call.payload.0 { 1.5 } else { 0.0 };
        sqlx::query("SELECT pg_sleep($1)").bind(takes).execute(db).await?;
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut sqlx::PgConnection,
        _: &Call<Json<bool>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut sqlx::PgConnection,
        _: &Call<Json<bool>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// A real participant's pauses are compared where its work is slow, and the check says what it needs for that.
#[tokio::test]
async fn pauses_of_slow_work_are_compared() {
    let (url, _pool) = accounts().await;
    let database = options().connect(&url).await.unwrap();
    let slow = Participant::new("slow", database).tcc("work", Slow);
    let serving = slow.serve(Serve::on("127.0.0.1:0")).await.unwrap();
    let result = async |more: &[&str]| {
        let more = [&["--payload", "false", "--json"], more].concat();
        let report = check(serving.endpoint(), "slow", "work", &more).await.check(0).json();
        let guarantees = report["guarantees"].as_array().unwrap();
        let named = guarantees.iter().find(|g| g["name"] == "working-grows");
        named.unwrap().clone()
    };
    let slow = result(&["--slow-payload", "true"]).await;
    assert_eq!(slow["result"], "passed", "{slow}");
    let quick = result(&[]).await;
    assert_eq!(quick["result"], "skipped", "nobody had to wait: {quick}");
    assert!(quick.to_string().contains("--slow-payload"), "{quick}");
    serving.stop().await.unwrap();
}

/// A step that reads an input is checked with `--input`.
#[tokio::test]
async fn a_step_is_given_its_inputs() {
    let endpoint = Faulty::new(Fault::None).serve().await;
    let payload = file("ticket");
    let more = ["--payload-file", payload.as_str(), "--mode", "saga"];
    let ran = check(&endpoint, "faulty", "work", &more).await;
    ran.check(1).says(&["work answers this payload REFUSED (NO_TICKET: no)"]);
    let more = [&more[..], &["--input", "ticket=7"]].concat();
    let ran = check(&endpoint, "faulty", "work", &more).await;
    ran.check(0).says(&[" passed, 0 failed, 9 skipped\n", "nothing was committed"]);
    for (input, rule) in
        [("ticket", "must be NAME=JSON"), ("a b=1", "the name "), ("ticket={", "EOF while parsing")]
    {
        let ran = check(&endpoint, "faulty", "work", &["--input", input]).await;
        ran.check(2).complains(&["--input", rule]);
    }
}

#[derive(Serialize, Deserialize)]
struct Pieces {
    pieces: i64,
}

struct Reserve;

impl Reserve {
    async fn run(
        db: &mut SqliteConnection,
        statement: &'static str,
        pieces: i64,
    ) -> sqlx::Result<u64> {
        Ok(sqlx::query(statement).bind(pieces).execute(db).await?.rows_affected())
    }
}

impl Tcc<Sqlite> for Reserve {
    type Payload = Json<Pieces>;
    type Output = Json<i64>;

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Pieces>>,
    ) -> Result<Json<i64>, PrepareError> {
        let pieces = call.payload.pieces;
        let take = "UPDATE stock SET free = free - $1, held = held + $1 WHERE free >= $1";
        match Self::run(db, take, pieces).await? {
            0 => refuse("SOLD_OUT", "too few left"),
            _ => Ok(Json(pieces)),
        }
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        _: &Call<Json<Pieces>>,
        output: Json<i64>,
    ) -> Result<(), PhaseTwoError> {
        Self::run(db, "UPDATE stock SET held = held - $1", output.0).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        _: &Call<Json<Pieces>>,
        output: Json<i64>,
    ) -> Result<(), PhaseTwoError> {
        Self::run(db, "UPDATE stock SET held = held - $1, free = free + $1", output.0).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_tcc_participant_on_sqlite_passes() {
    let path = new_path(".db");
    let shop = Sqlite::open(&path).await.unwrap();
    let pool = sqlx::SqlitePool::connect(&super::sqlite(&path)).await.unwrap();
    let stock = "CREATE TABLE stock (free integer, held integer); INSERT INTO stock VALUES (99, 0)";
    sqlx::raw_sql(stock).execute(&pool).await.unwrap();
    let shop = Participant::new("shop", shop).tcc("reserve", Reserve);
    let serving = shop.serve(Serve::on("127.0.0.1:0")).await.unwrap();
    let payload = file(r#"{"pieces":2}"#);
    let more = ["--payload-file", payload.as_str(), "--refused-payload", r#"{"pieces":100}"#];
    let more = [&more[..], &["--input", "note=1", "--input", "other=[2]"]].concat();
    let ran = check(serving.endpoint(), "shop", "reserve", &more).await;
    // The pauses of calls that wait are compared if two had to.
    let skipped = ran.out.lines().filter(|line| line.contains(" skipped  ")).count();
    assert!(skipped == 0 || skipped == 1 && ran.out.contains("working-grows  "), "{}", ran.out);
    let line = format!("\n{} passed, 0 failed, {skipped} skipped\n", GUARANTEES.len() - skipped);
    ran.check(0).says(&["GUARANTEE ", "\nlate-prepare ", " passed  ", &line]);
    ran.says(&["branches were committed and stay so, all others were cancelled\n"]);
    let (free, held): (i64, i64) =
        sqlx::query_as("SELECT free, held FROM stock").fetch_one(&pool).await.unwrap();
    let committed = ran.out.lines().find_map(|line| line.split_once(" branches were committed"));
    let committed: i64 = committed.unwrap().0.parse().unwrap();
    assert_eq!((free, held), (99 - 2 * committed, 0), "S7");
}

#[tokio::test]
async fn a_broken_participant_is_told_what_it_breaks() {
    let endpoint = Faulty::new(Fault::NoTombstone).serve().await;
    let more = ["--payload", "1", "--timeout", "2s"];
    let ran = check(&endpoint, "faulty", "work", &more).await;
    ran.check(1).complains(&["failed: late-prepare\n"]).says(&[
        "late-prepare                      failed   a Prepare that came after its Cancel was answered \
         PREPARED with output",
        "\nlate-prepare\n  must hold  A Prepare that comes after its Cancel is REFUSED",
        "\n  because    S8: nobody would ever cancel what it did",
        "missing-input                     skipped  no input was given that the action reads",
    ]);
    let named = |line: &str| line.split_once("  failed   ").map(|(name, _)| name.trim().to_owned());
    let failed: Vec<_> =
        ran.out.lines().take_while(|line| !line.is_empty()).filter_map(named).collect();
    ran.says(&[&format!(" passed, {} failed, 3 skipped\n", failed.len())]);
    // Those in which a Prepare comes behind its Cancel, for sure or by chance.
    let (sure, by_chance) = (
        ["unknown-mode", "late-prepare", "no-bound"],
        ["prepare-races-cancel", "abandoned-prepare", "cancel-at-work", "cancel-without-an-end"],
    );
    assert!(sure.iter().all(|name| failed.iter().any(|one| one == name)), "{failed:?}");
    let is_known = |name: &String| [&sure[..], &by_chance].concat().contains(&name.as_str());
    assert!(failed.iter().all(is_known), "{failed:?}");
    let endpoint = Faulty::new(Fault::CommitsAnything).serve().await;
    let ran = check(&endpoint, "faulty", "work", &["--json"]).await;
    let report = ran.check(1).json();
    let guarantees = report["guarantees"].as_array().unwrap();
    let failed: Vec<_> = guarantees.iter().filter(|one| one["result"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{report}");
    assert_eq!(failed[0]["name"], "commit-unknown");
    let seen = failed[0]["seen"].as_str().unwrap();
    assert!(seen.contains("was answered done, expected HEURISTIC_HAZARD"), "{seen}");
}

/// One that is called over HTTP is checked as over gRPC: each guarantee has the same result, and what is broken is named; an
/// address at which something else answers is told as such.
#[tokio::test]
async fn a_participant_over_http_is_checked_as_over_grpc() {
    for fault in [Fault::None, Fault::CommitsAnything, Fault::NoTombstone] {
        let results = async |endpoint: &str| {
            let ran = check(endpoint, "faulty", "work", &["--json", "--timeout", "2s"]).await;
            let report = ran.check(i32::from(fault != Fault::None)).json();
            let guarantees = report["guarantees"].as_array().unwrap().clone();
            let result = |one: &serde_json::Value| (one["name"].clone(), one["result"].clone());
            // Those that end by chance are not compared.
            let name = |one: &serde_json::Value| one["name"].as_str().unwrap().to_owned();
            let is_sure = |one: &&serde_json::Value| !BY_CHANCE.contains(&&*name(one));
            guarantees.iter().filter(is_sure).map(result).collect::<Vec<_>>()
        };
        let over_grpc = results(&Faulty::new(fault).serve().await).await;
        let (_server, endpoint) = JsonServer::serve(&Faulty::new(fault)).await;
        assert!(endpoint.starts_with("http+json://"), "{endpoint}");
        assert_eq!(results(&endpoint).await, over_grpc, "{fault:?}");
        let failed = over_grpc.iter().any(|(_, result)| result == "failed");
        assert_eq!(failed, fault != Fault::None, "{over_grpc:?}");
    }
    let (server, endpoint) = JsonServer::serve(&Faulty::new(Fault::None)).await;
    for (wrong, said) in [
        (
            Wrong { status: 200, content_type: "text/html", location: "", body: "<html>" },
            "its content-type must be application/json, is \"text/html\"",
        ),
        (Wrong { status: 302, content_type: "", location: "/login", body: "" }, "HTTP 302 Found"),
    ] {
        server.answer_wrong((0..1000).map(|_| wrong.clone()));
        let ran = check(&endpoint, "faulty", "work", &["--timeout", "100ms"]).await;
        ran.check(1).complains(&["UNIMPLEMENTED", said]);
        server.answer_right();
    }
    let nobody = "http+json://127.0.0.1:1/tx";
    let ran = check(nobody, "faulty", "work", &[]).await;
    ran.check(1).complains(&[&format!("failed to reach a participant at {nobody}")]);
}

/// Guarantees whose result is a matter of chance: two calls meet, or have to wait.
const BY_CHANCE: [&str; 6] = [
    "prepare-races-cancel",
    "commit-races-cancel",
    "abandoned-prepare",
    "cancel-at-work",
    "cancel-without-an-end",
    "working-grows",
];

/// Ctrl-C must not leave branches prepared, which would keep rows of the participant locked.
#[tokio::test]
async fn ctrl_c_cancels_what_is_prepared() {
    let target = Faulty::new(Fault::None);
    let endpoint = target.serve().await;
    let args = ["participant", "check", "--participant", "faulty", "--action", "work"];
    let mut command = command(&args);
    command.args(["--endpoint", &endpoint]);
    let mut program = Program::start(command);
    let prepared = async || (target.counts().0 > 0).then_some(());
    until("a branch to be prepared", prepared).await;
    program.process.signal(Signal::INT);
    let ran = program.end().await;
    ran.check(1).complains(&["stopping: the prepared branches are cancelled first"]);
    ran.says(&["commit-races-cancel", "skipped  it was interrupted"]);
    assert_eq!(target.counts().0, 0, "{}", ran.out);
}

#[tokio::test]
async fn what_cannot_be_checked_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    check(&nobody, "p", "a", &[]).await.check(1).complains(&[
        &format!("error: failed to reach a participant at {nobody}: Connection refused"),
        "hint: --endpoint is the participant's address",
    ]);
    let endpoint = Faulty::new(Fault::None).serve().await;
    let ran = check(&endpoint, "other", "work", &["--timeout", "100ms"]).await;
    ran.check(1).complains(&[
        "error: failed to prepare a first branch of action work at participant other: Prepare was \
         not answered within 100ms, asked again and again; the last reply was FAILED_PRECONDITION: \
         this is participant faulty",
        "hint: does the participant expect this --participant, --mode and --cluster-id?",
    ]);
    for (bad, complaint) in [
        (["--payload", "{"], "EOF while parsing"),
        (["--payload-file", "/nowhere"], "failed to read the payload from /nowhere: No such file"),
        (["--mode", "xa"], "[possible values: tcc, two-phase, saga]"),
        (["--cluster-id", "a/b"], "must consist of"),
        (["--timeout", "soon"], "write 250ms"),
    ] {
        let ran = check(&endpoint, "faulty", "work", &bad).await;
        ran.check(2).complains(&[complaint]);
    }
    let ran = check("127.0.0.1:7610", "faulty", "work", &[]).await;
    ran.check(2).complains(&["must be http://"]);
}
