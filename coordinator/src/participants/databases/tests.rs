use super::*;

fn databases() -> (Databases, ParticipantName, Instant) {
    (Databases::new(Duration::from_secs(15)), name("shop"), Instant::now())
}

fn name(text: &str) -> ParticipantName {
    ParticipantName::new(text).expect("a name")
}

fn one(id: &str) -> Database {
    placed(id, "")
}

fn placed(id: &str, place: &str) -> Database {
    Database { id: id.to_owned(), place: place.to_owned() }
}

impl Databases {
    /// Registers a process so many seconds after the start, and tells whether it is taken.
    fn takes(&self, at: &str, instance: &str, id: &str, now: Instant) -> bool {
        self.takes_at(at, instance, &one(id), now)
    }

    fn takes_at(&self, at: &str, instance: &str, database: &Database, now: Instant) -> bool {
        let shop = name("shop");
        let taken = self.registers_at(&shop, at, instance, database, now).is_ok();
        if taken {
            self.note(&shop, Source::process(at, instance), database, now);
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
    assert_eq!(databases.of(&shop).id, "one");
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
    databases.was_seen(&shop, "http://a", "life", &one("one"));
    databases.was_seen(&shop, "http://old", "older", &one("two"));
    assert_eq!(databases.of(&shop).id, "one", "the one that was noted first");
    assert!(databases.votes(&shop, "two").is_err(), "S2");
    let register = |instance: &str, id: &str| {
        let is_new = databases.registers(&shop, "http://a", instance, &one(id));
        if is_new.is_ok() {
            databases.registered(&shop, "http://a", instance, &one(id));
        }
        is_new
    };
    assert_eq!(register("life", "one"), Ok(false), "it is stored");
    assert_eq!(register("next", "one"), Ok(true), "a new life is to be stored");
    assert_eq!(register("next", "one"), Ok(false));
    assert!(register("other", "two").is_err());
    let later = now + Duration::from_secs(30);
    assert_eq!(databases.registers_at(&shop, "http://b", "other", &one("two"), later), Ok(true));
}

/// The row of a process that was silent for long is forgotten: once it is back, its id is stored anew.
#[test]
fn s2_a_process_that_comes_back_is_to_be_stored() {
    let (databases, shop, now) = databases();
    assert!(databases.takes("http://a", "life", "one", now));
    let later = now + Duration::from_secs(700);
    databases.left(&shop, "http://a", "life");
    assert_eq!(databases.registers_at(&shop, "http://a", "life", &one("one"), later), Ok(true));
    assert!(databases.takes("http://b", "other", "one", later));
    databases.note(&shop, Source::process("http://a", "life"), &one("one"), later);
    let much_later = later + Duration::from_secs(700);
    assert!(databases.takes("http://b", "other", "one", much_later));
    let is_new = databases.registers_at(&shop, "http://a", "life", &one("one"), much_later);
    assert_eq!(is_new, Ok(true), "nobody keeps what is silent");
}

#[test]
fn a_registration_that_is_not_stored_lets_no_second_database_in() {
    let (databases, shop, now) = databases();
    assert_eq!(databases.registers(&shop, "http://a", "life", &one("one")), Ok(true));
    assert!(databases.votes_at(&shop, "two", now).is_ok(), "nothing was noted");
    databases.forget(&shop);
    assert!(databases.takes("http://b", "life", "two", now));
    for instance in ["life", "next", "next"] {
        let is_new = databases.registers(&shop, "http://b", instance, &one("two"));
        assert_eq!(is_new, Ok(instance == "next"), "it is stored when it comes again");
        assert!(
            databases.registers(&shop, "http://c", "life", &one("three")).is_err(),
            "S2: b is alive"
        );
        assert_eq!(
            databases.registers(&shop, "http://b", "life", &one("")),
            Ok(false),
            "it tells none"
        );
    }
    assert!(databases.votes(&shop, "three").is_err(), "S2");
}

#[test]
fn l5_names_that_nobody_knows_are_not_kept() {
    let (databases, shop, now) = databases();
    for n in 0..1000 {
        assert_eq!(
            databases.registers(&name(&format!("n{n}")), "http://a", "life", &one("x")),
            Ok(true)
        );
    }
    assert!(databases.known().is_empty());
    let long_ago = now.checked_sub(VOTE_LIVES * 2).expect("an uptime of minutes");
    for (who, at) in [("gone", long_ago), ("shop", long_ago), ("living", now)] {
        databases.note(&name(who), Source::Vote, &one("one"), at);
    }
    databases.sweep(|name| *name == shop);
    let kept: Vec<String> = databases.known().keys().map(ToString::to_string).collect();
    assert_eq!(kept, ["living", "shop"]);
}

/// A copy that was restored beside its original has the same id, and its process comes while the original's lives.
#[test]
fn s2_a_copy_of_a_living_database_is_refused() {
    let (databases, shop, now) = databases();
    let at = |endpoint: &str, instance: &str, place: &str, secs: u64| {
        let now = now + Duration::from_secs(secs);
        databases.takes_at(endpoint, instance, &placed("one", place), now)
    };
    assert!(at("http://a", "first", "here", 0) && at("http://b", "second", "here", 1));
    assert_eq!(databases.of(&shop), placed("one", "here"));
    for secs in [2, 5, 8, 14] {
        assert!(!at("http://c", "third", "there", secs), "S2 at {secs}");
        assert!(!at("http://a", "third", "there", secs), "S2 at {secs}, at the same address");
        assert!(at("http://a", "first", "here", secs) && at("http://b", "second", "", secs));
    }
    assert_eq!(databases.of(&shop), placed("one", "here"));
    let told = databases.registers_at(&shop, "http://c", "third", &placed("one", "there"), now);
    let told = told.expect_err("it is refused").to_string();
    assert!(told.contains("database one at here, and this is one at there"), "{told}");
    databases.left(&shop, "http://a", "first");
    assert!(!at("http://c", "third", "there", 15), "S2: b's database may only not answer");
    databases.left(&shop, "http://b", "second");
    assert!(at("http://c", "third", "there", 15), "nobody else is left");
    assert_eq!(databases.of(&shop), placed("one", "there"));
    assert!(!at("http://a", "first", "here", 16), "the latest one stays");
}

/// L1: a place where no process is any more is told to nobody: votes tell none, and count for longer.
#[test]
fn l1_a_place_that_nobody_holds_is_not_told() {
    let (databases, shop, now) = databases();
    assert!(databases.takes_at("http://a", "first", &placed("one", "here"), now));
    databases.votes(&shop, "one").expect("it is its database");
    assert_eq!(databases.of(&shop), placed("one", "here"));
    databases.left(&shop, "http://a", "first");
    assert_eq!(databases.of(&shop), placed("one", ""), "the id of the vote counts");
}

/// A replica is promoted: the processes find out one after the other, and nobody has to say that it moved.
#[test]
fn l1_processes_whose_database_moves_are_taken_once_the_last_one_has_moved() {
    let (databases, shop, now) = databases();
    let at = |process: usize, place: &str, secs: u64| {
        let now = now + Duration::from_secs(secs);
        let endpoint = ["http://a", "http://b", "http://c"][process];
        databases.takes_at(endpoint, "life", &placed("one", place), now)
    };
    assert!((0..3).all(|process| at(process, "here", 0)));
    assert!(!at(0, "there", 5), "two are not there yet");
    assert_eq!(databases.of(&shop).place, "here");
    assert!(!at(1, "there", 6), "one is not there yet");
    assert!(at(2, "there", 7), "all are there");
    assert_eq!(databases.of(&shop), placed("one", "there"));
    assert!((0..3).all(|process| at(process, "there", 10)));
    // One alone moves at once, and one that does not know its place is in nobody's way.
    databases.left(&shop, "http://a", "life");
    databases.left(&shop, "http://b", "life");
    assert!(at(2, "elsewhere", 11) && at(0, "elsewhere", 12));
    assert!(at(0, "", 13) && at(2, "at last", 14));
}

/// The first one goes to a copy while the others stay where they were: it is told of once it counts as gone.
#[test]
fn s2_a_process_that_moves_to_a_copy_alone_is_refused() {
    let (databases, shop, now) = databases();
    let at = |endpoint: &str, place: &str, secs: u64| {
        let now = now + Duration::from_secs(secs);
        databases.takes_at(endpoint, "life", &placed("one", place), now)
    };
    assert!(at("http://a", "here", 0) && at("http://b", "here", 0));
    let told = || databases.known().get(&shop).map_or(0, |known| known.others);
    for secs in (5..60).step_by(5) {
        assert!(!at("http://a", "copy", secs), "S2 at {secs}");
        assert!(at("http://b", "here", secs));
        assert_eq!(told() > 0, secs > 15, "at {secs}");
    }
    assert_eq!(databases.of(&shop).place, "here");
}

/// The database of a process that died counts for as long as the process would be alive. Its next life, whose database is another
/// one or elsewhere, is refused meanwhile, and nobody is told: nothing is wrong.
#[test]
fn the_next_life_of_a_process_that_died_raises_no_alarm() {
    for other in [placed("one", "there"), placed("two", "here"), placed("two", "there")] {
        let (databases, shop, now) = databases();
        let at = |secs: u64| now + Duration::from_secs(secs);
        assert!(databases.takes_at("http://a", "first", &placed("one", "here"), now));
        assert!(databases.takes_at("http://b", "second", &placed("one", "here"), now));
        for secs in 1..=15 {
            let refused = databases.registers_at(&shop, "http://a", "next", &other, at(secs));
            assert!(!refused.expect_err("S2").both_live, "at {secs}");
        }
        assert!(databases.known().get(&shop).expect("it is known").told_at.is_none(), "{other:?}");
        assert!(databases.takes_at("http://a", "next", &other, at(16)), "L1");
    }
}

/// Processes that live register again within an interval: then a person is told.
#[test]
fn s11_two_that_live_with_two_databases_are_told_at_the_next_registration() {
    for other in [placed("one", "there"), placed("two", "here")] {
        for instances in [["first", "second"], ["", ""]] {
            let (databases, shop, now) = databases();
            let at = |secs: u64| now + Duration::from_secs(secs);
            let here = placed("one", "here");
            // Behind one address, or each at its own.
            let endpoints =
                if instances[0].is_empty() { ["http://a", "http://b"] } else { ["http://a"; 2] };
            assert!(databases.takes_at(endpoints[0], instances[0], &here, now));
            let refused = |secs| {
                let refused =
                    databases.registers_at(&shop, endpoints[1], instances[1], &other, at(secs));
                refused.expect_err("S2").both_live
            };
            assert!(!refused(1) && !refused(2));
            assert!(databases.takes_at(endpoints[0], instances[0], &here, at(5)));
            assert!(refused(6), "S11: {other:?}");
            assert!(databases.known().get(&shop).expect("it is known").told_at.is_some());
            // One that comes for the first time is not told of for another one's sake.
            let third = databases.registers_at(&shop, "http://c", "third", &other, at(7));
            assert!(!third.expect_err("S2").both_live);
        }
    }
}

#[test]
fn s2_the_place_of_those_that_lived_before_a_restart_is_known() {
    let (databases, shop, _) = databases();
    databases.was_seen(&shop, "http://a", "life", &placed("one", "here"));
    databases.was_seen(&shop, "http://b", "life", &placed("one", "before"));
    assert_eq!(databases.of(&shop), placed("one", "here"), "the latest one");
    let copy = databases.registers(&shop, "http://c", "life", &placed("one", "copy"));
    assert!(copy.is_err(), "S2");
    let here = placed("one", "here");
    assert_eq!(databases.registers(&shop, "http://b", "life", &here), Ok(true), "to be stored");
    assert_eq!(databases.registers(&shop, "http://a", "life", &here), Ok(false));
}
