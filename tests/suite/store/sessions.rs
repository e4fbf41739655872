//! Sessions on PostgreSQL: what they rely on is set and read back, and none is used on a server that
//! takes no writes.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use unanimo_coordinator::store::{
    self, BatchError, Error, Key, PostgresOptions, SessionError, Written,
};
use unanimo_core::ParticipantName;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::{Fixture, LEASE, a_write, create, execute};
use crate::fixtures::{Live, new_gid, now};

/// Socket of a proxied URL's server, as the tests' proxy has it.
async fn proxied(server: &Server) -> (Proxy, String, String) {
    let direct = server.database().await;
    let proxy = Proxy::start(server.socket()).await;
    let url = proxy.url(&direct);
    (proxy, url, direct)
}

/// S3: start-up options are lost on the way, and the role's default is to acknowledge before the disk
/// has it. The server crashes right after the acknowledgement.
#[tokio::test]
async fn s3_a_role_default_of_asynchronous_commits_does_not_win() {
    let server = Server::start_with("wal_writer_delay = 10s\nautovacuum = off\n");
    let (proxy, url, direct) = proxied(&server).await;
    proxy.strip_options();
    execute(&direct, "ALTER ROLE unanimo SET synchronous_commit = off").await;
    execute(&direct, "ALTER ROLE unanimo SET default_transaction_isolation = 'serializable'").await;
    let fixture = Fixture::open(url).await;
    for round in 0..3 {
        let mut writer = fixture.writer().await;
        let (live, begin) = Live::begin(&new_gid());
        assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
        if round == 1 {
            // A write past the journal.
            let name = ParticipantName::new("bank").unwrap();
            let endpoints = fixture.store.endpoints();
            endpoints.register(fixture.me, &name, "http://a", "life", now()).await.unwrap();
        }
        server.kill();
        server.launch();
        let key = Key::Tx(live.id());
        let found = until("the server to answer", async || {
            fixture.store.transactions().find(&key).await.ok()
        })
        .await;
        assert!(found.is_some(), "round {round}: acknowledged, and gone after a crash");
        let registered = fixture.store.endpoints().list().await.unwrap().len();
        assert_eq!(registered, usize::from(round > 0), "round {round}");
    }
}

/// The role's sessions may not be idle for long, as an administrator may set it for all. The journal's connection and the
/// others wait all the same, and no batch is lost with one.
#[tokio::test]
async fn l3_a_role_whose_idle_sessions_are_ended_ends_none_of_these() {
    let server = Server::start();
    let url = server.database().await;
    execute(&url, "ALTER ROLE unanimo SET idle_session_timeout = '500ms'").await;
    let fixture = Fixture::open(url.clone()).await;
    let mut writer = fixture.writer().await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    // One that is not ours is ended: it is tried.
    let mut other = PgConnection::connect(&url).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    other.execute("SELECT 1").await.unwrap_err();
    let (live, begin) = Live::begin(&new_gid());
    assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    assert!(fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().is_some());
}

/// The server would plan each small batch anew, and spend several times as long on that as on the batch itself.
#[tokio::test]
async fn a_batch_is_planned_once() {
    const BATCHES: usize = 40;
    let server = Server::start_with("log_planner_stats = on\nlog_min_messages = log\n");
    let fixture = Fixture::open(server.database().await).await;
    let mut writer = fixture.writer().await;
    let log = server.socket().with_file_name("log");
    let planned = || {
        let log = std::fs::read_to_string(&log).expect("read the server's log");
        log.matches("PLANNER STATISTICS").count()
    };
    let mut before = 0;
    for number in 0..BATCHES {
        let begin = a_write(Live::begin(&new_gid()).1);
        assert_eq!(writer.write(&[begin]).await.unwrap(), [Written::Applied]);
        if number == 0 {
            before = planned();
            assert!(before > 0, "the log tells of plans");
        }
    }
    let more = planned() - before;
    assert!(more < BATCHES / 4, "{more} plans for {BATCHES} batches");
}

