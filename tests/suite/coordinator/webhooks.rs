//! Webhooks: each event is sent, in order and signed, and what a receiver does not take is kept.

mod as_documented;
mod asked_twice;
mod over_tls;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::Code;
use unanimo_coordinator::Config;
use unanimo_coordinator::crash::WEBHOOK_POINTS;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::{
    DeadLetter, ListDeadLettersRequest, ListWebhooksRequest, RedeliverEventsRequest,
    TestWebhookRequest, TestWebhookResponse, Webhook, WebhookState,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;

use super::process::Process;
use super::{World, config, describe, sqlite_url, tcc};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Behaviour of a receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Status(u16),
    /// It takes the request, and answers this once it has another behaviour.
    Wait(u16),
    /// It takes the request and answers nothing.
    Hang,
    /// A body without an end.
    Endless,
    /// To another address, which would take it.
    Redirect,
}

/// Message that came.
#[derive(Clone, Debug)]
struct Message {
    headers: HeaderMap,
    body: Bytes,
}

impl Message {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The gid, and the last word of the type.
    fn told(&self) -> (String, String) {
        let json = self.json();
        let kind = json["type"].as_str().unwrap().rsplit('.').next().unwrap();
        (json["subject"].as_str().unwrap_or_default().to_owned(), kind.to_owned())
    }

    /// Tells whether a signature is that of this secret, computed anew.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let head = format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp"));
        let signed = [head.as_bytes(), &self.body].concat();
        let signature = format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)));
        self.header("webhook-signature").split(' ').any(|of| of == signature)
    }
}

/// A receiver.
#[derive(Clone)]
struct Receiver {
    url: String,
    way: Arc<Mutex<Way>>,
    taken: Arc<Mutex<Vec<Message>>>,
    refused: Arc<Mutex<Vec<Message>>>,
    /// Those that were not answered at once.
    waiting: Arc<Mutex<Vec<Message>>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (taken, refused, waiting) = Default::default();
        let way = Arc::new(Mutex::new(Way::Status(204)));
        let receiver = Self { url, way, taken, refused, waiting };
        let answering = receiver.clone();
        let app = axum::Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
            let receiver = answering.clone();
            async move { receiver.answer(Message { headers, body }).await }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    async fn answer(&self, message: Message) -> Response {
        let mut way = *self.way.lock().unwrap();
        if let Way::Wait(status) = way {
            self.waiting.lock().unwrap().push(message.clone());
            while *self.way.lock().unwrap() == way {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            way = Way::Status(status);
        }
        let is_taken = matches!(way, Way::Status(200..300));
        if is_taken { &self.taken } else { &self.refused }.lock().unwrap().push(message);
        let answer = Response::builder();
        match way {
            Way::Status(status) | Way::Wait(status) => {
                answer.status(status).body(Body::empty()).unwrap()
            }
            Way::Hang => std::future::pending().await,
            Way::Redirect => {
                let answer = answer.status(StatusCode::TEMPORARY_REDIRECT);
                answer
                    .header("location", format!("{}/other", self.url))
                    .body(Body::empty())
                    .unwrap()
            }
            Way::Endless => {
                let parts = tokio_stream::iter(std::iter::repeat_with(|| {
                    Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 4096]))
                }));
                answer.body(Body::from_stream(parts)).unwrap()
            }
        }
    }

    fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn taken(&self) -> Vec<Message> {
        self.taken.lock().unwrap().clone()
    }

    fn told(&self) -> Vec<(String, String)> {
        self.taken().iter().map(Message::told).collect()
    }

    async fn has_taken(&self, count: usize) -> Vec<Message> {
        until("events to be taken", async || Some(self.taken()).filter(|all| all.len() >= count))
            .await
    }

    async fn has_refused(&self, count: usize) {
        so("events to be refused", async || self.refused.lock().unwrap().len() >= count).await;
    }
}

/// Waits until something is so.
async fn so(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    until(what, async || ask().await.then_some(())).await;
}

