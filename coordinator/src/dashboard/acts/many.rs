//! Acts on many transactions: those that need a person and match a filter.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::super::data::{List, Tx};
use super::super::filter::Filter;
use super::super::response::Named;
use super::super::words as shown;
use super::super::{Looking, Page, Pages, either, made, problem};
use super::super::{bad_filter, filter_of};
use super::order::{Counted, Order, is_for};
use super::runs::Run;
use super::{Ask, act_of, no_act, refused, words};
use crate::api::http::Act;

/// Most transactions that are counted, and acted on at once.
const MANY_MAX: u64 = 10_000;

/// Transactions of a page that is counted.
const PAGE: u32 = 500;

/// Most pages that are read to count: an act may be for few of those that need a person.
const PAGES_MAX: usize = 40;

/// Transactions that the page before an act on many names.
const NAMED_MAX: usize = 10;

/// Most transactions that a form has by their `tx_id`. More of them are told by their time.
const ONLY_MAX: usize = 100;

/// Transactions of an act on many.
pub(super) struct Many {
    pub(super) filter: Filter,
    pub(super) act: &'static str,
    pub(super) count: u64,
    pub(super) at_least: bool,
    /// Transactions that were looked at.
    pub(super) looked_at: u64,
    pub(super) named: Vec<Tx>,
    /// All of them, where they are few.
    only: Vec<String>,
}

pub(super) async fn ask(
    State(pages): State<Pages>,
    Named(name): Named<String>,
    request: Request,
) -> Response {
    either(ask_of(&pages, &name, request).await)
}

async fn ask_of(pages: &Pages, name: &str, request: Request) -> Page {
    let (looking, act) = (pages.looking(&request), act_of(name).ok_or_else(no_act)?);
    let who = looking.actor(act, false).map_err(|bad| problem(&bad))?;
    let mut filter = filter_of(&request).map_err(|why| bad_filter(&why))?;
    filter.attention = "true".to_owned();
    filter.page_token.clear();
    let mut many = Many::new(words::name(act), filter);
    many.count(&looking, act).await?;
    let address = request.uri().path().to_owned();
    let nothing = words::nothing_of_many(act, &many);
    let says = match nothing.as_str() {
        "" => words::says_of_many(act, &many.filter.participant),
        _ => Vec::new(),
    };
    let page = Ask {
        here: "/attention",
        title: words::title_of_many(act).to_owned(),
        says,
        nothing,
        mark: pages.acts.forms.mark(&who, &address, shown::now()),
        address,
        back: "/attention".to_owned(),
        branch: String::new(),
        branches: Vec::new(),
        is_resolve: act == Act::Resolve,
        may_have_output: false,
        held: words::held_by_many(act),
        many: Some(many),
        who,
    };
    Ok(made(StatusCode::OK, &page))
}

impl Many {
    pub(super) fn new(act: &'static str, filter: Filter) -> Self {
        let (named, only) = (Vec::new(), Vec::new());
        Self { filter, act, count: 0, at_least: false, looked_at: 0, named, only }
    }

    /// Returns the `tx_id` of all that were counted, for the form; nothing if they are too many.
    pub(super) fn only(&self) -> String {
        let are_few = self.count == self.only.len() as u64;
        if are_few { self.only.join(",") } else { String::new() }
    }

    /// Counts the transactions that the act is for, and keeps the first ones.
    async fn count(&mut self, looking: &Looking, act: Act) -> Result<(), Response> {
        let mut filter = self.filter.clone();
        for _ in 0..PAGES_MAX {
            let address = format!("/v1/transactions?{}&pageSize={PAGE}", filter.question());
            let list: List = looking.ask(&address).await?;
            let (token, found) = (list.next_page_token, list.transactions);
            self.looked_at += found.len() as u64;
            for tx in found.into_iter().filter(|tx| is_for(act, tx)) {
                if self.count == MANY_MAX {
                    self.at_least = true;
                    return Ok(());
                }
                self.count += 1;
                if self.only.len() < ONLY_MAX {
                    self.only.push(tx.tx_id.clone());
                }
                if self.named.len() < NAMED_MAX {
                    self.named.push(tx);
                }
            }
            if token.is_empty() {
                return Ok(());
            }
            filter = filter.after(&token);
        }
        self.at_least = true;
        Ok(())
    }
}

pub(super) async fn send(
    State(pages): State<Pages>,
    Named(name): Named<String>,
    request: Request,
) -> Response {
    either(send_of(&pages, &name, request).await)
}

async fn send_of(pages: &Pages, name: &str, request: Request) -> Page {
    let (looking, act) = (pages.looking(&request), act_of(name).ok_or_else(no_act)?);
    let sent = pages.sent(&looking, act, request).await?;
    if let Some(refused) = sent.without_reason(act) {
        return Err(refused);
    }
    let text = |name| sent.fields.get(name).to_owned();
    let mut filter = Filter::among(&sent.fields).map_err(|why| bad_filter(&why))?;
    filter.attention = "true".to_owned();
    filter.page_token.clear();
    if act == Act::Resolve && filter.participant.is_empty() {
        let why = "Branches are resolved for one participant at a time: name it in the filter.";
        return Err(refused(StatusCode::BAD_REQUEST, "A participant is needed", why));
    }
    let Some(total) = text("most").parse().ok().filter(|most| (1..=MANY_MAX).contains(most)) else {
        let why = "The number of transactions to act on is missing.";
        return Err(refused(StatusCode::BAD_REQUEST, "The form is not whole", why));
    };
    let title = words::title_of_many(act).to_owned();
    let run =
        Run::new(sent.form, title, "/attention".to_owned(), total).within(looking.namespace());
    let only = text("only");
    let only = (!only.is_empty()).then(|| only.split(',').map(str::to_owned).collect());
    let counted = Counted { filter, made: sent.form.made, only };
    let order = Order::of(act, looking, &sent);
    Ok(pages.begin(run, |run| async move { order.many(&run, counted).await }).await)
}
