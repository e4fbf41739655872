//! A transaction that is driven by a script, and recorded.
//!
//! A script has one line for each branch and each input:
//!
//! | line | meaning |
//! | --- | --- |
//! | `saga`, `tcc`, `2pc`, `interactive saga`, … | mode and drive, first of all |
//! | `starts 5000`, `lock NAME`, `child` | start after so many ms; a lock of its own; it has a parent |
//! | `branch NAME WORDS` | a branch: `after a,b`, `takes a` (its output), `pivot`, `kept`, `none`, `tcc`, `2pc`, `tries 3`, `patience 500`, `delay 500`, `at 500` (ms from the begin), `lock NAME` |
//! | `enlist NAME WORDS`, `execute NAME WORDS` | a branch that is added, called by the initiator or the coordinator |
//! | `NAME ANSWER` | of its last call, a vote of its last Prepare: `prepared [BYTES]`, `read_only`, `refused`, `working MS`, `failed`, `done`, `commits`, `rolls_back`, `hazard` |
//! | `locks ANSWER`, `locks NAME ANSWER` | `granted`, `older` or `younger` (held by another one), `failed` |
//! | `commit a=prepared,b`, `rollback`, `parent commit` | what is asked for |
//! | `wait 500`, `wake` | time passes; until the next tick |
//! | `stop 500` | so many ms without a coordinator |
//! | `crash` | adopted by the next incarnation |
//! | `retry`, `resolve NAME commits [BYTES]`, `forget` | an operator's acts; the bytes are an output |
//! | `rewrite` | the row is written again |

use std::time::Duration;

use bytes::Bytes;
use unanimo_core::history::{Document, Entry, Program};
use unanimo_core::{
    ActionName, BranchId, BranchSpec, Call, Compensation, Definition, Drive, Effects, Enlistment,
    Gid, HeuristicKind, Incarnation, Input, InputName, Lock, LockAnswer, LockMode, LockName, Mode,
    Operation, Parent, ParticipantName, Payload, PhaseTwoAnswer, PhaseTwoOperation, Policy,
    PrepareAnswer, Record, RecordPolicy, Refusal, RetryPolicy, Start, StepInput, Timestamp,
    Transaction, TxId, Vote,
};
use uuid::Uuid;

/// When every script begins: 2026-01-01T00:00:00Z.
pub(super) const BEGUN: Timestamp = Timestamp(1_767_225_600_000);

/// A transaction under way.
pub(super) struct Run {
    tx: Transaction,
    policy: Policy,
    now: Timestamp,
    stored: Record,
    entries: Vec<Entry>,
    calls: Vec<Call>,
    lock_attempts: Vec<(Option<usize>, u32)>,
    lives: i64,
}

/// Plays a script, and returns its history.
pub(super) fn record(name: &str, script: &str) -> Document {
    let mut lines = script.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    let mut head = Vec::new();
    while let Some(line) = lines.next_if(|line| is_definition(line)) {
        head.push(line);
    }
    let mut run = Run::begin(definition(name, &head));
    for line in lines {
        run.play(line);
    }
    let program = Program { name: "unanimo".into(), version: env!("CARGO_PKG_VERSION").into() };
    Document::of(&run.stored, run.entries, program).unwrap()
}

