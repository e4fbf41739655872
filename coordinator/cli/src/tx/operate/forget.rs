//! `unanimo tx forget`: clears alarms of transactions that have ended.

use std::process::ExitCode;

use unanimo_proto::v1;

use super::super::client::{self, Client};
use super::super::many::{Act, By, Many};
use super::super::{Server, json};
use super::{One, may_hold, print};
use crate::error::Error;

/// Clear the alarm of a heuristic transaction that has ended
///
/// Do this when the participants' data is right again. It deletes nothing: the transaction is
/// purged after its retention, like any other. Your name and note stay in its history.
///
/// The participant of a branch that was ended by `unanimo tx resolve` may still hold what it had
/// prepared or reserved: money, stock, rows that are locked. A step of a saga may not be undone, or not be done. The
/// coordinator does not call it for this branch any more, and cannot see it. So such a transaction is forgotten with
/// --released only.
///
/// With --all it is done for each transaction that has ended, is heuristic and was not forgotten and meets the conditions, the oldest
/// first and no faster than --pace, once you have agreed to their number. One that is refused is told, and the others follow.
#[derive(Debug, clap::Args)]
#[command(override_usage = "unanimo tx forget [OPTIONS] --note <TEXT> <TX|--all>")]
#[command(after_long_help = "\
JSON (--json): the transaction, as `unanimo tx --help` describes it, with
  branches. With --all an object with act, matched, done, nothing_due (0),
  failed, unreadable (left out, and not in matched), left (not tried, because
  the command ended before; all are numbers of transactions) and dry_run. It
  is printed also where the command ends with an error.

Exit codes: 0 success; 1 the command failed, or with --all a transaction was
  refused, or nobody agreed to go on; 2 an argument is wrong, or --yes is
  needed.")]
pub(in crate::tx) struct Args {
    #[command(flatten)]
    one: One,
    /// You have looked: the participants hold nothing more of the branches that were resolved, and their steps are as
    /// they were decided
    #[arg(long)]
    released: bool,
    #[command(flatten)]
    many: Many,
    #[command(flatten)]
    act: super::Act,
}

pub(in crate::tx) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let (by, released) = (args.act.by(args.many.is_dry_run())?, args.released);
    let mut client = Client::connect(server).await?;
    let Some(target) = args.one.target() else {
        return args.many.run(server, &mut client, Act::Forget { released }, by).await;
    };
    let tx = target.get(&mut client, json::View::Basic).await?;
    // One that has not ended is refused by the coordinator, and one that is forgotten stays so.
    if !released
        && tx.ended_at.is_some()
        && tx.attention
        && let Some(held) = may_hold(&tx)
    {
        return Err(client::Error::StillHeld(held).into());
    }
    let tx_id = tx.tx_id;
    let By { operator, note } = by;
    let request = client.request(v1::ForgetTransactionRequest {
        tx_id,
        operator,
        note,
        released: Some(released),
        ..Default::default()
    });
    let answer = client.operator.forget_transaction(request).await.map_err(client::Error::from)?;
    print(server, answer.into_inner().transaction)
}
