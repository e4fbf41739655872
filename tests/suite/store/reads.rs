//! Lists, counts, and reads that are dropped.

use std::time::Duration;

use unanimo_coordinator::store::{Filter, Key, PhaseName};
use unanimo_core::{Input, ParticipantName, TxId};

use super::{Fixture, a_write, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

on_both_stores!(
    a_list_is_filtered_and_paged,
    few_that_match_are_found_page_by_page,
    what_is_chosen_by_its_begin_is_what_is_listed,
    an_endpoint_is_deregistered_by_the_instance_that_registered_it_last,
    stalled_transactions_are_counted_and_listed,
    s3_a_caller_that_goes_away_loses_no_acknowledged_write,
);

async fn an_endpoint_is_deregistered_by_the_instance_that_registered_it_last(fixture: Fixture) {
    let (endpoints, me) = (fixture.store.endpoints(), fixture.me);
    let name = ParticipantName::new("bank").unwrap();
    let url = "http://127.0.0.1:9";
    endpoints.register(me, &name, url, "old", now()).await.unwrap();
    endpoints.register(me, &name, url, "new", now()).await.unwrap();
    assert!(!endpoints.deregister(me, &name, url, "old").await.unwrap(), "it is the new one's");
    let listed = endpoints.list().await.unwrap();
    let shown: Vec<_> = listed.iter().map(|l| (l.endpoint.as_deref(), &*l.instance)).collect();
    assert_eq!(shown, [(Some(url), "new")]);
    assert!(endpoints.deregister(me, &name, url, "new").await.unwrap());
    assert!(endpoints.deregister(me, &name, url, "new").await.unwrap(), "it has left");
    assert_eq!(endpoints.list().await.unwrap()[0].endpoint, None, "the name stays");
    // One that was registered before instances were stored.
    endpoints.register(me, &name, url, "", now()).await.unwrap();
    assert!(endpoints.deregister(me, &name, url, "any").await.unwrap());
}

async fn a_list_is_filtered_and_paged(fixture: Fixture) {
    let mut ids = Vec::new();
    for index in 0..5_u64 {
        let at = LONG_AGO.after(Duration::from_secs(index));
        let gid = unanimo_core::Gid::new(&format!("order-{index}%_")).unwrap_err();
        assert!(gid.to_string().contains("A-Z"), "wildcards are in no gid: {gid}");
        let mut definition =
            definition(&unanimo_core::Gid::new(&format!("order-{index}")).unwrap());
        if index == 4 {
            definition.branches[1].participant = ParticipantName::new("shop").unwrap();
        }
        if index == 1 {
            definition.initiator = "web".to_owned();
        }
        let (mut live, begin) = Live::begin_with(definition, at);
        fixture.write([begin]).await;
        if index % 2 == 0 {
            fixture.write([live.rollback()]).await;
        }
        ids.push(live.id());
    }
    let list = async |filter: Filter| -> Vec<TxId> {
        let found =
            fixture.store.transactions().list(&Filter { limit: 10, ..filter }).await.unwrap().found;
        found.into_iter().map(|stored| stored.unwrap().record.identity.tx_id).collect()
    };
    let [first, second, third, fourth, fifth] = ids[..] else { panic!() };
    assert_eq!(list(Filter::default()).await, [fifth, fourth, third, second, first]);
    let aborting = vec![PhaseName::Aborting, PhaseName::Committed];
    assert_eq!(list(Filter { phases: aborting, ..Filter::default() }).await, [fifth, third, first]);
    let active = vec![PhaseName::Active];
    assert_eq!(list(Filter { phases: active, ..Filter::default() }).await, [fourth, second]);
    let prefix = |text: &str| Filter { gid_prefix: text.into(), ..Filter::default() };
    assert_eq!(list(prefix("order-3")).await, [fourth]);
    assert_eq!(list(prefix("rder")).await, []);
    assert_eq!(list(prefix("%")).await, []);
    let shop = Some(ParticipantName::new("shop").unwrap());
    assert_eq!(list(Filter { participant: shop, ..Filter::default() }).await, [fifth]);
    let by = |initiator: &str| Filter { initiator: Some(initiator.into()), ..Filter::default() };
    assert_eq!(list(by("web")).await, [second]);
    assert_eq!(list(by("we")).await, []);
    let from = Some(LONG_AGO.after(Duration::from_secs(1)));
    let until = Some(LONG_AGO.after(Duration::from_secs(3)));
    let between = Filter { created_from: from, created_until: until, ..Filter::default() };
    assert_eq!(list(between).await, [third, second]);
    let page = Filter { before: Some(fourth), limit: 2, ..Filter::default() };
    let page = fixture.store.transactions().list(&page).await.unwrap().found;
    let page: Vec<_> =
        page.into_iter().map(|stored| stored.unwrap().record.identity.tx_id).collect();
    assert_eq!(page, [third, second]);
}

/// A page looks at a bounded number of transactions, and the next one goes on where it ended.
async fn few_that_match_are_found_page_by_page(fixture: Fixture) {
    const OTHERS: usize = 5_000;
    let mut writer = fixture.writer().await;
    let needle = unanimo_core::Gid::new("needle").unwrap();
    let at = |index: usize| LONG_AGO.after(Duration::from_millis(index as u64));
    let (wanted, begin) = Live::begin_with(definition(&needle), at(0));
    let mut batch = vec![a_write(begin)];
    for index in 1..=OTHERS {
        batch.push(a_write(Live::begin_with(definition(&new_gid()), at(index)).1));
        if batch.len() == 1_000 || index == OTHERS {
            writer.write(&std::mem::take(&mut batch)).await.unwrap();
        }
    }
    let transactions = fixture.store.transactions();
    let mut filter = Filter { gid_prefix: "needle".into(), limit: 10, ..Filter::default() };
    let mut before_it = 0;
    // A slow machine ends each page earlier.
    let last = loop {
        let page = transactions.list(&filter).await.unwrap();
        if page.next.is_none() {
            break page;
        }
        assert_eq!(page.found, []);
        assert!(filter.before.is_none_or(|before| page.next < Some(before)), "it goes on");
        (filter.before, before_it) = (page.next, before_it + 1);
    };
    assert!((1..=OTHERS / 256).contains(&before_it), "not all were looked at: {before_it}");
    let found: Vec<_> = last.found.iter().flatten().map(|s| s.record.identity.tx_id).collect();
    assert_eq!(found, [wanted.id()]);
    // A window of time is read without what is newer.
    let created_until = Some(at(1));
    let window = Filter { created_until, limit: 10, ..Filter::default() };
    assert_eq!(transactions.list(&window).await.unwrap().found, last.found);
    // A page that is full goes on after the last that it holds.
    let full = transactions.list(&Filter { limit: 2, ..Filter::default() }).await.unwrap();
    let last = full.found[1].as_ref().unwrap().record.identity.tx_id;
    assert_eq!((full.found.len(), full.next), (2, Some(last)));
}

/// A list that is chosen by first rows and last phases alone has the transactions that the whole list has of them.
async fn what_is_chosen_by_its_begin_is_what_is_listed(fixture: Fixture) {
    let name = |text: &str| ParticipantName::new(text).unwrap();
    for n in 0..24_usize {
        let mut definition =
            definition(&unanimo_core::Gid::new(&format!("{}-{n}", n % 3)).unwrap());
        definition.metadata.insert("n".into(), (n % 2).to_string());
        definition.branches[0].participant = name(if n % 4 == 0 { "shop" } else { "bank" });
        let comes_later = n % 4 == 1;
        if comes_later {
            definition.drive = unanimo_core::Drive::Interactive;
            definition.branches.clear();
        }
        let at = LONG_AGO.after(Duration::from_millis(n as u64));
        let (mut live, begin) = Live::begin_with(definition, at);
        fixture.write([begin]).await;
        if comes_later {
            let mut spec = crate::fixtures::spec("late");
            spec.participant = name("shop");
            let enlistment = unanimo_core::Enlistment::Coordinator;
            let effects = live.apply(Input::Enlist { branch: spec.into(), enlistment });
            fixture.write([effects.transition.unwrap()]).await;
        }
        if n % 5 == 0 {
            fixture.write([live.rollback()]).await;
        }
    }
    let list = async |filter: Filter| {
        let page = fixture.store.transactions().list(&Filter { limit: 50, ..filter }).await;
        let found = page.unwrap().found.into_iter().map(|stored| stored.unwrap().record);
        found.map(|record| record.identity).collect::<Vec<_>>()
    };
    let all = list(Filter::default()).await;
    assert_eq!(all.len(), 24);
    let n_of = |gid: &str| gid.split_once('-').unwrap().1.parse::<usize>().unwrap();
    let check = async |filter: Filter, is_wanted: &dyn Fn(usize) -> bool| {
        let wanted = all.iter().filter(|one| is_wanted(n_of(one.gid.as_str())));
        assert_eq!(list(filter.clone()).await, wanted.cloned().collect::<Vec<_>>(), "{filter:?}");
    };
    let entry = |value: &str| [("n".to_owned(), value.to_owned())].into();
    let shop = || Some(name("shop"));
    check(Filter { participant: shop(), ..Filter::default() }, &|n| n % 4 < 2).await;
    check(Filter { metadata: entry("1"), ..Filter::default() }, &|n| n % 2 == 1).await;
    check(Filter { gid_prefix: "2-".into(), ..Filter::default() }, &|n| n % 3 == 2).await;
    check(Filter { gid_prefix: "2-2".into(), participant: shop(), ..Filter::default() }, &|n| {
        n == 20
    })
    .await;
    let phases = || vec![PhaseName::Active, PhaseName::Committed];
    check(Filter { phases: phases(), ..Filter::default() }, &|n| n % 5 != 0).await;
    let both =
        Filter { phases: phases(), participant: shop(), metadata: entry("1"), ..Filter::default() };
    check(both, &|n| n % 5 != 0 && n % 4 == 1).await;
}

async fn stalled_transactions_are_counted_and_listed(fixture: Fixture) {
    let (mut live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    fixture.write([live.commit()]).await;
    assert_eq!(fixture.store.transactions().attention().await.unwrap().stalled, 0);
    live.now = live.now.after(Duration::from_secs(3600));
    let stalled = live.apply(Input::Tick).transition.unwrap();
    fixture.write([stalled]).await;
    assert_eq!(fixture.store.transactions().attention().await.unwrap().stalled, 1);
    let filter = Filter { attention: true, limit: 10, ..Filter::default() };
    let listed = fixture.store.transactions().list(&filter).await.unwrap().found;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].as_ref().unwrap().record.state.attention());
}

/// Reads and rare writes are dropped at every moment; every write that is acknowledged afterwards
/// on the same connections is durable.
async fn s3_a_caller_that_goes_away_loses_no_acknowledged_write(fixture: Fixture) {
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    let name = ParticipantName::new("bank").unwrap();
    for round in 0..200_u32 {
        let patience = Duration::from_micros(u64::from(round % 50) * 20);
        let key = Key::Tx(live.id());
        let _ = tokio::time::timeout(patience, fixture.store.transactions().find(&key)).await;
        let endpoint = format!("http://dropped-{round}");
        let register =
            fixture.store.endpoints().register(fixture.me, &name, &endpoint, "life", now());
        let _ = tokio::time::timeout(patience, register).await;

        let endpoint = format!("http://kept-{round}");
        fixture
            .store
            .endpoints()
            .register(fixture.me, &name, &endpoint, "life", now())
            .await
            .unwrap();
        let seen = fixture.store.endpoints().list().await.unwrap();
        let seen = seen.iter().any(|r| r.endpoint.as_deref() == Some(&endpoint));
        assert!(seen, "round {round}: an acknowledged write is missing");
    }
}
