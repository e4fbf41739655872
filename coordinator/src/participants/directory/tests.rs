use super::*;
use crate::participants::breaker::Pauses;

pub(super) fn options() -> Options {
    let pauses = Pauses { base: Duration::from_secs(1), cap: Duration::from_secs(1) };
    Options {
        slots: 2,
        keep_alive_interval: Duration::from_secs(100),
        message_bytes_max: 1 << 20,
        replies_bytes_max: 2 << 20,
        participants_max: 3,
        participants_per_namespace: 0,
        connections_max: 512,
        prepare_pauses: pauses,
        phase_two_pauses: pauses,
    }
}

fn name(text: &str) -> ParticipantName {
    ParticipantName::new(text).expect("a name")
}

fn registered(instance: &str) -> Registered {
    Registered { instance: instance.to_owned(), ..Registered::default() }
}

const URL: &str = "http://a:1";

/// Names of those that came back since the last question.
fn came_back(directory: &Directory) -> Vec<String> {
    let names = std::mem::take(&mut *directory.returned.write().expect("no panic"));
    names.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn instances_behind_one_address_are_told_apart() {
    let directory = Directory::new(options());
    let bank = name("bank");
    directory.seen(&bank, URL, registered("one"));
    assert_eq!(came_back(&directory), ["bank"], "it was not there");
    directory.seen(&bank, URL, registered("two"));
    assert_eq!(came_back(&directory), ["bank"], "a process has started");
    for _ in 0..10 {
        directory.seen(&bank, URL, registered("one"));
        directory.seen(&bank, URL, registered("two"));
    }
    assert!(came_back(&directory).is_empty(), "both were there");
    directory.leave(&bank, URL, "one");
    assert_eq!(directory.shown(&bank).len(), 1, "the other one is there");
    directory.invite([&bank]).expect("it is alive");
    directory.leave(&bank, URL, "two");
    assert_eq!(directory.invite([&bank]).err(), Some(Error::Gone(bank.clone())));
    directory.seen(&bank, URL, registered("two"));
    assert_eq!(came_back(&directory), ["bank"]);
}

#[tokio::test]
async fn more_instances_than_are_told_apart_are_no_return() {
    let directory = Directory::new(options());
    let bank = name("bank");
    for n in 0..200 {
        let instance = n.to_string();
        if let Some(surplus) = directory.surplus(&bank, URL, &instance) {
            directory.leave(&bank, URL, &surplus);
        }
        directory.seen(&bank, URL, registered(&instance));
    }
    assert_eq!(came_back(&directory).len(), endpoint::INSTANCES_MAX);
    let entry = directory.entry(&bank).expect("it registered");
    assert_eq!(read(&entry.endpoints)[0].instances().len(), endpoint::INSTANCES_MAX);
}

#[tokio::test]
async fn what_was_gone_before_the_start_is_gone_after_it() {
    let directory = Directory::new(options());
    let secs = Duration::from_secs;
    let stored = |who: &str, silent, pardoned| {
        directory.add_stored(&name(who), URL, "life".to_owned(), secs(silent), secs(pardoned));
    };
    // No coordinator ran for 1000 s; an endpoint is gone after 300 s.
    stored("alive", 1000, 1000);
    stored("late", 1299, 1000);
    stored("gone", 1301, 1000);
    stored("long", 301, 0);
    for (who, alive) in [("alive", true), ("late", true), ("gone", false), ("long", false)] {
        assert_eq!(directory.invite([&name(who)]).is_ok(), alive, "{who}");
    }
    assert_eq!(directory.invite([&name("gone")]).err(), Some(Error::NotYet(name("gone"))));
    let shown = directory.shown(&name("alive"));
    assert!(shown[0].silent_for >= secs(1000), "the time is told as it is");
    assert!(came_back(&directory).is_empty());
    directory.seen(&name("alive"), URL, registered("life"));
    assert!(came_back(&directory).is_empty(), "it was there all the time");
    directory.seen(&name("gone"), URL, registered("life"));
    assert_eq!(came_back(&directory), ["gone"]);
}

#[tokio::test]
async fn nothing_is_dialled_before_the_first_call() {
    let directory = Directory::new(options());
    directory.seen(&name("bank"), URL, registered("one"));
    let entry = directory.entry(&name("bank")).expect("it registered");
    let endpoint = Arc::clone(&read(&entry.endpoints)[0]);
    assert!(!endpoint.is_dialled());
    let taken = directory.take(&entry, CallKind::Prepare, &[]).await.expect("a slot");
    assert!(matches!(directory.route(&taken, false), Ok(Route::Remote(..))));
    assert!(endpoint.is_dialled());
    directory.close_idle(Duration::ZERO);
    assert!(endpoint.is_dialled(), "a call is under way");
    drop(taken);
    directory.close_idle(Duration::from_secs(60));
    assert!(endpoint.is_dialled());
    directory.close_idle(Duration::ZERO);
    assert!(!endpoint.is_dialled());
}

/// Connections for calls that fail are given back once none does, and before anybody else is refused his own.
#[tokio::test]
async fn connections_for_calls_that_fail_are_given_back() {
    let tls =
        unanimo_tls::Client::load(unanimo_tls::ClientFiles::new()).expect("there are no files");
    let room_for = |max| Directory {
        connections: Connections::new(&Options { connections_max: max, ..options() }, tls.clone()),
        ..Directory::new(options())
    };
    let directory = room_for(6);
    let endpoint_of = async |who: &str, url: &str| {
        directory.seen(&name(who), url, registered("one"));
        let entry = directory.entry(&name(who)).expect("it registered");
        directory.take(&entry, CallKind::Prepare, &[]).await.expect("a slot")
    };
    let route = |taken: &Taken, fails| directory.route(taken, fails).ok();
    let (bank, shop) = (endpoint_of("bank", URL).await, endpoint_of("shop", "http://s:1").await);
    let _usual = route(&bank, false).expect("there is room");
    let failing = route(&bank, true).expect("there is room");
    let _shops = route(&shop, false).expect("there is room");
    // The next one would be the eighth.
    let inn = endpoint_of("inn", "http://i:1").await;
    assert!(route(&inn, false).is_none(), "all are in use");
    drop(failing);
    directory.close_failing(Duration::from_secs(60));
    assert!(route(&shop, true).is_some(), "the usual ones, where there is no room");
    let _inns = route(&inn, false).expect("those for calls that fail are given back");
    assert!(route(&endpoint_of("pub", "http://p:1").await, false).is_none());
}