impl Run {
    fn begin(definition: Definition) -> Self {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        assert_eq!(definition.violations(&policy.limits), []);
        // A UUID of version 7, of the time of the begin and the name.
        let spread = definition
            .gid
            .as_str()
            .bytes()
            .fold(7_u128, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let tx_id =
            TxId(Uuid::from_u128((u128::from(BEGUN.0) << 80) | (7 << 76) | (spread % (1 << 60))));
        let (tx, effects) = Transaction::begin(tx_id, definition, BEGUN, &policy);
        let stored = tx.record();
        let (now, entries, calls) = (BEGUN, Vec::new(), Vec::new());
        let mut run =
            Self { tx, policy, now, stored, entries, calls, lock_attempts: Vec::new(), lives: 1 };
        run.carry_out(effects);
        run
    }

    fn carry_out(&mut self, effects: Effects) {
        if let Some(transition) = effects.transition {
            self.stored = self.tx.record();
            self.entries.extend(transition.history);
        }
        self.calls.extend(effects.calls);
        let asked = effects.locks.iter();
        let asked = asked.map(|request| (request.number.map(|n| n.index()), request.attempt));
        self.lock_attempts.extend(asked);
    }

    fn play(&mut self, line: &str) {
        if let Some(ms) = line.strip_prefix("stop ") {
            self.now = self.now.after(Duration::from_millis(ms.parse().unwrap()));
            return;
        }
        let input = self.input(line);
        let effects = self.tx.apply(input, self.now, &self.policy);
        self.carry_out(effects.unwrap_or_else(|rejection| panic!("{line}: {rejection}")));
    }

    fn input(&mut self, line: &str) -> Input {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "wait" => self.after(rest.parse().unwrap()),
            "wake" => {
                let at = self.tx.wake_at(&self.policy).expect("something waits for time");
                self.after(self.now.until(at).as_millis().try_into().unwrap())
            }
            "crash" => {
                let version = self.stored.version.next();
                self.tx = Transaction::restore(Record { version, ..self.stored.clone() });
                self.lives += 1;
                Input::Recovered { by: Incarnation(self.lives) }
            }
            "rollback" => Input::RollbackAsked,
            "rewrite" => Input::Rewrite,
            "commit" => Input::CommitAsked { listed: rest.split(',').map(listed).collect() },
            "parent" if rest == "commit" => {
                Input::ParentDecided { operation: PhaseTwoOperation::Commit }
            }
            "parent" => Input::ParentDecided { operation: PhaseTwoOperation::Cancel },
            "retry" => Input::Retry { number: None, operator: Some("night shift".into()) },
            "forget" => Input::Forget { operator: "night shift".into(), note: "seen".into() },
            "resolve" => {
                let (name, how) = rest.split_once(' ').unwrap();
                let (how, bytes) = how.split_once(' ').unwrap_or((how, ""));
                let (operator, note) = ("night shift".into(), "by telephone".into());
                let output = bytes.parse().ok().map(|bytes| Bytes::from(vec![2; bytes]).into());
                let (number, kind) = (self.number(name), kind(how));
                Input::Resolve { number, kind, output, operator, note }
            }
            "enlist" | "execute" => {
                let by_coordinator = first == "execute";
                let enlistment = match by_coordinator {
                    true => Enlistment::Coordinator,
                    false => Enlistment::Initiator,
                };
                let mode = self.tx.identity().mode().unwrap();
                Input::Enlist { branch: branch(rest, mode).into(), enlistment }
            }
            "locks" => self.locks_answered(rest),
            name => self.answered(name, rest),
        }
    }

    fn after(&mut self, ms: u64) -> Input {
        self.now = self.now.after(Duration::from_millis(ms));
        Input::Tick
    }

    fn number(&self, name: &str) -> unanimo_core::BranchNumber {
        self.tx.branch_by_id(&BranchId::new(name).unwrap()).expect(name).number
    }

    fn answered(&mut self, name: &str, answer: &str) -> Input {
        // An answer takes a while.
        self.now = self.now.after(Duration::from_millis(7));
        let number = self.number(name);
        let (answer, argument) = answer.split_once(' ').unwrap_or((answer, ""));
        let number_of = |text: &str| text.parse().unwrap_or(0);
        let is_vote = ["prepared", "read_only", "refused"].contains(&answer);
        let call = self.calls.iter().rev().find(|call| {
            call.number == number && (!is_vote || call.operation == Operation::Prepare)
        });
        let Call { operation, attempt, .. } = *call.expect("it was called");
        let prepare = |answer| Input::PrepareAnswered { number, attempt, answer };
        let Operation::PhaseTwo(operation) = operation else {
            return prepare(match answer {
                "prepared" => {
                    let data = Bytes::from(vec![1; number_of(argument) as usize]);
                    let typed = if data.is_empty() { "" } else { "application/json" };
                    PrepareAnswer::Prepared(Payload { data, media_type: typed.into() })
                }
                "read_only" => PrepareAnswer::ReadOnly,
                "refused" => PrepareAnswer::Refused(Refusal {
                    reason: "SOLD_OUT".into(),
                    message: "nothing left".into(),
                }),
                "asleep" => PrepareAnswer::Asleep {
                    until: self.now.after(Duration::from_millis(number_of(argument))),
                },
                "working" => PrepareAnswer::Working {
                    retry_after: Duration::from_millis(number_of(argument)),
                },
                _ => PrepareAnswer::Failed("connection refused".into()),
            });
        };
        let answer = match answer {
            "done" => PhaseTwoAnswer::Done,
            "working" => {
                PhaseTwoAnswer::Working { retry_after: Duration::from_millis(number_of(argument)) }
            }
            "failed" => PhaseTwoAnswer::Failed("connection refused".into()),
            how => PhaseTwoAnswer::Heuristic { kind: kind(how), note: "by itself".into() },
        };
        Input::PhaseTwoAnswered { number, operation, attempt, answer }
    }

