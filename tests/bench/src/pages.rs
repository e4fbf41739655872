//! Pages for people and lists of the API over HTTP, beside many finished transactions, and beside those that need a person.

mod troubled;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unanimo_tests::postgres::Server;

use crate::flat::{LONG, SETTINGS};
use crate::layout::now;
use crate::reads::{Load, Side};
use crate::say;
use crate::world::{World, config_on};

/// Times that each address is asked for.
const TIMES: usize = 15;

/// Longest time of each page, each time.
const TIME_MAX: Duration = Duration::from_millis(200);

/// Hours over which the transactions have been begun.
const HOURS: u64 = 19;

/// Takes the figures.
pub(crate) async fn measure(count: i64, check: bool) -> Result<ExitCode> {
    let server = Server::start_with(SETTINGS);
    let mut side = Side::new(server.database().await).await?;
    let loading = Instant::now();
    let span_ms = i64::try_from(HOURS * 3_600_000)?;
    let load = Load { number: 1, count, since_ms: i64::try_from(hours_ago(20))?, span_ms };
    side.load(load, true).await?;
    side.raw.execute("VACUUM ANALYZE").await?;
    side.fence_all().await?;
    say(&format!("{count} finished, loaded in {:.0?}", loading.elapsed()));

    let times = [
        written(&mut side, hours_ago(30)).await?,
        written(&mut side, hours_ago(8)).await?,
        written(&mut side, hours_ago(7)).await?,
    ];
    let running = World::embed(troubled::builder(config_on(&side.url, LONG))?).await?;
    let address = running.admin_address().context("it serves pages")?;
    say(&format!("{:<58} {:>9} {:>9} {:>9}", "page", "middle ms", "most ms", "bytes"));
    let mut worst = all(address, pages(&load, &times)).await?;
    troubled::begin(&running).await?;
    say(&format!("{} transactions need a person:", troubled::COUNT));
    worst = worst.max(all(address, troubled::pages()).await?);
    // The figures are complete: an error of the stop does not matter.
    let _ = running.stop().await;
    let passed = worst < TIME_MAX;
    say(&format!(
        "the slowest takes {worst:.0?}; less than {TIME_MAX:?} is needed: {}",
        if passed { "passed" } else { "FAILED" }
    ));
    Ok(if passed || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Takes the figures of these pages, and returns the longest time.
async fn all(address: SocketAddr, pages: Vec<Page>) -> Result<Duration> {
    let mut worst = Duration::ZERO;
    for page in pages {
        let Taken { middle, most, bytes } = taken(address, &page).await?;
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        say(&format!("{:<58} {:>9.1} {:>9.1} {bytes:>9}", page.what, ms(middle), ms(most)));
        worst = worst.max(most);
    }
    Ok(worst)
}

fn hours_ago(hours: u64) -> u64 {
    now().0 - hours * 3_600_000
}

/// Address that is asked for.
struct Page {
    what: &'static str,
    path: String,
    /// Text that the answer has.
    has: String,
}

fn page(what: &'static str, path: &str, has: &str) -> Page {
    Page { what, path: path.into(), has: has.into() }
}

/// Returns the pages, and the lists of the API. Each filter is there with one that matches and one that does not.
fn pages(load: &Load, [before, from, until]: &[String; 3]) -> Vec<Page> {
    let some = |n: i64| load.id(load.count / n).to_string();
    let (old, other, first) = (some(2), some(3), load.id(1).to_string());
    let row = "<th scope=\"row\">";
    let none = "matches";
    let filter = |what, query: &str, has| page(what, &format!("/transactions?{query}"), has);
    let state = |state: &str| format!("states=TRANSACTION_STATE_{state}");
    vec![
        page("Overview", "/", "Counted at"),
        page("Attention", "/attention", "No transaction needs a person"),
        page("Participants", "/participants", "in-process"),
        page("System", "/system", "Limits in force"),
        page("Transactions", "/transactions", row),
        filter("Transactions: a state of all", &state("COMMITTED"), row),
        filter("Transactions: a state of none", &state("ABORTED"), none),
        filter("Transactions: open ones", &state("ACTIVE"), "No transaction matches"),
        filter("Transactions: a mode of all", "modes=MODE_TCC", row),
        filter("Transactions: a mode of none", "modes=MODE_SAGA", none),
        filter("Transactions: beginning of every gid", &format!("gidPrefix={}", &first[..4]), row),
        filter("Transactions: beginning of no gid", "gidPrefix=none", none),
        filter("Transactions: beginning of one old gid", &format!("gidPrefix={old}"), none),
        filter("Transactions: a participant of all", "participant=a", row),
        filter("Transactions: a participant of none", "participant=nobody", none),
        filter("Transactions: an entry of none's metadata", "metadata=k%3Dv", none),
        filter("Transactions: an hour", &format!("from={from}&until={until}"), row),
        filter(
            "Transactions: an hour, a participant of none",
            &format!("from={from}&until={until}&participant=nobody"),
            none,
        ),
        filter("Transactions: an hour before all", &format!("until={before}"), "No transaction"),
        filter("Transactions: those that need a person", "attention=true", "No transaction"),
        page("one transaction, an old one", &format!("/tx/{old}"), &old),
        page("API: one by tx_id", &format!("/v1/tx/{other}"), &other),
        page("API: one by gid", &format!("/v1/transactions/{other}"), &other),
        page("API: a list", "/v1/transactions", "nextPageToken"),
        page("API: a list of 500", "/v1/transactions?pageSize=500", "nextPageToken"),
        page("API: a list, a participant of none", "/v1/transactions?participant=nobody", "next"),
        page("API: counts", "/v1/transactions?pageSize=1&includeCounts=true", "counts"),
        page("API: statistics", "/v1/statistics", "{"),
    ]
}

/// Returns a time as the form of the page has it.
async fn written(side: &mut Side, ms: u64) -> Result<String> {
    let text =
        "SELECT to_char(to_timestamp($1 / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI')";
    let text = sqlx::query_scalar(text).bind(i64::try_from(ms)?);
    Ok(text.fetch_one(&mut side.raw).await?)
}

/// Times of a page.
struct Taken {
    middle: Duration,
    most: Duration,
    bytes: usize,
}

async fn taken(address: SocketAddr, page: &Page) -> Result<Taken> {
    let Page { what, path, has } = page;
    let (mut times, mut bytes) = (Vec::with_capacity(TIMES), 0);
    for _ in 0..TIMES {
        let started = Instant::now();
        let answer = get(address, path).await.with_context(|| path.clone())?;
        times.push(started.elapsed());
        let begin = answer.lines().next().unwrap_or_default();
        ensure!(begin.contains(" 200 "), "{what}, {path}: {begin}");
        ensure!(
            answer.contains(has.as_str()),
            "{what}, {path}: no {has} in its {} bytes",
            answer.len()
        );
        bytes = answer.len();
    }
    times.sort_unstable();
    Ok(Taken { middle: times[TIMES / 2], most: times[TIMES - 1], bytes })
}

/// Asks for a page on a connection of its own, and reads it to its end.
async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
