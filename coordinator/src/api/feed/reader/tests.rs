use std::sync::atomic::{AtomicBool, Ordering};

use tonic::Code;
use unanimo_core::TxId;
use uuid::Uuid;

use super::*;
use crate::feed::fake::Fake;
use crate::feed::{Handle, Kind};
use crate::store::FeedEnds;

const FAST: Times = Times {
    patience: Duration::from_millis(1),
    look: Duration::from_millis(1),
    progress: Duration::from_millis(1),
};

/// Times at which nothing happens by itself.
const NEVER: Times = Times { look: Duration::from_secs(3600), progress: HOUR, ..FAST };
const HOUR: Duration = Duration::from_secs(3600);

impl Source for Arc<Fake> {
    fn feed(&self) -> &dyn Feed {
        &**self
    }
}

/// Feed with so many events, the first of which has the revision 1.
fn feed(count: u64) -> (Arc<Fake>, Handle) {
    let row = |revision| {
        let event =
            Event { kind: Kind::Committed, gid: format!("g{revision}"), ..Event::default() };
        let body = serde_json::to_vec(&event).expect("it is an event");
        FeedRow { revision, tx_id: TxId(Uuid::nil()), body }
    };
    let fake = Fake { events: (1..=count).map(row).collect(), last: count, ..Fake::default() };
    let handle = Handle::default();
    handle.tell(FeedEnds { purged: 0, last: count });
    (Arc::new(fake), handle)
}

type Messages = mpsc::Receiver<Result<v1::WatchTransactionsResponse, Status>>;

fn reader(
    (fake, handle): (&Arc<Fake>, &Handle),
    times: Times,
    choice: Choice,
    may: May,
) -> Messages {
    let (sender, receiver) = mpsc::channel(1);
    let source = (Arc::clone(fake), handle.follower());
    let mut reader = Reader::new(source, may, choice, 0, sender);
    reader.times = times;
    tokio::spawn(reader.run());
    receiver
}

fn all() -> May {
    Box::new(|| Ok(Sight::default()))
}

async fn next(messages: &mut Messages) -> Result<v1::WatchTransactionsResponse, Status> {
    let next = timeout(Duration::from_secs(60), messages.recv()).await;
    next.expect("the stream is silent").expect("it has not ended")
}

/// A stream that is not read holds one message, and lets go of the part that it had begun to send; once it is read, it goes
/// on where it was.
#[tokio::test]
async fn l5_a_stream_that_is_not_read_keeps_no_part() {
    let (fake, handle) = feed(5);
    let mut messages = reader((&fake, &handle), NEVER, Choice::default(), all());
    assert_eq!(next(&mut messages).await.expect("it begins").event, None);
    let follower = handle.follower();
    let is_let_go = async {
        loop {
            // The one that is kept for all, and this one.
            let part = follower.newest(0);
            if part.is_some_and(|part| Arc::strong_count(&part) == 2) && messages.len() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), is_let_go).await.expect("the part is kept");
    for revision in 1..=5 {
        let message = next(&mut messages).await.expect("it goes on");
        assert_eq!(message.revision, revision, "none is left out, and none is sent twice");
        assert_eq!(message.event.expect("an event").gid, format!("g{revision}"));
    }
}

/// Callers that may not read any more are told so, with and without news, and while they read nothing.
#[tokio::test]
async fn a_caller_that_may_read_no_more_is_told_so() {
    for (count, reads) in [(0, true), (5, true), (5, false)] {
        let (fake, handle) = feed(count);
        let revoked = Arc::new(AtomicBool::new(false));
        let may = {
            let revoked = Arc::clone(&revoked);
            move || match revoked.load(Ordering::SeqCst) {
                true => Err(Status::unauthenticated("it was revoked")),
                false => Ok(Sight::default()),
            }
        };
        let mut messages = reader((&fake, &handle), FAST, Choice::default(), Box::new(may));
        if reads {
            next(&mut messages).await.expect("it begins");
        }
        revoked.store(true, Ordering::SeqCst);
        let ended = async {
            loop {
                if let Err(status) = next(&mut messages).await {
                    return status;
                }
            }
        };
        assert_eq!(ended.await.code(), Code::Unauthenticated, "{count}, {reads}");
    }
}

/// An operator that has become an initiator sees its own alone.
#[tokio::test]
async fn a_role_that_was_taken_away_is_looked_at_for_each_part() {
    let (fake, handle) = feed(5);
    let may = || {
        let initiator = Some("somebody else".to_owned());
        Ok(Sight { initiator, ..Sight::default() })
    };
    let mut messages = reader((&fake, &handle), FAST, Choice::default(), Box::new(may));
    next(&mut messages).await.expect("it begins");
    let told = next(&mut messages).await.expect("it goes on");
    assert_eq!((told.event, told.revision), (None, 5));
}

/// A filter that leaves all out: the place is told after a time, once, so that whoever comes again is not refused for what it has not missed.
#[tokio::test]
async fn a_reader_of_few_events_is_told_after_a_time_how_far_it_is() {
    let (fake, handle) = feed(5);
    let choice = || Choice { gid_prefix: "none".to_owned(), ..Choice::default() };
    let mut messages = reader((&fake, &handle), FAST, choice(), all());
    assert_eq!(next(&mut messages).await.expect("it begins").revision, 0);
    let told = next(&mut messages).await.expect("it goes on");
    assert_eq!((told.event, told.revision), (None, 5));
    handle.end_watches();
    let ended = next(&mut messages).await.expect_err("nothing is told twice");
    assert_eq!(ended.code(), Code::Unavailable);
}
