//! Tests of connections and their places.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::api::{ADMIN_CONNECTIONS_MAX as OPEN_MAX, Turns};

#[test]
fn those_that_have_ended_take_no_place() {
    let places = Places::new(OPEN_MAX);
    let (mut lasting, _) = places.take(None).expect("a place");
    (0..3 * OPEN_MAX).for_each(|_| drop(places.take(None)));
    assert_eq!(lasting.try_recv(), Err(TryRecvError::Empty));
    let later: Vec<_> = (0..OPEN_MAX).map(|_| places.take(None).expect("a place")).collect();
    assert_eq!(lasting.try_recv(), Err(TryRecvError::Closed));
    assert_eq!(places.open.lock().expect("no panic").len(), later.len());
}

#[test]
fn l5_one_address_closes_no_connection_of_another_one() {
    let places = Places::new(8);
    let take = |last: u8| places.take(Some([10, 0, 0, last].into()));
    let is_closed = |place: &mut (oneshot::Receiver<()>, Calls)| {
        place.0.try_recv() == Err(TryRecvError::Closed)
    };
    let mut probe = take(1).expect("a place");
    let mut greedy: Vec<_> = (0..7).map(|_| take(2).expect("a place")).collect();
    assert!(!greedy.iter_mut().any(is_closed), "there is room");
    let mut more: Vec<_> = (0..100).map(|_| take(2).expect("one of its own")).collect();
    assert!(greedy.iter_mut().all(is_closed), "the earliest first");
    assert!(!is_closed(&mut probe), "the earliest of all is another one's");
    let mut other = take(3).expect("a place of who has the most");
    assert!(is_closed(&mut more[93]) && !is_closed(&mut probe));
    let _calls: Vec<_> = more[94..].iter().map(|(_, calls)| calls.begin()).collect();
    assert!(take(2).is_none(), "a call is under way on each of its own");
    assert!(!is_closed(&mut probe) && !is_closed(&mut other), "others keep theirs");
}

#[test]
fn one_with_a_call_keeps_its_place() {
    let (places, turns) = (Places::new(8), Turns::new(8));
    let mut open: Vec<_> = (0..8).map(|_| places.take(None).expect("a place")).collect();
    let under_way: Vec<_> =
        open.iter().map_while(|(_, calls)| Some((turns.next(None)?, calls.begin()))).collect();
    assert_eq!(under_way.len(), 7, "one place in eight is left");
    places.take(None).expect("the place of the idle one");
    let states: Vec<_> = open.iter_mut().map(|(closed, _)| closed.try_recv()).collect();
    assert!(states[..7].iter().all(|state| *state == Err(TryRecvError::Empty)), "{states:?}");
    assert_eq!(states[7], Err(TryRecvError::Closed));
    let (_closed, calls) = places.take(None).expect("the place of one that has ended");
    let _calls = calls.begin();
    assert!(places.take(None).is_none(), "a call is under way on each");
    drop(under_way);
    assert!(places.take(None).is_some());
    assert_eq!(open[0].0.try_recv(), Err(TryRecvError::Closed), "the earliest is idle now");
}

/// An answer that was handed over is not sent yet: its connection is closed after the others.
#[test]
fn one_whose_answer_is_on_its_way_is_closed_last() {
    let places = Places::new(2);
    let (mut answering, calls) = places.take(None).expect("a place");
    drop(calls.begin());
    let (mut idle, _) = places.take(None).expect("a place");
    let (_later, later) = places.take(None).expect("that of the idle one");
    assert_eq!(idle.try_recv(), Err(TryRecvError::Closed));
    assert_eq!(answering.try_recv(), Err(TryRecvError::Empty));
    let _under_way = later.begin();
    let (_last, _) = places.take(None).expect("there is no other one");
    assert_eq!(answering.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn an_answer_is_sent_when_it_is_flushed() {
    on_a_runtime(async {
        let (mut placed, _client, _places) = pair().await;
        drop(placed.calls().begin());
        placed.write_all(b"an answer").await.expect("it is open");
        assert!(placed.calls().is_answering());
        placed.flush().await.expect("it is open");
        assert!(!placed.calls().is_answering());
    });
}

async fn pair() -> (Placed<TcpStream>, TcpStream, Places) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("one")).await.expect("open");
    let places = Places::new(1);
    let placed = Bounded::new(listener, places.clone()).accept().await;
    (placed, client, places)
}

fn on_a_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

#[test]
fn answers_are_not_put_together() {
    on_a_runtime(async {
        let (mut placed, mut client, _places) = pair().await;
        assert!(placed.is_write_vectored(), "else an answer is copied");
        let pieces = [IoSlice::new(b"an "), IoSlice::new(b"answer")];
        assert_eq!(placed.write_vectored(&pieces).await.expect("it is open"), 9);
        let mut read = [0; 9];
        client.read_exact(&mut read).await.expect("it comes");
        assert_eq!(&read, b"an answer");
    });
}

#[test]
fn one_whose_place_is_gone_sends_nothing_more() {
    on_a_runtime(async {
        let (mut placed, _client, places) = pair().await;
        placed.flush().await.expect("it is open");
        drop(places);
        for _ in 0..2 {
            placed.flush().await.expect_err("it is closed");
            placed.write_vectored(&[IoSlice::new(b"a")]).await.expect_err("it is closed");
        }
    });
}

/// Client that takes what is written as it is told: nothing is to let it wait.
struct Slow(VecDeque<Option<usize>>);

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = self.0.pop_front().flatten();
        taken.map_or(Poll::Pending, |taken| Poll::Ready(Ok(taken)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[test]
fn patience_begins_anew_with_each_byte_that_is_taken() {
    on_a_runtime(async {
        let (_place, closed) = oneshot::channel();
        let io = Slow([None, Some(1), None].into());
        let mut placed = Placed {
            io,
            closed: Some(closed),
            calls: Calls::default(),
            unread: None,
            begun: Some(0),
        };
        let mut write = async || {
            let poll = |context: &mut Context<'_>| {
                Poll::Ready(Pin::new(&mut placed).poll_write(context, b"ab").is_ready())
            };
            let taken = std::future::poll_fn(poll).await;
            (taken, placed.unread.as_ref().map(|unread| unread.deadline()))
        };
        let (first, patience) = write().await;
        assert!(!first && patience.is_some());
        assert_eq!(write().await, (true, None));
        let (third, anew) = write().await;
        assert!(!third && anew > patience, "{anew:?}, {patience:?}");
    });
}

#[test]
fn http_2_is_not_spoken_here() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    on_a_runtime(async {
        for (first, second, is_good) in [
            ("PR", "I * HTTP/2.0", false),
            ("PRI ", "", false),
            ("PR", "OPFIND / HTTP/1.1", true),
            ("G", "ET PRI ", true),
        ] {
            let (_place, closed) = oneshot::channel();
            let (mut far, io) = tokio::io::duplex(64);
            let calls = Calls::default();
            let mut placed =
                Placed { io, closed: Some(closed), calls, unread: None, begun: Some(0) };
            far.write_all(first.as_bytes()).await.expect("room");
            let mut read = placed.read(&mut [0; 64]).await;
            if read.is_ok() && !second.is_empty() {
                far.write_all(second.as_bytes()).await.expect("room");
                read = placed.read(&mut [0; 64]).await;
            }
            assert_eq!(read.is_ok(), is_good, "{first}{second}: {read:?}");
        }
    });
}