/// An entry of the file, with more keys.
fn entry(name: &str, receiver: &Receiver, secrets: &[&str], more: &str) -> String {
    let url = &receiver.url;
    format!(
        "[[webhook]]\nname = \"{name}\"\nurl = \"{url}\"\nsecrets = {secrets:?}\nbackoff-max = \"20ms\"\n{more}\n"
    )
}

fn file(text: &str) -> PathBuf {
    let path = run_folder().join(format!("hooks{}.toml", uuid::Uuid::new_v4()));
    std::fs::write(&path, text).unwrap();
    path
}

/// File with a webhook, `hook`, where nobody receives, and that is sent nothing.
pub(crate) fn unreachable() -> PathBuf {
    file(&format!(
        "[[webhook]]\nname = \"hook\"\nurl = \"http://127.0.0.1:1/\"\nsecrets = [\"{SECRET}\"]\ngid-prefix = \"none\"\n"
    ))
}

fn with(mut config: Config, file: &std::path::Path) -> Config {
    config.webhooks = file.to_str().unwrap().parse().unwrap();
    config
}

async fn webhooks(world: &World) -> Vec<Webhook> {
    let request = ListWebhooksRequest::default();
    world.operator().list_webhooks(request).await.unwrap().into_inner().webhooks
}

/// Waits until the webhook of this name has a place: it begins with what comes from then on.
async fn begins(world: &World, name: &str) -> Webhook {
    until("the webhook to begin", async || {
        let all = webhooks(world).await;
        all.into_iter().find(|webhook| webhook.name == name && webhook.revision > 0)
    })
    .await
}

async fn dead_letters(world: &World, webhook: &str) -> Vec<DeadLetter> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let webhook = webhook.to_owned();
        let request =
            ListDeadLettersRequest { webhook, page_size: 2, page_token, ..Default::default() };
        let page = world.operator().list_dead_letters(request).await.unwrap().into_inner();
        assert!(page.dead_letters.len() <= 2);
        found.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

async fn redeliver(world: &World, webhook: &str, revision: u64) -> u64 {
    let webhook = webhook.to_owned();
    let request = RedeliverEventsRequest { webhook, revision, ..Default::default() };
    world.operator().redeliver_events(request).await.unwrap().into_inner().count
}

async fn test(world: &World, webhook: &str) -> TestWebhookResponse {
    let request = TestWebhookRequest { webhook: webhook.to_owned(), ..Default::default() };
    world.operator().test_webhook(request).await.unwrap().into_inner()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(gid, kind)| ((*gid).to_owned(), (*kind).to_owned())).collect()
}

