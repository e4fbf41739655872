//! A transaction driven by a script: one line an input, and what it must lead to.
//!
//! `a prepared => COMMIT; commit a` reads: when branch `a` votes PREPARED, a transition with the
//! decision COMMIT is awaited, and Commit is sent to `a`. Words of the right side: a transition as
//! `write`, `COMMIT`, `ABORT cause`, `END` or `note` (not awaited), joined by `+`; then the calls in
//! order, and the locks that are asked for. `!` and a text is a rejection.

use std::time::Duration;

use bytes::Bytes;
use unanimo_core::{
    BranchId, BranchNumber, Call, Decision, Drive, Effects, Enlistment, Gid, HeuristicKind,
    Incarnation, Input, LockAnswer, LockName, LockRequest, Mode, Phase, PhaseTwoAnswer,
    PhaseTwoOperation, Policy, PrepareAnswer, Refusal, Timestamp, Transaction, TxId, Vote,
};

use super::{Durable, definition, request, saga, step};

pub(crate) struct Script {
    pub(crate) tx: Transaction,
    durable: Durable,
    /// The rest after a crash that loses all that nobody awaited.
    awaited: Durable,
    before: Phase,
    pub(crate) now: Timestamp,
    policy: Policy,
    lock_attempts: std::collections::BTreeMap<Option<BranchNumber>, u32>,
}

/// Runs a script against a new transaction: `tcc a b`, `2pc a b`, `interactive tcc`, `tombstone`.
#[track_caller]
pub(crate) fn check(setup: &str, script: &str) -> Script {
    let (policy, now, tx_id) =
        (Policy::default(), Timestamp(1_000_000), TxId(uuid::Uuid::from_u128(7)));
    if setup == "tombstone" {
        let gid = Gid::new("g").unwrap();
        let (tx, begun) = Transaction::tombstone(tx_id, gid, String::new(), now, &policy);
        return run(tx, &begun, now, policy, "ABORT Rollback+END", script);
    }
    let (drive, rest) = match setup.strip_prefix("interactive ") {
        Some(rest) => (Drive::Interactive, rest),
        None => (Drive::Declarative, setup),
    };
    let mut words = rest.split_whitespace();
    let mode = words.next().and_then(|word| word.parse().ok()).unwrap_or(Mode::Tcc);
    let branches: Vec<&str> = words.collect();
    if mode == Mode::Saga {
        let (tx, begun) = Transaction::begin(tx_id, saga(drive, &branches), now, &policy);
        // The first line is the begin.
        let (first, script) = script.trim_start().split_once('\n').expect("a line for the begin");
        return run(tx, &begun, now, policy, first.trim(), script);
    }
    let definition = definition(mode, drive, &branches);
    let (tx, begun) = Transaction::begin(tx_id, definition, now, &policy);
    let calls: Vec<String> = branches.iter().map(|id| format!("prepare {id}")).collect();
    let first = [vec!["write".to_owned()], calls].concat().join("; ");
    run(tx, &begun, now, policy, &first, script)
}

#[track_caller]
fn run(
    tx: Transaction,
    begun: &Effects,
    now: Timestamp,
    policy: Policy,
    first: &str,
    script: &str,
) -> Script {
    let durable = Durable::begun(begun);
    let awaited = durable.clone();
    let (before, lock_attempts) = (Phase::Active, Default::default());
    let mut script_run = Script { tx, durable, awaited, before, now, policy, lock_attempts };
    script_run.note_locks(begun);
    assert_eq!(script_run.render(begun), first);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        script_run.line(line);
    }
    script_run
}

impl Script {
    /// Time until a Tick is due.
    pub(crate) fn wakes_in(&self) -> Option<Duration> {
        self.tx.wake_at(&self.policy).map(|at| self.now.until(at))
    }

    /// Plays one line.
    #[track_caller]
    pub(crate) fn line(&mut self, line: &str) {
        let (input, expected) = line.split_once("=>").expect("a line has =>");
        assert_eq!(self.play(input.trim()), expected.trim(), "at `{line}`");
    }

    /// The store is as an earlier version left it: it asked operators for no outputs.
    pub(crate) fn wrote_no_given_outputs(&mut self) {
        self.durable.without_given_outputs();
        self.awaited.without_given_outputs();
    }

