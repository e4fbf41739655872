use super::*;

fn databases() -> (Databases, ParticipantName, Instant) {
    (Databases::new(Duration::from_secs(15)), name("shop"), Instant::now())
}

fn name(text: &str) -> ParticipantName {
    ParticipantName::new(text).expect("a name")
}

impl Databases {
    /// Registers a process so many seconds after the start, and tells whether it is taken.
    fn takes(&self, at: &str, instance: &str, id: &str, now: Instant) -> bool {
        let shop = name("shop");
        let taken = self.registers_at(&shop, at, instance, id, now).is_ok();
        if taken {
            self.note(&shop, Source::process(at, instance), id, now);
        }
        taken
    }
}

#[test]
fn a_second_database_of_a_living_name_is_refused() {
    let (databases, shop, now) = databases();
    let at = |endpoint: &str, id: &str, secs: u64| {
        databases.takes(endpoint, "", id, now + Duration::from_secs(secs))
    };
    let votes =
        |id: &str, secs| databases.votes_at(&shop, id, now + Duration::from_secs(secs)).is_ok();
    assert!(at("http://a", "one", 0) && at("http://b", "one", 0) && at("http://a", "one", 1));
    assert!(!at("http://c", "two", 1), "a and b are alive");
    assert!(!at("http://a", "two", 1), "b is alive");
    assert!(at("http://d", "", 1), "of an SDK that knows none");
    assert_eq!(databases.id_of(&shop), "one");
    assert!(votes("one", 1) && votes("", 1));
    assert!(!votes("two", 1), "S2");
    assert!(databases.check(&shop, "two").is_err() && databases.check(&shop, "one").is_ok());
    databases.left(&shop, "http://b", "");
    assert!(!at("http://a", "two", 2), "it has itself another one, and is alive");
    databases.left(&shop, "http://a", "");
    assert!(at("http://a", "two", 2), "nobody else lives");
    assert!(!at("http://c", "three", 16));
    assert!(at("http://c", "three", 20), "nobody else lives");
    assert!(!votes("two", 20));
}

/// A balancer, or a service of Kubernetes, is one address of many processes.
#[test]
fn s2_a_second_database_behind_the_same_address_is_refused() {
    for instances in [["first", "second"], ["same", "same"]] {
        let (databases, shop, now) = databases();
        let at = |n: usize, id: &str, secs: u64| {
            let now = now + Duration::from_secs(secs);
            databases.takes("http://balancer", instances[n], id, now)
        };
        for round in 0..20 {
            assert!(at(0, "one", round * 5), "{instances:?} {round}");
            assert!(!at(1, "two", round * 5 + 2), "{instances:?} {round}: the first one is alive");
            assert!(
                databases.votes_at(&shop, "two", now + Duration::from_secs(round * 5 + 3)).is_err()
            );
        }
        assert!(!at(1, "two", 110));
        assert!(at(1, "two", 111), "the first one was silent for 16 s");
        assert!(!at(0, "one", 112));
    }
}

#[test]
fn one_of_two_behind_an_address_leaves_alone() {
    let (databases, shop, now) = databases();
    assert!(databases.takes("http://balancer", "first", "one", now));
    assert!(databases.takes("http://balancer", "second", "one", now));
    databases.left(&shop, "http://balancer", "first");
    assert!(!databases.takes("http://balancer", "third", "two", now), "the second one is alive");
    databases.left(&shop, "http://balancer", "second");
    assert!(databases.takes("http://balancer", "third", "two", now));
}

#[test]
fn votes_alone_tell_databases_apart() {
    let (databases, shop, now) = databases();
    let votes =
        |id: &str, secs| databases.votes_at(&shop, id, now + Duration::from_secs(secs)).is_ok();
    assert!(databases.check(&shop, "any").is_ok(), "nothing is known");
    assert!(votes("one", 0));
    assert!(!votes("two", 60));
    let later = now + Duration::from_secs(60);
    assert!(databases.takes("http://a", "", "two", later), "a registration tells more");
    assert!(!votes("one", 61));
}

#[test]
fn what_is_stored_is_the_known_one_until_its_process_is_gone() {
    let (databases, shop, now) = databases();
    databases.was_seen(&shop, "http://a", "life", "one");
    databases.was_seen(&shop, "http://old", "older", "two");
    assert_eq!(databases.id_of(&shop), "one", "the one that was noted first");
    assert!(databases.votes(&shop, "two").is_err(), "S2");
    let register = |instance: &str, id: &str| {
        let is_new = databases.registers(&shop, "http://a", instance, id);
        if is_new.is_ok() {
            databases.registered(&shop, "http://a", instance, id);
        }
        is_new
    };
    assert_eq!(register("life", "one"), Ok(false), "it is stored");
    assert_eq!(register("next", "one"), Ok(true), "a new life is to be stored");
    assert_eq!(register("next", "one"), Ok(false));
    assert!(register("other", "two").is_err());
    let later = now + Duration::from_secs(30);
    assert_eq!(databases.registers_at(&shop, "http://b", "other", "two", later), Ok(true));
}

/// The row of a process that was silent for long is forgotten: once it is back, its id is stored anew.
#[test]
fn s2_a_process_that_comes_back_is_to_be_stored() {
    let (databases, shop, now) = databases();
    assert!(databases.takes("http://a", "life", "one", now));
    let later = now + Duration::from_secs(700);
    databases.left(&shop, "http://a", "life");
    assert_eq!(databases.registers_at(&shop, "http://a", "life", "one", later), Ok(true));
    assert!(databases.takes("http://b", "other", "one", later));
    databases.note(&shop, Source::process("http://a", "life"), "one", later);
    let much_later = later + Duration::from_secs(700);
    assert!(databases.takes("http://b", "other", "one", much_later));
    let is_new = databases.registers_at(&shop, "http://a", "life", "one", much_later);
    assert_eq!(is_new, Ok(true), "nobody keeps what is silent");
}

#[test]
fn a_registration_that_is_not_stored_lets_no_second_database_in() {
    let (databases, shop, now) = databases();
    assert_eq!(databases.registers(&shop, "http://a", "life", "one"), Ok(true));
    assert!(databases.votes_at(&shop, "two", now).is_ok(), "nothing was noted");
    databases.forget(&shop);
    assert!(databases.takes("http://b", "life", "two", now));
    for instance in ["life", "next", "next"] {
        let is_new = databases.registers(&shop, "http://b", instance, "two");
        assert_eq!(is_new, Ok(instance == "next"), "it is stored when it comes again");
        assert!(databases.registers(&shop, "http://c", "life", "three").is_err(), "S2: b is alive");
        assert_eq!(databases.registers(&shop, "http://b", "life", ""), Ok(false), "it tells none");
    }
    assert!(databases.votes(&shop, "three").is_err(), "S2");
}

#[test]
fn l5_names_that_nobody_knows_are_not_kept() {
    let (databases, shop, now) = databases();
    for n in 0..1000 {
        assert_eq!(databases.registers(&name(&format!("n{n}")), "http://a", "life", "x"), Ok(true));
    }
    assert!(databases.known().is_empty());
    let long_ago = now.checked_sub(VOTE_LIVES * 2).expect("an uptime of minutes");
    for (who, at) in [("gone", long_ago), ("shop", long_ago), ("living", now)] {
        databases.note(&name(who), Source::Vote, "one", at);
    }
    databases.sweep(|name| *name == shop);
    let kept: Vec<String> = databases.known().keys().map(ToString::to_string).collect();
    assert_eq!(kept, ["living", "shop"]);
}
