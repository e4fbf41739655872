//! Damaged pages of SQLite's file: each harms the transactions on it, and no others; where none can be told from others,
//! everybody hears what is to be done.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use unanimo_coordinator::store::journal::Error as JournalError;
use unanimo_coordinator::store::{
    BatchError, Claim, Error, Filter, Key, NewsOf, PostgresOptions, Retention, Write, Written,
    in_full, open,
};
use unanimo_core::{Incarnation, PhaseTwoAnswer, PhaseTwoOperation, TxId};
use uuid::Uuid;

use super::journal::Journal;
use super::{Fixture, a_write, create, rows};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

/// Transactions that have ended, and as many that are open.
const COUNT: usize = 100;

const DAY: Duration = Duration::from_secs(86_400);

/// A file with transactions that is closed.
struct Closed {
    url: String,
    path: String,
    owner: Incarnation,
    ended: Vec<Live>,
    open: Vec<Live>,
}

impl Closed {
    async fn new() -> Self {
        let fixture = Fixture::sqlite().await;
        let (mut ended, mut open) = (Vec::new(), Vec::new());
        for n in 0..2 * COUNT {
            let at = if n < COUNT { LONG_AGO } else { now() };
            let (mut live, begin) = Live::begin_with(definition(&new_gid()), at);
            fixture.write([begin, live.commit()]).await;
            if n < COUNT {
                let done = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
                fixture.write(done).await;
                ended.push(live);
            } else {
                open.push(live);
            }
        }
        fixture.store.close().await;
        let (url, owner) = (fixture.url.clone(), fixture.me);
        let path = url.strip_prefix("sqlite:").unwrap().to_owned();
        Self { url, path, owner, ended, open }
    }

    /// Opens it again, as a new incarnation beside the one that is fenced.
    async fn reopened(&self) -> Fixture {
        let url = self.url.clone();
        let store = open(&url, &PostgresOptions::default()).await.unwrap();
        let me = create(&store, "two").await;
        store.incarnations().fence(self.owner, "a test").await.unwrap();
        Fixture { store, url, me }
    }

    async fn raw(&self) -> SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.path);
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    /// Returns the pages of a table or an index that are of a type, in its order.
    async fn pages(&self, name: &str, of_type: &str) -> Vec<u64> {
        let mut raw = self.raw().await;
        let query = sqlx::query_scalar(
            "SELECT pageno FROM dbstat WHERE name = $1 AND pagetype = $2 ORDER BY path",
        );
        let pages: Vec<i64> = query.bind(name).bind(of_type).fetch_all(&mut raw).await.unwrap();
        raw.close().await.unwrap();
        pages.into_iter().map(|page| u64::try_from(page).unwrap()).collect()
    }

    fn damage(&self, page: u64) {
        const PAGE: u64 = 4096;
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&[0; PAGE as usize], (page - 1) * PAGE).unwrap();
    }

    /// Returns the transactions of which some row cannot be read, past the store.
    async fn harmed(&self) -> BTreeSet<TxId> {
        let mut raw = self.raw().await;
        let mut harmed = BTreeSet::new();
        for live in self.ended.iter().chain(&self.open) {
            let read = sqlx::query("SELECT kind, body FROM log WHERE tx_id = $1").bind(live.id().0);
            if read.fetch_all(&mut raw).await.is_err() {
                harmed.insert(live.id());
            }
        }
        raw.close().await.unwrap();
        harmed
    }
}

fn ids(lives: &[Live], harmed: &BTreeSet<TxId>) -> BTreeSet<TxId> {
    lives.iter().map(Live::id).filter(|id| !harmed.contains(id)).collect()
}

/// Claims all that fenced ones left, as whoever adopts does.
async fn claim_all(fixture: &Fixture) -> BTreeSet<TxId> {
    let transactions = fixture.store.transactions();
    let mut claimed = BTreeSet::new();
    for _ in 0..20 {
        let some = transactions.claim(fixture.me, Claim::OfFenced(16)).await.unwrap();
        if some == Default::default() {
            return claimed;
        }
        let unreadable: Vec<TxId> = some.unreadable.iter().map(|found| found.tx_id).collect();
        transactions.set_aside(fixture.me, &unreadable, true).await.unwrap();
        claimed.extend(some.records.iter().map(|record| record.identity.tx_id));
    }
    panic!("there is no end of claims");
}

/// Returns the number of a run of the purge; none where it tells that all that is left cannot be purged.
fn purged(run: Result<u64, Error>) -> u64 {
    match run {
        Err(Error::Damaged { .. }) => 0,
        run => run.unwrap(),
    }
}

/// Ends an open transaction, whose owner is fenced.
fn end(live: &mut Live, former: Incarnation) -> Write {
    let transition = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done).remove(0);
    Write { former: Some(former), ..a_write(transition) }
}