/// PgBouncer refuses, by default, whoever names a parameter at the start that it does not know.
#[tokio::test]
async fn a_pooler_that_refuses_parameters_is_no_obstacle() {
    let (proxy, url, _direct) = proxied(Server::shared()).await;
    proxy.refuse_parameters();
    let fixture = Fixture::open(url.clone()).await;
    fixture.write([Live::begin(&new_gid()).1]).await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    // It does refuse.
    let refused = sqlx::PgPool::connect(&url).await.unwrap_err().to_string();
    assert!(refused.contains("unsupported startup parameter: extra_float_digits"), "{refused}");
}

/// Something on the way takes the settings, and does not keep them.
#[tokio::test]
async fn a_session_whose_settings_do_not_hold_is_refused() {
    let (proxy, url, direct) = proxied(Server::shared()).await;
    let swallows = "CREATE FUNCTION set_confix(text, text, boolean) RETURNS text
        LANGUAGE sql AS 'SELECT $2'";
    execute(&direct, swallows).await;
    proxy.rewrite("set_config(", "set_confix(");
    let error = store::open(&url, &PostgresOptions::default()).await.unwrap_err();
    let text = store::in_full(&error);
    assert!(text.contains("enable_seqscan is on and not off"), "{text}");
    assert!(text.contains("if there is a pooler in between"), "{text}");
}

/// A pooler gives the session of another client, whose settings are others, in the middle of a
/// session's life.
#[tokio::test]
async fn s3_a_batch_under_other_settings_is_not_taken_as_durable() {
    let (proxy, url, _direct) = proxied(Server::shared()).await;
    let fixture = Fixture::open(url).await;
    let mut writer = fixture.writer().await;
    let (live, begin) = Live::begin(&new_gid());
    let begin = a_write(begin);
    // What the statement says of its settings is changed on the way: `remote_apply`, for example.
    proxy.rewrite("current_setting('lock_timeout'))", "current_setting('work_mem')    )");
    let error = writer.write(std::slice::from_ref(&begin)).await.unwrap_err();
    assert!(matches!(error, BatchError::Indeterminate(_)), "{error:?}");
    proxy.rewrite_nothing();
    let written = fixture.writer().await.write(&[begin]).await.unwrap();
    assert_eq!(written, [Written::Applied], "it was made, and is durable by now");
    assert!(fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().is_some());
}

/// L3: sessions were led to a standby for a moment, as by a proxy at a switchover. None is used there,
/// and none stays.
#[tokio::test]
async fn l3_nothing_is_read_from_a_standby_and_no_session_stays_there() {
    let primary = Server::start();
    let (proxy, url, direct) = proxied(&primary).await;
    let fixture = Fixture::open(url).await;
    let standby = primary.standby();
    // What it lacks is told from what it has: it is behind.
    let behind = standby.url("postgres");
    execute(&behind, "SELECT pg_wal_replay_pause()").await;
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let key = Key::Tx(live.id());
    let mut writer = fixture.writer().await;

    proxy.switch_to(standby.socket());
    for _ in 0..20 {
        let found = fixture.store.transactions().find(&key).await;
        assert!(found.is_err(), "read from a standby: {found:?}");
        let text = store::in_full(&found.unwrap_err());
        assert!(text.contains("is a standby"), "{text}");
        assert!(fixture.store.incarnations().list().await.is_err());
        assert!(fixture.store.incarnations().renew(fixture.me, LEASE).await.is_err());
        assert!(fixture.store.batch_writer(fixture.me).await.is_err());
    }
    let (_, another) = Live::begin(&new_gid());
    let another = a_write(another);
    assert!(writer.write(std::slice::from_ref(&another)).await.is_err());

    proxy.switch_to(primary.socket());
    for _ in 0..20 {
        assert!(fixture.store.transactions().find(&key).await.unwrap().is_some());
        fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    }
    let written = fixture.writer().await.write(&[another]).await.unwrap();
    assert_eq!(written, [Written::Applied]);
    drop((writer, direct));
}