    /// Returns what is shown of a lock that is waited for.
    pub(crate) fn shown_obstacle(&self) -> Option<String> {
        let of_branches = self.tx.branches().iter().filter_map(|branch| branch.obstacle());
        self.tx.obstacle().into_iter().chain(of_branches).next().map(ToString::to_string)
    }

    /// Time passes, and nobody looks.
    pub(crate) fn sleep(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    fn play(&mut self, line: &str) -> String {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        self.before = self.tx.phase();
        let input = match head {
            "tick" => {
                let ms: u64 = rest.trim_start_matches('+').parse().unwrap();
                self.now = self.now.after(Duration::from_millis(ms));
                Input::Tick
            }
            "rollback" => Input::RollbackAsked,
            "commit" => {
                Input::CommitAsked { listed: rest.split_whitespace().map(listed).collect() }
            }
            "execute" => {
                Input::Enlist { branch: self.request(rest), enlistment: Enlistment::Coordinator }
            }
            "enlist" => {
                Input::Enlist { branch: self.request(rest), enlistment: Enlistment::Initiator }
            }
            "forget" => Input::Forget { operator: "op".into(), note: "seen".into() },
            "retry" => {
                let operator = (!rest.is_empty()).then(|| rest.to_owned());
                Input::Retry { number: None, operator }
            }
            "crash" => {
                if rest == "loses notes" {
                    self.durable = self.awaited.clone();
                }
                self.tx = self.durable.recover();
                self.awaited = self.durable.clone();
                Input::Recovered { by: Incarnation(2) }
            }
            "parent" if rest == "commits" => {
                Input::ParentDecided { operation: PhaseTwoOperation::Commit }
            }
            "parent" => Input::ParentDecided { operation: PhaseTwoOperation::Cancel },
            "locks" => self.locks_answered(None, self.asked(None), rest),
            id => self.answer(id, rest),
        };
        match self.tx.apply(input, self.now, &self.policy) {
            Ok(effects) => {
                self.durable.write(&effects);
                if effects.transition.as_ref().is_some_and(|transition| transition.awaited) {
                    self.awaited = self.durable.clone();
                }
                self.note_locks(&effects);
                self.render(&effects)
            }
            Err(rejection) => format!("! {rejection}"),
        }
    }

    fn request(&self, word: &str) -> unanimo_core::BranchRequest {
        if self.tx.identity().mode() == Some(Mode::Saga) {
            let mut parts = word.split('+');
            return step(parts.next().unwrap(), parts).into();
        }
        request(word)
    }

    /// An answer of the attempt under way, or of an earlier one: `a#1 prepared`.
    fn answer(&self, id: &str, answer: &str) -> Input {
        let (id, attempt) = match id.split_once('#') {
            Some((id, attempt)) => (id, Some(attempt.parse().unwrap())),
            None => (id, None),
        };
        let branch = self.tx.branch_by_id(&BranchId::new(id).unwrap()).expect("a known branch");
        let (answer, argument) = answer.split_once(' ').unwrap_or((answer, ""));
        let retry_after = Duration::from_millis(argument.parse().unwrap_or(0));
        let heuristic = |kind| PhaseTwoAnswer::Heuristic { kind, note: "own will".into() };
        let number = branch.number;
        let prepare = |answer| Input::PrepareAnswered {
            number,
            attempt: attempt.unwrap_or(branch.progress.prepare_attempts.count),
            answer,
        };
        let operation = match self.tx.phase().decision() {
            Some(Decision::Commit) => PhaseTwoOperation::Commit,
            _ => PhaseTwoOperation::Cancel,
        };
        let phase_two = |answer| Input::PhaseTwoAnswered {
            number,
            operation,
            attempt: attempt.unwrap_or(branch.progress.phase_two_attempts.count),
            answer,
        };
        let active = !branch.is_owed();
        match answer {
            "locks" => self.locks_answered(Some(number), self.asked(Some(number)), argument),
            "prepared" => {
                let output = Bytes::from(vec![b'o'; argument.parse().unwrap_or(0)]);
                prepare(PrepareAnswer::Prepared(output.into()))
            }
            "read_only" => prepare(PrepareAnswer::ReadOnly),
            "refused" => prepare(PrepareAnswer::Refused(Refusal {
                reason: "NO".into(),
                message: "no".into(),
            })),
            "asleep" => prepare(PrepareAnswer::Asleep { until: self.now.after(retry_after) }),
            "working" if active => prepare(PrepareAnswer::Working { retry_after }),
            "working" => phase_two(PhaseTwoAnswer::Working { retry_after }),
            "failed" if active => prepare(PrepareAnswer::Failed("down".into())),
            "failed" => phase_two(PhaseTwoAnswer::Failed("down".into())),
            "done" => phase_two(PhaseTwoAnswer::Done),
            "heuristic_commit" => phase_two(heuristic(HeuristicKind::Commit)),
            "heuristic_rollback" => phase_two(heuristic(HeuristicKind::Rollback)),
            "hazard" => phase_two(heuristic(HeuristicKind::Hazard)),
            "resolve" => Input::Resolve {
                number,
                kind: match argument.split(' ').next().unwrap() {
                    "committed" => HeuristicKind::Commit,
                    "hazard" => HeuristicKind::Hazard,
                    _ => HeuristicKind::Rollback,
                },
                output: argument
                    .split_once(' ')
                    .map(|(_, size)| Bytes::from(vec![b'w'; size.parse().unwrap()]).into()),
                operator: "op".into(),
                note: "by hand".into(),
            },
            other => panic!("unknown answer {other}"),
        }
    }

    fn note_locks(&mut self, effects: &Effects) {
        for LockRequest { number, attempt } in effects.locks.iter().copied() {
            self.lock_attempts.insert(number, attempt);
        }
    }

    /// The last attempt to take locks.
    fn asked(&self, number: Option<BranchNumber>) -> u32 {
        self.lock_attempts.get(&number).copied().unwrap_or_default()
    }

    fn locks_answered(&self, number: Option<BranchNumber>, attempt: u32, answer: &str) -> Input {
        let lock = LockName::new("l").unwrap();
        let holder = Gid::new("h").unwrap();
        let answer = match answer {
            "granted" => LockAnswer::Granted,
            "failed" => LockAnswer::Failed("down".into()),
            answer => LockAnswer::Held {
                lock,
                holder,
                older: !answer.starts_with("held_by_younger"),
                waits: answer.starts_with("waited_for_by_older"),
                blocks_older: answer.ends_with("_and_blocks_older"),
            },
        };
        Input::LocksAnswered { number, attempt, answer }
    }

    fn render(&self, effects: &Effects) -> String {
        let mut words = Vec::new();
        if let Some(transition) = &effects.transition {
            let mut marks = Vec::new();
            let was_decided = self.before.decision().is_some();
            match transition.state.phase.decision() {
                Some(Decision::Commit) if !was_decided => marks.push("COMMIT".to_owned()),
                Some(Decision::Abort(cause)) if !was_decided => {
                    marks.push(format!("ABORT {cause:?}"));
                }
                _ => {}
            }
            if transition.state.phase.ended_at().is_some() && self.before.ended_at().is_none() {
                marks.push("END".to_owned());
            }
            if marks.is_empty() {
                marks.push(if transition.awaited { "write" } else { "note" }.to_owned());
            } else {
                assert!(transition.awaited, "a decision or an end that nobody awaits");
            }
            marks.extend(transition.events.iter().map(|event| event.kind.as_str().to_owned()));
            words.push(marks.join("+"));
        }
        for Call { number, operation, attempt } in effects.calls.iter().copied() {
            let again = if attempt > 1 { format!("#{attempt}") } else { String::new() };
            words.push(format!("{} {}{again}", operation.as_str(), self.id(number)));
        }
        for LockRequest { number, attempt } in effects.locks.iter().copied() {
            let again = if attempt > 1 { format!("#{attempt}") } else { String::new() };
            let owner = number.map_or_else(String::new, |number| format!(" {}", self.id(number)));
            words.push(format!("lock{owner}{again}"));
        }
        words.join("; ")
    }

    fn id(&self, number: BranchNumber) -> String {
        self.tx.branch(number).unwrap().spec.branch_id.to_string()
    }
}

fn listed(word: &str) -> (BranchId, Option<Vote>) {
    let (id, vote) = word.split_once('=').unwrap_or((word, ""));
    let vote = match vote {
        "prepared" => Some(Vote::Prepared),
        "refused" => Some(Vote::Refused),
        "read_only" => Some(Vote::ReadOnly),
        _ => None,
    };
    (BranchId::new(id).unwrap(), vote)
}