/// Events come in order, each signed and with the content that it has over HTTP; a successor goes on behind them.
async fn events_come_in_order_and_a_successor_goes_on(database: String) {
    let receiver = Receiver::start().await;
    let headers = "[webhook.headers]\nAuthorization = \"Bearer abc\"";
    let more = format!(
        "kinds = [\"committed\", \"aborted\"]\ngid-prefix = \"g-\"\nparticipant = \"p\"\n{headers}"
    );
    let file = file(&entry("a", &receiver, &[OTHER_SECRET, SECRET], &more));
    let world = World::start(with(config(&database), &file)).await;
    begins(&world, "a").await;
    world.submit(tcc("g-1", &["ok"])).await.unwrap();
    world.submit(tcc("h-1", &["ok"])).await.unwrap();
    world.submit(tcc("g-2", &["refuse"])).await.unwrap();
    let taken = receiver.has_taken(2).await;
    assert_eq!(receiver.told(), pairs(&[("g-1", "committed"), ("g-2", "aborted")]));
    let first = &taken[0];
    assert_eq!(first.header("content-type"), "application/cloudevents+json");
    assert_eq!(first.header("authorization"), "Bearer abc");
    assert!(first.is_signed_with(SECRET) && first.is_signed_with(OTHER_SECRET));
    assert!(!first.is_signed_with("whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"));
    let json = first.json();
    let shown = world.get("g-1").await;
    let source = format!("urn:unanimo:{}", world.cluster_id().await);
    assert_eq!((&json["specversion"], &json["source"]), (&"1.0".into(), &source.into()));
    assert_eq!(json["type"], "org.unanimo.transaction.committed");
    assert_eq!(
        (&json["data"]["revision"], json["id"].as_str()),
        (&json["id"], Some(first.header("webhook-id")))
    );
    assert_eq!(json["data"]["txId"], shown.tx_id);
    // The same time, of which the one is written with all its digits and the other without zeros at the end.
    let digits = |time: &serde_json::Value| {
        let text = time.as_str().unwrap().trim_end_matches('Z').to_owned();
        text.split_once('.').map_or(text.clone(), |(seconds, part)| {
            format!("{seconds}.{part:0<9}").replace(".000000000", "")
        })
    };
    assert_eq!(digits(&json["data"]["occurredAt"]), digits(&json["time"]));
    assert_eq!(json["data"]["kind"], "TRANSACTION_EVENT_KIND_COMMITTED");

    let world = world.crash_and_restart().await;
    world.submit(tcc("g-3", &["ok"])).await.unwrap();
    so("the last one to come", async || {
        receiver.told().last().is_some_and(|(gid, _)| gid == "g-3")
    })
    .await;
    let ids: BTreeSet<String> =
        receiver.taken().iter().map(|message| message.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 3, "what comes again has the same id");
}

#[tokio::test]
async fn s3_events_come_in_order_and_a_successor_goes_on_on_sqlite() {
    events_come_in_order_and_a_successor_goes_on(sqlite_url()).await;
}

#[tokio::test]
async fn s3_events_come_in_order_and_a_successor_goes_on_on_postgres() {
    events_come_in_order_and_a_successor_goes_on(Server::shared().database().await).await;
}

/// Whatever is killed beside a delivery, each transaction that has ended is told.
#[tokio::test]
async fn s3_a_kill_beside_a_delivery_loses_no_event() {
    for point in &WEBHOOK_POINTS[..2] {
        for database in [sqlite_url(), Server::shared().database().await] {
            let receiver = Receiver::start().await;
            let file = file(&entry("a", &receiver, &[SECRET], "begin = \"oldest\""));
            let more = ["--webhooks".to_owned(), file.to_str().unwrap().to_owned()];
            let crash = ("UNANIMO_CRASH_AT", format!("{point}:3"));
            let process = Process::start_with(&database, &more, &[crash]).await;
            let mut client = process.client();
            let mut sent = BTreeSet::new();
            for number in 0..5 {
                let gid = format!("g-{number}");
                // It may be killed before the answer.
                if client.submit_transaction(tcc(&gid, &["ok"])).await.is_ok() {
                    sent.insert((gid, "committed".to_owned()));
                }
            }
            until("the process to be killed", async || {
                client
                    .clone()
                    .get_server_info(unanimo_proto::v1::GetServerInfoRequest {})
                    .await
                    .err()
            })
            .await;
            let before = receiver.taken().len();
            assert!(before <= 3 && sent.len() >= 3, "{point}: {before} taken of {}", sent.len());
            drop(process);
            let process = Process::start(&database, &more).await;
            process.client().submit_transaction(tcc("last", &["ok"])).await.unwrap();
            sent.insert(("last".to_owned(), "committed".to_owned()));
            so("all to come", async || sent.iter().all(|one| receiver.told().contains(one))).await;
            // One whose answer the kill cut off may end after the last one.
            let told = receiver.told().into_iter().filter(|one| sent.contains(one));
            let mut first_times = Vec::new();
            for one in told {
                if !first_times.contains(&one) {
                    first_times.push(one);
                }
            }
            // In the order of their names, and of their ends: the last one's is the last name, too.
            assert!(first_times.is_sorted(), "{point}: {first_times:?}");
        }
    }
}

