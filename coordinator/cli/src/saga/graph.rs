//! `unanimo saga graph`: draws a definition, or a transaction as it is.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use unanimo_proto::v1::{self, get_transaction_request::Key};
use unanimo_saga::SagaFile;
use unanimo_saga::graph::{Graph, Kind, Step};

use super::Error;
use crate::error::Error as Failure;
use crate::output;
use crate::tx::Server;
use crate::tx::client::{self, Client};

/// Children that stand in each other are drawn as deep as a coordinator allows.
const CHILDREN_DEPTH_MAX: usize = 4;

/// Draw the steps of a definition, or of a transaction as it is
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Text: a line for each step, below what it waits for. Signs of a definition: ○
  step, ◇ reserved (TCC or two-phase commit), ◆ pivot, ▣ child. Signs of a
  transaction: ○ waiting or not sent, ◐ preparing, ● prepared or done, ✗
  refused, ↶ being compensated or compensated, ▲ kept, ‼ heuristic.

JSON (--json): an object with title, and steps: a list of objects with id,
  work (participant and action, or what a child is), kind (plain, reserved,
  pivot, child), state (waiting, preparing, prepared, done, refused,
  cancelling, cancelled, not_sent, kept, heuristic, unknown; null in a
  definition), after (ids of the steps that it waits for, but for those that
  follow from others), notes (a list of texts), and child (null, or such an
  object). Later versions may add keys.")]
#[command(group = clap::ArgGroup::new("drawn").required(true).args(["file", "gid"]))]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// File with the definition, in YAML or JSON; `-` is standard input
    file: Option<PathBuf>,
    /// gid of a transaction, to draw as the coordinator knows it
    #[arg(long)]
    gid: Option<String>,
    /// Form of the picture
    #[arg(long, default_value = "text", conflicts_with = "json")]
    format: Format,
    /// File to write; standard output if it is left out
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For a terminal
    Text,
    /// A picture
    Svg,
    /// Mermaid, as many pages draw it
    Mermaid,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match (&args.file, &args.gid) {
        (Some(path), _) => {
            let file = SagaFile::read(path).map_err(Error::Definition)?;
            write(args, &Graph::of_definition(&file))
        }
        (None, gid) => args.server.block_on(async {
            let mut client = Client::connect(&args.server).await?;
            let tx = get(&mut client, gid.as_deref().unwrap_or_default()).await?;
            write(args, &drawn(&mut client, &tx).await?)
        }),
    }
}

/// Graph, as JSON. Keys are only ever added.
#[derive(Serialize)]
struct Json<'a> {
    title: &'a str,
    steps: Vec<JsonStep<'a>>,
}

#[derive(Serialize)]
struct JsonStep<'a> {
    id: &'a str,
    work: &'a str,
    kind: &'static str,
    state: Option<String>,
    after: Vec<&'a str>,
    notes: &'a [String],
    child: Option<Json<'a>>,
}

impl<'a> From<&'a Graph> for Json<'a> {
    fn from(graph: &'a Graph) -> Self {
        let step = |(place, step): (usize, &'a Step)| JsonStep {
            id: &step.id,
            work: &step.work,
            kind: match step.kind {
                Kind::Plain => "plain",
                Kind::Reserved => "reserved",
                Kind::Pivot => "pivot",
                Kind::Child => "child",
            },
            state: step.state.map(|state| state.word().replace(' ', "_")),
            after: graph.before(place).map(|step| step.id.as_str()).collect(),
            notes: &step.notes,
            child: step.child.as_ref().map(Json::from),
        };
        Self { title: &graph.title, steps: graph.steps.iter().enumerate().map(step).collect() }
    }
}

fn write(args: &Args, graph: &Graph) -> Result<ExitCode, Failure> {
    let text = match args.format {
        _ if args.server.json => output::line_of_json(&Json::from(graph)),
        Format::Text => graph.to_text(),
        Format::Svg => graph.to_svg(),
        Format::Mermaid => graph.to_mermaid(),
    };
    match &args.output {
        None => output::print(&text)?,
        Some(path) => std::fs::write(path, text)
            .map_err(|source| Error::Write { file: path.display().to_string(), source })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws a transaction and its children; `None` if there is none of this gid.
pub(super) async fn fetch(client: &mut Client, gid: &str) -> Result<Option<Graph>, client::Error> {
    match get(client, gid).await {
        Ok(tx) => Ok(Some(drawn(client, &tx).await?)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn get(client: &mut Client, gid: &str) -> Result<v1::Transaction, client::Error> {
    let key = Some(Key::Gid(gid.to_owned()));
    let request = client.request(v1::GetTransactionRequest { key, ..Default::default() });
    let found = client.coordinator.get_transaction(request).await?.into_inner().transaction;
    found.ok_or(client::Error::Nonsense("it has no transaction"))
}

/// Draws a transaction, with the children that have begun.
async fn drawn(client: &mut Client, tx: &v1::Transaction) -> Result<Graph, client::Error> {
    let mut graphs = vec![(Graph::of_transaction(tx), None)];
    let mut parents = vec![tx.tx_id.clone()];
    let mut open: Vec<_> = children(tx, 0, 1);
    while let Some(Child { of, step, gid, depth }) = open.pop() {
        let tx = match get(client, &gid).await {
            Ok(tx) if tx.parent.as_ref().is_some_and(|parent| parent.tx_id == parents[of]) => tx,
            // Another transaction has the gid of a child that never began.
            Ok(_) => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        graphs.push((Graph::of_transaction(&tx), Some((of, step))));
        parents.push(tx.tx_id.clone());
        if depth < CHILDREN_DEPTH_MAX {
            open.extend(children(&tx, graphs.len() - 1, depth + 1));
        }
    }
    // A child comes after its parent, so that it is whole when it is put into it.
    while let Some((graph, place)) = graphs.pop() {
        match place {
            None => return Ok(graph),
            Some((of, step)) => graphs[of].0.attach(&step, graph),
        }
    }
    Err(client::Error::Nonsense("it has no transaction"))
}

/// A child that is to be drawn.
struct Child {
    /// Place of its parent in the list.
    of: usize,
    step: String,
    gid: String,
    depth: usize,
}

fn children(tx: &v1::Transaction, of: usize, depth: usize) -> Vec<Child> {
    let child = |branch: &v1::Branch| Child {
        of,
        step: branch.branch_id.clone(),
        gid: branch.child_gid.clone(),
        depth,
    };
    tx.branches.iter().filter(|branch| !branch.child_gid.is_empty()).map(child).collect()
}
