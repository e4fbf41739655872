//! Graphs are drawn as the files in `golden/` are. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

use unanimo_proto::v1;
use unanimo_saga::SagaFile;
use unanimo_saga::graph::{Graph, State};

const WIDE: &str = "\
saga: order
timeout: 10m
steps:
  check: {participant: credit, action: check, compensation: kept}
  stock: {participant: stock, action: reserve, mode: tcc, after: [check]}
  price: {participant: shop, action: price}
  pack:
    participant: stock
    action: pack
    after: [stock, check, price]
    inputs: {shelf: stock, price: price}
    delay: 5m
    locks: [\"shelf:1\", \"shelf:2\"]
  label: {participant: post, action: label, after: [price]}
  pay: {participant: bank, action: charge, pivot: true, compensation: none}
  ship: {participant: post, action: pick-up, after: [pay], compensation: none}
  tell:
    after: [price]
    child:
      mode: tcc
      steps:
        mail: {participant: post, action: mail}
        sms: {participant: post, action: sms}
";

#[track_caller]
fn golden(name: &str, drawn: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("to make it");
        std::fs::write(&path, drawn).expect("to write it");
    }
    let expected = std::fs::read_to_string(&path).expect(name);
    assert_eq!(drawn, expected, "{name} differs:\n{drawn}");
}

/// A transaction of the definition, with these states.
fn transaction(states: &[(&str, v1::BranchState)]) -> v1::Transaction {
    let file = SagaFile::parse("order.yaml", WIDE).expect("no mistake");
    let gid = unanimo_core::Gid::new("order-1").expect("an identifier");
    let request = file.with(&unanimo_saga::Inputs::default()).expect("no inputs").request(&gid);
    let branch = |(spec, (id, state)): (v1::BranchSpec, &(&str, v1::BranchState))| {
        assert_eq!(spec.branch_id, *id);
        let sent = |count| Some(v1::Attempts { count, ..Default::default() });
        v1::Branch {
            branch_id: spec.branch_id,
            participant: spec.participant,
            action: spec.action,
            mode: spec.mode,
            state: (*state).into(),
            prepare_attempts: match state {
                v1::BranchState::Waiting => None,
                v1::BranchState::Refused => sent(3),
                _ => sent(1),
            },
            refusal: (*state == v1::BranchState::Refused)
                .then(|| v1::Refusal { reason: "NO_MONEY".to_owned(), message: String::new() }),
            depends_on: spec.depends_on,
            pivot: spec.pivot,
            child_gid: spec.child.map_or_else(String::new, |_| format!("order-1.{id}")),
            ..Default::default()
        }
    };
    v1::Transaction {
        gid: request.gid,
        state: v1::TransactionState::Aborting.into(),
        branches: request.branches.into_iter().zip(states).map(branch).collect(),
        ..Default::default()
    }
}

fn aborting() -> v1::Transaction {
    use v1::BranchState as B;
    transaction(&[
        ("check", B::Kept),
        ("stock", B::Prepared),
        ("price", B::Cancelled),
        ("pack", B::Cancelling),
        ("label", B::HeuristicHazard),
        ("pay", B::Refused),
        ("ship", B::Waiting),
        ("tell", B::Waiting),
    ])
}

#[test]
fn a_definition_is_drawn() {
    let file = SagaFile::parse("order.yaml", WIDE).expect("no mistake");
    let graph = Graph::of_definition(&file);
    golden("definition.txt", &graph.to_text());
    golden("definition.svg", &graph.to_svg());
    golden("definition.mmd", &graph.to_mermaid());
}

#[test]
fn a_transaction_is_drawn_with_its_states() {
    let mut graph = Graph::of_transaction(&aborting());
    graph.attach("tell", Graph::of_transaction(&v1::Transaction::default()));
    golden("transaction.txt", &graph.to_text());
    golden("transaction.svg", &graph.to_svg());
    golden("transaction.mmd", &graph.to_mermaid());
    let states: Vec<_> = graph.steps.iter().map(|step| step.state).collect();
    assert_eq!(states[0], Some(State::Kept));
    assert_eq!(states[2], Some(State::Cancelled));
}

#[test]
fn a_line_of_text_fits_a_terminal() {
    let file = SagaFile::parse("order.yaml", WIDE).expect("no mistake");
    for text in
        [Graph::of_definition(&file).to_text(), Graph::of_transaction(&aborting()).to_text()]
    {
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

#[test]
fn the_largest_graphs_are_drawn() {
    let steps = |after: &dyn Fn(usize) -> String| {
        let step = |at| format!("  s{at}: {{participant: p, action: a, after: [{}]}}\n", after(at));
        format!("saga: many\nsteps:\n{}", (0..64).map(step).collect::<String>())
    };
    let chain = steps(&|at| if at == 0 { String::new() } else { format!("s{}", at - 1) });
    let fan = steps(&|at| {
        if at == 63 {
            (0..63).map(|on| format!("s{on}")).collect::<Vec<_>>().join(", ")
        } else {
            String::new()
        }
    });
    let dense = steps(&|at| {
        (at / 8 * 8).checked_sub(8).map_or_else(String::new, |from| {
            (from..from + 8).map(|on| format!("s{on}")).collect::<Vec<_>>().join(", ")
        })
    });
    for text in [chain, fan, dense] {
        let graph = Graph::of_definition(&SagaFile::parse("f", &text).expect("no mistake"));
        let drawn = graph.to_text();
        assert!(drawn.lines().count() > 64, "{drawn}");
        assert_eq!(graph.to_svg().matches("<rect").count(), 64);
        assert!(graph.to_mermaid().contains("s63"));
    }
}

#[test]
fn names_from_elsewhere_change_no_picture_and_no_terminal() {
    let mut tx = aborting();
    tx.gid = "<script>\u{1b}[2J\"&".to_owned();
    let graph = Graph::of_transaction(&tx);
    assert!(!graph.to_text().contains('\u{1b}'));
    assert!(!graph.to_svg().contains("<script") && !graph.to_svg().contains('\u{1b}'));
    let mermaid = graph.to_mermaid();
    assert!(mermaid.contains("#lt;script#gt;") && !mermaid.contains('\u{1b}'), "{mermaid}");
}

#[test]
fn one_step_is_one_step() {
    let text =
        "saga: a\nsteps: {tell: {child: {steps: {mail: {participant: post, action: mail}}}}}";
    let file = SagaFile::parse("a.yaml", text).expect("no mistake");
    let drawn = Graph::of_definition(&file).to_text();
    assert!(drawn.contains("saga of 1 step\n") && !drawn.contains("1 steps"), "{drawn}");
}