/// A dead letter that a receiver has taken, and whose end was not noted by then, is sent again: it is neither lost nor
/// kept for ever.
#[tokio::test]
async fn s3_a_kill_before_a_dead_letter_is_gone_sends_it_again() {
    for database in [sqlite_url(), Server::shared().database().await] {
        let receiver = Receiver::start().await;
        receiver.set(Way::Status(500));
        let more = "begin = \"oldest\"\ngive-up-after = \"1s\"";
        let file = file(&entry("a", &receiver, &[SECRET], more));
        let more = ["--webhooks".to_owned(), file.to_str().unwrap().to_owned()];
        let crash = ("UNANIMO_CRASH_AT", format!("{}:1", WEBHOOK_POINTS[2]));
        let process = Process::start_with(&database, &more, &[crash]).await;
        process.client().submit_transaction(tcc("g-1", &["ok"])).await.unwrap();
        let dead = async |channel: &tonic::transport::Channel| {
            let mut operator = OperatorServiceClient::new(channel.clone());
            let found = operator.list_dead_letters(ListDeadLettersRequest::default()).await;
            found.map(|found| found.into_inner().dead_letters.len())
        };
        so("a dead letter", async || dead(&process.channel).await.unwrap() == 1).await;
        receiver.set(Way::Status(200));
        let request = RedeliverEventsRequest { webhook: "a".to_owned(), ..Default::default() };
        // The process may be killed before the answer.
        drop(OperatorServiceClient::new(process.channel.clone()).redeliver_events(request).await);
        let taken = receiver.has_taken(1).await;
        so("the process to be killed", async || dead(&process.channel).await.is_err()).await;
        drop(process);
        let process = Process::start(&database, &more).await;
        let again = receiver.has_taken(2).await;
        assert_eq!(again[1].header("webhook-id"), taken[0].header("webhook-id"));
        so("it to be gone", async || dead(&process.channel).await.unwrap() == 0).await;
        assert_eq!(receiver.taken().len(), 2, "{database}");
    }
}

/// L3: a receiver that takes nothing, in whatever way, holds up no other webhook and no transaction. What it has not taken is
/// kept, listed and sent again.
#[tokio::test]
async fn l3_a_receiver_that_takes_nothing_holds_up_no_other() {
    for way in [Way::Status(500), Way::Status(404), Way::Hang, Way::Endless, Way::Redirect] {
        let (bad, good) = (Receiver::start().await, Receiver::start().await);
        bad.set(way);
        let more = "timeout = \"100ms\"\ngive-up-after = \"1s\"";
        let text = entry("bad", &bad, &[SECRET], more) + &entry("good", &good, &[SECRET], "");
        let world = World::start(with(config(&sqlite_url()), &file(&text))).await;
        begins(&world, "bad").await;
        begins(&world, "good").await;
        for gid in ["g-1", "g-2", "g-3"] {
            world.submit(tcc(gid, &["ok"])).await.unwrap();
        }
        good.has_taken(3).await;
        bad.has_refused(1).await;
        let failing = until("it to be told", async || {
            let all = webhooks(&world).await;
            all.into_iter().find(|webhook| webhook.state() == WebhookState::Failing)
        })
        .await;
        assert_eq!(failing.name, "bad", "{way:?}");
        assert!(failing.failing_since.is_some() && !failing.last_error.is_empty(), "{failing:?}");
        let dead = until("dead letters", async || {
            Some(dead_letters(&world, "bad").await).filter(|dead| dead.len() == 3)
        })
        .await;
        assert_eq!(dead, dead_letters(&world, "").await, "{way:?}");
        let gids = dead.iter().map(|dead| dead.event.as_ref().unwrap().gid.as_str());
        assert_eq!(gids.collect::<Vec<_>>(), ["g-1", "g-2", "g-3"], "{way:?}");
        assert!(dead.iter().all(|dead| dead.attempts >= 3 && !dead.due), "{dead:?}");
        assert!(bad.taken().is_empty(), "{way:?}: a redirect is not followed");
        // While it takes nothing they stay.
        assert_eq!(redeliver(&world, "bad", 0).await, 3);
        so("one more attempt each", async || {
            let again = dead_letters(&world, "bad").await;
            again.iter().zip(&dead).all(|(now, then)| now.attempts > then.attempts && !now.due)
        })
        .await;
        let (_, page) = super::http::http_get(&world, "/system").await;
        for shown in [
            "<th scope=\"row\">bad</th>",
            ">failing</span>",
            ">delivering</span>",
            "<span class=\"state bad\">3</span>",
            &failing.last_error,
        ] {
            assert!(page.contains(shown), "{way:?}: {shown} in {page}");
        }
        bad.set(Way::Status(200));
        let revision = dead[1].event.as_ref().unwrap().revision;
        assert_eq!(
            (redeliver(&world, "bad", revision).await, redeliver(&world, "bad", 1).await),
            (1, 0)
        );
        assert_eq!(bad.has_taken(1).await[0].told().0, "g-2", "{way:?}");
        redeliver(&world, "bad", 0).await;
        bad.has_taken(3).await;
        so("them to be gone", async || dead_letters(&world, "bad").await.is_empty()).await;
        world.submit(tcc("g-4", &["ok"])).await.unwrap();
        assert_eq!(bad.has_taken(4).await[3].told().0, "g-4", "{way:?}");
        good.has_taken(4).await;
        let ids: BTreeSet<_> =
            good.taken().iter().map(|m| m.header("webhook-id").to_owned()).collect();
        assert_eq!(ids.len(), 4, "{way:?}");
    }
}

