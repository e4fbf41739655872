//! `unanimo audit list`: the latest entries.

use std::process::ExitCode;

use serde::Serialize;

use super::line::Line;
use super::pages::Pages;
use crate::error::Error;
use crate::output::{self, wide_table};
use crate::tx::Server;

/// List the latest entries of the audit, the newest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// At most so many entries
    #[arg(long, value_name = "NUMBER", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Serialize)]
struct Json {
    entries: Vec<Line>,
}

pub(super) async fn run(server: &Server, args: &Args) -> Result<ExitCode, Error> {
    let mut pages = Pages::open(server).await?;
    let (mut entries, mut token, mut left) = (Vec::new(), String::new(), args.limit);
    while left > 0 {
        let page = pages.page(left, token, true).await?;
        left = left.saturating_sub(u32::try_from(page.entries.len()).unwrap_or(u32::MAX));
        entries.extend(page.entries.into_iter().map(Line::from));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    if server.json {
        output::print_json(&Json { entries })?;
    } else if entries.is_empty() {
        output::note("the audit has no entries");
    } else {
        let header = ["NUMBER", "TIME", "KIND", "WHO", "FROM", "ACT", "ON", "OUTCOME", "REASON"];
        output::print(&wide_table(header, entries.iter().map(row)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(line: &Line) -> [String; 9] {
    // What a caller says of itself is marked.
    let who = match (line.identity.as_str(), line.operator.as_str()) {
        ("", "") => String::new(),
        ("", said) => format!("\"{said}\""),
        (identity, _) => identity.to_owned(),
    };
    let on = [&line.tx_id, &line.gid, &line.branch_id];
    let on: Vec<&str> =
        on.into_iter().filter(|text| !text.is_empty()).map(String::as_str).collect();
    let outcome = match line.count {
        0 => line.outcome.clone(),
        count => format!("{count} times"),
    };
    let of = if line.of == 0 { String::new() } else { format!(" of {}", line.of) };
    [
        line.number.to_string(),
        line.at.clone(),
        format!("{}{of}", line.kind),
        who,
        line.address.clone(),
        line.act.clone(),
        on.join(" "),
        outcome,
        line.reason.clone(),
    ]
}