/// Connections stay, and the server behind them stops taking writes.
#[tokio::test]
async fn l3_a_server_that_becomes_read_only_is_left_and_used_again() {
    let server = Server::start();
    let fixture = Fixture::open(server.database().await).await;
    let mut writer = fixture.writer().await;
    let (first, begin) = Live::begin(&new_gid());
    assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
    let admin = server.url("postgres");
    execute(&admin, "ALTER SYSTEM SET default_transaction_read_only = on").await;
    execute(&admin, "SELECT pg_reload_conf()").await;
    let key = Key::Tx(first.id());
    let error =
        until("reads to be refused", async || fixture.store.transactions().find(&key).await.err())
            .await;
    let is_read_only = |error: &Error| {
        matches!(error, Error::Session { source, .. }
            if matches!(&**source, SessionError::NotWritable { why: "is read-only", .. }))
    };
    assert!(is_read_only(&error), "{error:?}");
    let (_, begin) = Live::begin(&new_gid());
    let begin = a_write(begin);
    let error = writer.write(std::slice::from_ref(&begin)).await.unwrap_err();
    assert!(matches!(error, BatchError::WrongServer(_)), "{error:?}");
    assert!(fixture.store.incarnations().renew(fixture.me, LEASE).await.is_err());
    let opened = store::open(&fixture.url, &PostgresOptions::default()).await.unwrap_err();
    assert!(is_read_only(&opened), "{opened:?}");

    execute(&admin, "ALTER SYSTEM RESET default_transaction_read_only").await;
    execute(&admin, "SELECT pg_reload_conf()").await;
    until("reads to go on", async || fixture.store.transactions().find(&key).await.ok()).await;
    assert_eq!(fixture.writer().await.write(&[begin]).await.unwrap(), [Written::Applied]);
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
}

/// A URL that names several servers: the one that takes writes is found, wherever it stands, and found
/// again after a failover.
#[tokio::test]
async fn several_servers_are_one_database() {
    let primary = Server::start();
    let (to_primary, url, direct) = proxied(&primary).await;
    let me = Fixture::open(direct.clone()).await;
    let standby = primary.standby();
    let to_standby = Proxy::start(standby.socket()).await;
    let host = |url: &str| url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let (one, two) = (host(&to_standby.url(&direct)), host(&url));
    let database = direct.rsplit('/').next().unwrap();
    let several = format!(
        "postgres://unanimo@127.0.0.1:1,{one},{two}/{database}?sslmode=disable\
         &target_session_attrs=read-write"
    );
    let store = store::open(&several, &PostgresOptions::default()).await.unwrap();
    assert_eq!(store.cluster_id(), me.store.cluster_id());
    let me = create(&store, "one").await;
    // The primary dies, and the standby takes its place.
    until("the standby to have it", async || {
        let lag = "SELECT 1 / (pg_last_wal_replay_lsn() = pg_last_wal_receive_lsn())::int";
        let mut raw = <sqlx::PgConnection as sqlx::Connection>::connect(&standby.url("postgres"))
            .await
            .ok()?;
        sqlx::query(lag).execute(&mut raw).await.ok().map(|_| ())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    primary.kill();
    execute(&standby.url("postgres"), "SELECT pg_promote()").await;
    until("the new primary to be found", async || store.incarnations().renew(me, LEASE).await.ok())
        .await;
    assert_eq!(store.incarnations().list().await.unwrap().live.len(), 2);
    drop((to_primary, to_standby));

    for attributes in ["standby", "read-only", "prefer-standby"] {
        let url = format!("{direct}?target_session_attrs={attributes}");
        let error = store::open(&url, &PostgresOptions::default()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("target_session_attrs must be read-write or primary"), "{text}");
    }
}

/// Servers take connections and say nothing, as one does whose machine is gone. The next one is tried beside it soon:
/// at the start, and for a heartbeat.
#[tokio::test]
async fn l2_a_silent_server_does_not_keep_the_next_one_waiting() {
    let silent = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = silent.each_ref().map(|listener| listener.local_addr().unwrap());
    let primary = Server::start();
    let (first, url, direct) = proxied(&primary).await;
    let second = Proxy::start(primary.socket()).await;
    let host = |url: &str| url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let (three, four) = (host(&url), host(&second.url(&direct)));
    let database = direct.rsplit('/').next().unwrap();
    let several = format!("postgres://unanimo@{one},{two},{three},{four}/{database}");
    let started = std::time::Instant::now();
    let store = store::open(&several, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "one").await;
    assert!(started.elapsed() < Duration::from_secs(7), "at the start: {:?}", started.elapsed());
    // The one that was good falls silent.
    first.hold(true);
    let started = std::time::Instant::now();
    store.incarnations().renew(me, Duration::from_secs(12)).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
    drop((silent, second));
}