    fn locks_answered(&mut self, answer: &str) -> Input {
        self.now = self.now.after(Duration::from_millis(2));
        let (owner, answer) = match answer.split_once(' ') {
            Some((name, answer)) => (Some(self.number(name)), answer),
            None => (None, answer),
        };
        let index = owner.map(|number| number.index());
        let asked = self.lock_attempts.iter().rev().find(|(asked, _)| *asked == index);
        let attempt = asked.expect("locks were asked for").1;
        let answer = match answer {
            "granted" => LockAnswer::Granted,
            "failed" => LockAnswer::Failed("the database does not answer".into()),
            age => {
                let spec = owner.map(|number| &self.tx.branches()[number.index()].spec.step.locks);
                let locks = spec.unwrap_or(&self.tx.identity().locks);
                let (lock, holder) = (locks[0].name.clone(), Gid::new("another-one").unwrap());
                LockAnswer::Held {
                    lock,
                    holder,
                    older: age == "older",
                    waits: false,
                    blocks_older: false,
                }
            }
        };
        Input::LocksAnswered { number: owner, attempt, answer }
    }
}

fn is_definition(line: &str) -> bool {
    let first = line.split(' ').next().unwrap_or_default();
    let heads = ["saga", "tcc", "2pc", "interactive", "starts", "lock", "child", "branch"];
    heads.contains(&first)
}

fn definition(name: &str, head: &[&str]) -> Definition {
    let mode_line = head.first().expect("the mode comes first");
    let drive = match mode_line.starts_with("interactive") {
        true => Drive::Interactive,
        false => Drive::Declarative,
    };
    let mode: Mode = mode_line.rsplit(' ').next().unwrap().parse().unwrap();
    let rest = |first: &str| {
        let of = move |line: &&str| line.strip_prefix(first).map(|rest| rest.trim().to_owned());
        head.iter().filter_map(of).collect::<Vec<_>>()
    };
    let start = rest("starts ").first().map(|ms| Duration::from_millis(ms.parse().unwrap()));
    let parent = TxId(Uuid::from_u128((u128::from(BEGUN.0) << 80) | (7 << 76)));
    let number = unanimo_core::BranchNumber::from_index(0);
    Definition {
        gid: Gid::new(name).unwrap(),
        mode,
        drive,
        branches: rest("branch ").iter().map(|words| branch(words, mode)).collect(),
        timeout: Some(Duration::from_secs(60)),
        start: start.map_or(Start::AtOnce, Start::After),
        locks: rest("lock ").iter().map(|name| lock(name)).collect(),
        parent: head.contains(&"child").then_some(Parent { tx_id: parent, number, root: parent }),
        children: Vec::new(),
        metadata: Default::default(),
        trace: Default::default(),
        initiator: String::new(),
    }
}

fn branch(text: &str, mode: Mode) -> BranchSpec {
    let mut words = text.split(' ');
    let name = words.next().unwrap();
    let mut spec = BranchSpec {
        branch_id: BranchId::new(name).unwrap(),
        participant: ParticipantName::new("travel").unwrap(),
        action: ActionName::new(name).unwrap(),
        payload: Payload {
            data: Bytes::from(vec![b'1'; 3 + name.len()]),
            media_type: "application/json".into(),
        },
        mode,
        step: Default::default(),
    };
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("an argument");
        let step = &mut spec.step;
        let retry = || step.retry.unwrap_or_default();
        match word {
            "after" => step.depends_on = next().split(',').map(id).collect(),
            "takes" => {
                let input = |from: &str| StepInput {
                    name: InputName::new(from).unwrap(),
                    branch_id: id(from),
                };
                step.inputs = next().split(',').map(input).collect();
            }
            "pivot" => step.pivot = true,
            "kept" => step.compensation = Compensation::Kept,
            "none" => step.compensation = Compensation::None,
            "tries" => {
                let attempts_max = next().parse().ok();
                step.retry = Some(RetryPolicy { attempts_max, ..retry() });
            }
            "patience" => {
                let give_up_after = next().parse().ok().map(Duration::from_millis);
                step.retry = Some(RetryPolicy { give_up_after, ..retry() });
            }
            "at" => {
                step.start_at =
                    next().parse().ok().map(|ms| BEGUN.after(Duration::from_millis(ms)));
            }
            "delay" => step.delay = next().parse().ok().map(Duration::from_millis),
            "lock" => step.locks.push(lock(next())),
            mode => spec.mode = mode.parse().unwrap(),
        }
    }
    spec
}

fn id(name: &str) -> BranchId {
    BranchId::new(name).unwrap()
}

fn lock(name: &str) -> Lock {
    let name = LockName::new(name).unwrap();
    Lock { name, mode: LockMode::Exclusive, wait_max: Duration::from_secs(2) }
}

fn listed(word: &str) -> (BranchId, Option<Vote>) {
    let (name, vote) = word.split_once('=').unwrap_or((word, ""));
    let vote = match vote {
        "prepared" => Some(Vote::Prepared),
        "read_only" => Some(Vote::ReadOnly),
        "refused" => Some(Vote::Refused),
        _ => None,
    };
    (id(name), vote)
}

fn kind(word: &str) -> HeuristicKind {
    match word {
        "commits" => HeuristicKind::Commit,
        "rolls_back" => HeuristicKind::Rollback,
        _ => HeuristicKind::Hazard,
    }
}