/// L3: two pages of rows, one of what has ended and one of what is open.
#[tokio::test]
async fn l3_a_damaged_page_of_the_file_harms_the_transactions_on_it_alone() {
    let closed = Closed::new().await;
    let leaves = closed.pages("log", "leaf").await;
    assert!(leaves.len() > 16, "{leaves:?}");
    closed.damage(leaves[leaves.len() / 4]);
    closed.damage(leaves[leaves.len() - 4]);
    let harmed = closed.harmed().await;
    let ended = ids(&closed.ended, &harmed);
    let opened = ids(&closed.open, &harmed);
    assert!((2..40).contains(&harmed.len()), "{harmed:?}");
    assert!(ended.len() < COUNT && opened.len() < COUNT, "each page harms some");

    let fixture = closed.reopened().await;
    let (store, me) = (&fixture.store, fixture.me);
    let transactions = store.transactions();
    assert_eq!(claim_all(&fixture).await, opened);
    let open_now = transactions.open_of(me).await.unwrap();
    assert_eq!(open_now.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), opened);
    let aside = transactions.all_set_aside(None, 200).await.unwrap();
    assert_eq!(aside.into_iter().collect::<BTreeSet<_>>(), harmed);
    assert_eq!(transactions.attention().await.unwrap().unreadable as usize, harmed.len());

    for live in closed.ended.iter().chain(&closed.open) {
        let found = transactions.find(&Key::Tx(live.id())).await;
        match found {
            Ok(Some(stored)) => assert_eq!(stored.record.identity, *live.tx.identity()),
            found => {
                assert!(harmed.contains(&live.id()), "{found:?}");
                assert!(matches!(found, Err(Error::Unreadable(_))), "{found:?}");
            }
        }
    }
    let filter = Filter { limit: 500, ..Filter::default() };
    let listed = transactions.list(&filter).await.unwrap().found;
    let whole = listed.iter().flatten().map(|stored| stored.record.identity.tx_id);
    let sound: BTreeSet<TxId> = ended.union(&opened).copied().collect();
    assert_eq!(whole.collect::<BTreeSet<_>>(), sound);
    let filter = Filter { attention: true, limit: 500, ..Filter::default() };
    let listed = transactions.list(&filter).await.unwrap().found;
    let listed = listed.iter().map(|found| found.as_ref().unwrap_err().tx_id);
    assert_eq!(listed.collect::<BTreeSet<_>>(), harmed);
    transactions.count(LONG_AGO).await.unwrap();

    // The purge takes what it can; a neighbour of the page may stay, because its page would be merged with that.
    let retention = Retention { details: DAY, gids: 2 * DAY };
    let mut stripped = 0;
    for _ in 0..3 {
        stripped += purged(store.purge().strip(me, retention, now()).await);
    }
    assert!(stripped as usize + 12 >= ended.len(), "{stripped} of {}", ended.len());
    let mut deleted = 0;
    for _ in 0..3 {
        deleted += purged(store.purge().delete(me, retention, now().after(DAY)).await);
    }
    assert!(deleted + 12 >= stripped, "{deleted} of {stripped}");
    for live in closed.ended.iter().filter(|live| harmed.contains(&live.id())) {
        assert!(transactions.find(&Key::Tx(live.id())).await.is_err(), "it is not gone");
    }
}