/// A receiver that is away for less than it may be gets all of it, in order.
#[tokio::test]
async fn a_receiver_that_comes_back_gets_all_in_order() {
    let receiver = Receiver::start().await;
    receiver.set(Way::Status(503));
    let world =
        World::start(with(config(&sqlite_url()), &file(&entry("a", &receiver, &[SECRET], ""))))
            .await;
    begins(&world, "a").await;
    for number in 0..40 {
        world.submit(tcc(&format!("g-{number}"), &["ok"])).await.unwrap();
    }
    receiver.has_refused(3).await;
    receiver.set(Way::Status(200));
    receiver.has_taken(40).await;
    let gids: Vec<String> = receiver.told().into_iter().map(|(gid, _)| gid).collect();
    assert_eq!(gids, (0..40).map(|number| format!("g-{number}")).collect::<Vec<_>>());
    assert!(dead_letters(&world, "").await.is_empty());
    let (_, text) = super::http::http_get(&world, "/metrics").await;
    assert!(text.contains("unanimo_webhook_delivered_total{webhook=\"a\"} 40\n"), "{text}");
}

/// A receiver that is gone is sent nothing, over a restart, until it takes a test event.
#[tokio::test]
async fn a_receiver_that_is_gone_is_sent_nothing_until_it_takes_a_test_event() {
    let receiver = Receiver::start().await;
    receiver.set(Way::Status(410));
    let config = with(config(&sqlite_url()), &file(&entry("a", &receiver, &[SECRET], "")));
    let world = World::start(config).await;
    begins(&world, "a").await;
    world.submit(tcc("g-1", &["ok"])).await.unwrap();
    let is_stopped = async |world: &World| {
        so("it to stop", async || {
            let all = webhooks(world).await;
            all.iter().any(|webhook| webhook.state() == WebhookState::Stopped)
        })
        .await;
    };
    is_stopped(&world).await;
    let world = world.crash_and_restart().await;
    is_stopped(&world).await;
    let answer = test(&world, "a").await;
    assert_eq!((answer.taken, answer.error.as_str()), (false, "answered 410 Gone"));
    receiver.set(Way::Status(200));
    world.submit(tcc("g-2", &["ok"])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(receiver.taken().is_empty(), "it is gone");
    let answer = test(&world, "a").await;
    assert!(answer.taken && answer.error.is_empty());
    let taken = receiver.has_taken(3).await;
    assert_eq!(
        (&taken[0].json()["id"], &taken[0].json()["type"]),
        (&answer.event_id.into(), &"org.unanimo.webhook.test".into())
    );
    assert!(taken[0].is_signed_with(SECRET));
    assert_eq!(receiver.told()[1..], pairs(&[("g-1", "committed"), ("g-2", "committed")])[..]);
}

/// The file is read again: secrets are rotated, webhooks come and go, a bad file changes nothing.
#[tokio::test]
async fn the_file_is_read_again() {
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let path = file(&entry("a", &receiver, &[SECRET], ""));
    let world = World::start(with(config(&sqlite_url()), &path)).await;
    begins(&world, "a").await;
    let unknown = TestWebhookRequest { webhook: "b".into(), ..Default::default() };
    let error = world.operator().test_webhook(unknown).await.unwrap_err();
    assert_eq!(describe(&error), (Code::NotFound, "WEBHOOK_UNKNOWN".to_owned(), Vec::new()));
    world.submit(tcc("g-1", &["ok"])).await.unwrap();
    receiver.has_taken(1).await;
    let both = entry("a", &receiver, &[OTHER_SECRET], "")
        + &entry("b", &other, &[SECRET], "begin = \"oldest\"");
    std::fs::write(&path, &both).unwrap();
    begins(&world, "b").await;
    other.has_taken(1).await;
    std::fs::write(&path, both.replace("http://", "ftp://")).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.submit(tcc("g-2", &["ok"])).await.unwrap();
    let last = receiver.has_taken(2).await.pop().unwrap();
    assert!(last.is_signed_with(OTHER_SECRET) && !last.is_signed_with(SECRET));
    std::fs::write(&path, entry("b", &other, &[SECRET], "")).unwrap();
    so("it to go", async || webhooks(&world).await.len() == 1).await;
    world.submit(tcc("g-3", &["ok"])).await.unwrap();
    other.has_taken(3).await;
    assert_eq!(receiver.told().len(), 2, "nobody sends to it");
}

/// A test event that was taken before the receiver went says nothing of what comes after.
#[tokio::test]
async fn a_test_event_of_before_revives_nobody() {
    let receiver = Receiver::start().await;
    let config = with(config(&sqlite_url()), &file(&entry("a", &receiver, &[SECRET], "")));
    let world = World::start(config).await;
    begins(&world, "a").await;
    assert!(test(&world, "a").await.taken);
    receiver.set(Way::Status(410));
    world.submit(tcc("g-1", &["ok"])).await.unwrap();
    receiver.has_refused(1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(receiver.refused.lock().unwrap().len(), 1, "it is gone, and sent nothing more");
    let all = webhooks(&world).await;
    assert_eq!(all[0].state(), WebhookState::Stopped);
}

/// A coordinator that stops in good order has written how far it is: its successor sends nothing again.
#[tokio::test]
async fn a_stop_in_good_order_repeats_nothing() {
    let receiver = Receiver::start().await;
    let config = with(config(&sqlite_url()), &file(&entry("a", &receiver, &[SECRET], "")));
    let world = World::start(config).await;
    begins(&world, "a").await;
    for number in 1..=5 {
        world.submit(tcc(&format!("g-{number}"), &["ok"])).await.unwrap();
    }
    receiver.has_taken(5).await;
    let World { running, p, config, .. } = world;
    running.stop().await.unwrap();
    let world = World::start_with(config, p).await;
    world.submit(tcc("g-6", &["ok"])).await.unwrap();
    so("the last one to come", async || receiver.told().iter().any(|(gid, _)| gid == "g-6")).await;
    assert_eq!(receiver.told().len(), 6, "{:?}", receiver.told());
}