/// The feed is told of what can be read beside damaged pages, and how much it passes over: what is on them, and what is of
/// the same transactions.
#[tokio::test]
async fn l3_news_on_damaged_pages_of_the_file_are_counted_and_others_are_told() {
    let closed = Closed::new().await;
    let mut raw = closed.raw().await;
    let all = sqlx::query_scalar("SELECT write_id FROM log WHERE kind & 128 <> 0");
    let all: Vec<Uuid> = all.fetch_all(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    assert!(all.len() >= COUNT, "{}", all.len());
    let leaves = closed.pages("log", "leaf").await;
    closed.damage(leaves[leaves.len() / 4]);
    // One of what is open, too, so that an adoption meets it, and sets all aside that is harmed.
    closed.damage(leaves[leaves.len() - 4]);
    let harmed = closed.harmed().await;
    let fixture = closed.reopened().await;
    claim_all(&fixture).await;
    let news = async |of| fixture.store.feed().news(of, 500).await.unwrap();
    let found = news(NewsOf::Range(Uuid::nil(), Uuid::max())).await;
    assert!(found.news.iter().all(|news| !harmed.contains(&news.tx_id)), "{harmed:?}");
    assert!(!found.unreadable.is_empty() && !found.news.is_empty());
    let told = found.news.iter().map(|news| news.write_id);
    let both: BTreeSet<Uuid> = told.chain(found.unreadable.iter().copied()).collect();
    assert_eq!(both, all.iter().copied().collect(), "each is told or counted");
    assert_eq!(both.len(), found.news.len() + found.unreadable.len(), "and not both");
    let named = news(NewsOf::Writes(all)).await;
    assert_eq!(named.news.len(), found.news.len());
    let of_named: BTreeSet<_> = named.unreadable.into_iter().collect();
    assert_eq!(of_named, found.unreadable.into_iter().collect());
}

/// L3: a batch meets a damaged page. Its other writes are made.
#[tokio::test]
async fn l3_a_batch_that_meets_a_damaged_page_of_the_file_writes_the_others() {
    let mut closed = Closed::new().await;
    let (leaves, former) = (closed.pages("log", "leaf").await, closed.owner);
    closed.damage(leaves[leaves.len() - 4]);
    let harmed = closed.harmed().await;
    let fixture = closed.reopened().await;
    let mut writer = fixture.writer().await;
    let place = closed.open.iter().position(|live| harmed.contains(&live.id())).unwrap();
    let bad = end(&mut closed.open[place], former);
    let sound = closed.open.iter().position(|live| !harmed.contains(&live.id())).unwrap();
    let good = end(&mut closed.open[sound], former);
    let new = a_write(Live::begin(&new_gid()).1);
    let written = writer.write(&[new, bad.clone(), good]).await.unwrap();
    let [Written::Applied, Written::Refused(why), Written::Applied] = &written[..] else {
        panic!("{written:?}")
    };
    assert!(why.contains("damaged") && why.contains("restore a backup"), "{why}");
    // The same alone: the file takes others, and so it is this one's fault.
    let written = writer.write(&[bad]).await.unwrap();
    assert!(matches!(&written[..], [Written::Refused(_)]), "{written:?}");
    let other = a_write(Live::begin(&new_gid()).1);
    assert_eq!(writer.write(&[other]).await.unwrap(), [Written::Applied]);
}

/// Pages of which every transaction has need: the journal ends, and whoever asks hears what is to be done.
#[tokio::test]
async fn what_all_need_that_is_damaged_ends_the_journal_with_a_sentence() {
    for (name, of_type) in [("sqlite_autoindex_log_1", "internal"), ("gids", "internal")] {
        let closed = Closed::new().await;
        let pages = closed.pages(name, of_type).await;
        closed.damage(*pages.first().unwrap_or_else(|| panic!("{name} has no {of_type} page")));
        let fixture = closed.reopened().await;
        let mut writer = fixture.writer().await;
        let begin = a_write(Live::begin(&new_gid()).1);
        let error = writer.write(&[begin]).await.unwrap_err();
        let told = in_full(&error);
        assert!(matches!(error, BatchError::Fatal(_)), "{told}");
        assert!(told.contains("restore a backup"), "{told}");
        let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
        journal.submit(Live::begin(&new_gid()).1);
        assert_eq!(journal.results.recv().await, None);
        let Err(JournalError::Fatal(told)) = journal.end().await else { panic!("it goes on") };
        assert!(told.contains("restore a backup"), "{told}");
        if name == "gids" {
            continue;
        }
        let filter = Filter { limit: 9, ..Filter::default() };
        let error = fixture.store.transactions().list(&filter).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        assert!(in_full(&error).contains("restore a backup"), "{error}");
    }
}

/// A leaf of the names: whoever needs it is refused, others begin, and the file is not taken for one that is lost.
#[tokio::test]
async fn l3_a_damaged_leaf_of_the_names_refuses_those_alone_that_need_it() {
    let closed = Closed::new().await;
    // So many names that a few of a hundred are on each leaf.
    let more = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 800)
                INSERT INTO gids (key, tx_id) SELECT randomblob(16), randomblob(16) FROM n";
    let mut raw = closed.raw().await;
    sqlx::query(more).execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let leaves = closed.pages("gids", "leaf").await;
    assert!(leaves.len() >= 8, "{leaves:?}");
    closed.damage(leaves[3]);
    let fixture = closed.reopened().await;
    let mut writer = fixture.writer().await;
    let (mut begun, mut refused) = (0, 0);
    for _ in 0..80 {
        let batch: Vec<Write> = (0..10).map(|_| a_write(Live::begin(&new_gid()).1)).collect();
        for written in writer.write(&batch).await.expect("it goes on") {
            match written {
                Written::Applied => begun += 1,
                Written::Refused(why) if why.contains("damaged") => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(refused >= 10 && begun > refused, "{refused} were refused, {begun} begun");
}

/// S3: a part of a batch is committed, and a later one fails for a reason that says that nothing is written.
#[tokio::test]
async fn s3_what_is_committed_before_another_part_fails_is_told() {
    let mut closed = Closed::new().await;
    let (leaves, former) = (closed.pages("log", "leaf").await, closed.owner);
    closed.damage(leaves[leaves.len() - 4]);
    let harmed = closed.harmed().await;
    let fixture = closed.reopened().await;
    rows::refuse_marked(&fixture.url).await;
    let place = closed.open.iter().position(|live| harmed.contains(&live.id())).unwrap();
    let bad = end(&mut closed.open[place], former);
    let first = a_write(Live::begin(&new_gid()).1);
    let (_, mut marked) = Live::begin(&new_gid());
    rows::mark(&mut marked);
    let marked = a_write(marked);
    let mut writer = fixture.writer().await;
    let written = writer.write(&[first.clone(), bad, marked.clone()]).await.unwrap();
    let [Written::Applied, Written::Refused(why), Written::Busy] = &written[..] else {
        panic!("{written:?}")
    };
    assert!(why.contains("damaged"), "{why}");
    assert_eq!(writer.write(&[first]).await.unwrap(), [Written::Applied], "it is found");
    let error = writer.write(&[marked]).await.unwrap_err();
    assert!(matches!(error, BatchError::Refused(_)), "{error:?}");
}

/// Pages that each end needs: none is refused as if it were its own fault, though begins are written.
#[tokio::test]
async fn what_all_ends_need_that_is_damaged_ends_the_journal() {
    for name in ["log_ended", "parked"] {
        let mut closed = Closed::new().await;
        let (leaves, former) = (closed.pages(name, "leaf").await, closed.owner);
        closed.damage(*leaves.last().unwrap_or_else(|| panic!("{name} has no leaf")));
        let fixture = closed.reopened().await;
        let mut writer = fixture.writer().await;
        let new = a_write(Live::begin(&new_gid()).1);
        let error = writer.write(&[new, end(&mut closed.open[0], former)]).await.unwrap_err();
        let told = in_full(&error);
        assert!(matches!(error, BatchError::Fatal(_)), "{name}: {told}");
        assert!(told.contains("restore a backup"), "{name}: {told}");
    }
}

/// The page of the fences is read by each write before all else.
#[tokio::test]
async fn a_damaged_page_of_the_fences_ends_the_journal() {
    let closed = Closed::new().await;
    let fixture = closed.reopened().await;
    let mut writer = fixture.writer().await;
    let [first, second] = [(), ()].map(|()| a_write(Live::begin(&new_gid()).1));
    assert_eq!(writer.write(&[first]).await.unwrap(), [Written::Applied]);
    // All of it comes to the file, and nobody goes on with a copy of a page in memory.
    let mut raw = closed.raw().await;
    for statement in ["PRAGMA wal_checkpoint(RESTART)", "CREATE TABLE other (column_of_it)"] {
        sqlx::query(statement).execute(&mut raw).await.unwrap();
    }
    raw.close().await.unwrap();
    let leaves = closed.pages("fences", "leaf").await;
    leaves.iter().for_each(|leaf| closed.damage(*leaf));
    let error = writer.write(&[second]).await.unwrap_err();
    let told = in_full(&error);
    assert!(matches!(error, BatchError::Fatal(_)), "{told}");
    assert!(told.contains("restore a backup"), "{told}");
}

/// Nothing can be purged by an index that is damaged: that is no purge for which nothing was due.
#[tokio::test]
async fn a_purge_with_a_damaged_index_says_so() {
    let closed = Closed::new().await;
    for leaf in closed.pages("log_ended", "leaf").await {
        closed.damage(leaf);
    }
    let fixture = closed.reopened().await;
    let retention = Retention { details: DAY, gids: 2 * DAY };
    let error = fixture.store.purge().strip(fixture.me, retention, now()).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(in_full(&error).contains("restore a backup"), "{error}");
}

/// L3: the holder of a gid is on a damaged page. Whoever uses the gid again is refused, and others go on.
#[tokio::test]
async fn l3_a_gid_whose_holder_is_on_a_damaged_page_is_refused_alone() {
    let closed = Closed::new().await;
    let leaves = closed.pages("log", "leaf").await;
    closed.damage(leaves[leaves.len() / 4]);
    let harmed = closed.harmed().await;
    let holder = closed.ended.iter().find(|live| harmed.contains(&live.id())).unwrap();
    let gid = holder.tx.identity().gid.clone();
    let fixture = closed.reopened().await;
    let mut writer = fixture.writer().await;
    let [taken, new] = [gid, new_gid()].map(|gid| a_write(Live::begin(&gid).1));
    let written = writer.write(&[taken, new]).await.unwrap();
    assert!(matches!(&written[..], [Written::Refused(_), Written::Applied]), "{written:?}");
}
