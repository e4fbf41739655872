//! Rules for the definition of a saga: each mistake is refused before anything runs, and its place is
//! named.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::definition;
use unanimo_core::{
    BranchId, Compensation, Definition, Drive, Enlistment, InputName, Limits, Lock, LockMode,
    LockName, Mode, Namespace, Parent, Policy, Rejection, RetryPolicy, Start, StepInput, Timestamp,
    Transaction, TxId, Violation,
};

/// A saga in which `b` and `c` depend on `a`, and `d` on both.
fn diamond() -> Definition {
    let mut saga = definition(Mode::Saga, Drive::Declarative, &["a", "b", "c", "d"]);
    for (index, on) in [(1, "a"), (2, "a"), (3, "b"), (3, "c")] {
        saga.branches[index].step.depends_on.push(id(on));
    }
    saga
}

fn id(text: &str) -> BranchId {
    BranchId::new(text).unwrap()
}

fn input(name: &str, of: &str) -> StepInput {
    StepInput { name: InputName::new(name).unwrap(), branch_id: id(of) }
}

fn lock(name: &str) -> Lock {
    Lock {
        name: LockName::new(name).unwrap(),
        mode: LockMode::Exclusive,
        wait_max: Duration::from_secs(1),
    }
}

fn found(change: impl FnOnce(&mut Definition)) -> Vec<String> {
    let mut saga = diamond();
    change(&mut saga);
    let violations = saga.violations(&Limits::default());
    violations.iter().map(Violation::to_string).collect()
}

#[test]
fn a_saga_without_mistakes_passes() {
    assert_eq!(found(|_| {}), [""; 0]);
    let everything = found(|saga| {
        saga.locks = vec![lock("account:1")];
        saga.branches[0].mode = Mode::Tcc;
        saga.branches[1].step.compensation = Compensation::Kept;
        saga.branches[1].step.retry = Some(RetryPolicy {
            attempts_max: Some(3),
            backoff_min: Some(Duration::from_millis(10)),
            backoff_max: Some(Duration::from_secs(1)),
            give_up_after: Some(Duration::from_secs(30)),
        });
        saga.branches[2].step.pivot = true;
        saga.branches[2].step.locks = vec![lock("account:1")];
        saga.branches[3].step.compensation = Compensation::None;
        saga.branches[3].step.inputs = vec![input("x", "a"), input("y", "b"), input("z", "c")];
        saga.branches[3].step.delay = Some(Duration::from_secs(7 * 24 * 60 * 60));
    });
    assert_eq!(everything, [""; 0]);
}

#[test]
fn each_mistake_of_order_is_refused_and_named() {
    assert_eq!(
        found(|saga| saga.branches[0].step.depends_on.push(id("d"))),
        [
            "branches[0].depends_on must not lead back to the branch: a depends on d depends on b depends on a"
        ]
    );
    assert_eq!(
        found(|saga| saga.branches[1].step.depends_on.push(id("b"))),
        ["branches[1].depends_on must not lead back to the branch: b depends on b"]
    );
    assert_eq!(
        found(|saga| saga.branches[3].step.depends_on[1] = id("nobody")),
        ["branches[3].depends_on[1] must name a branch of the transaction, nobody is none"]
    );
    assert_eq!(
        found(|saga| saga.branches[3].step.depends_on[1] = id("b")),
        ["branches[3].depends_on[1] must be unique, b came before"]
    );
    assert_eq!(
        found(|saga| saga.branches[2].branch_id = id("b"))[0],
        "branches[2].branch_id must be unique, b came before"
    );
    let many: Vec<String> = (0..65).map(|n| format!("s{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = definition(Mode::Saga, Drive::Declarative, &many);
    assert_eq!(
        many.violations(&Limits::default())[0].to_string(),
        "branches must have at most 64 branches, has 65"
    );
}

#[test]
fn each_mistake_of_inputs_is_refused_and_named() {
    assert_eq!(
        found(|saga| saga.branches[1].step.inputs = vec![input("x", "c")]),
        [
            "branches[1].inputs[0].branch_id must name a branch that b depends on, directly or not; c is none"
        ]
    );
    assert_eq!(
        found(|saga| saga.branches[1].step.inputs = vec![input("x", "nobody")]),
        ["branches[1].inputs[0].branch_id must name a branch of the transaction, nobody is none"]
    );
    assert_eq!(
        found(|saga| saga.branches[3].step.inputs = vec![input("x", "a"), input("x", "b")]),
        ["branches[3].inputs[1].name must be unique, x came before"]
    );
    assert_eq!(
        found(|saga| saga.branches[3].step.inputs = vec![input("x", "a"), input("y", "a")]),
        ["branches[3].inputs[1].branch_id must be unique, the output of a came before"]
    );
    let prepared = found(|saga| {
        saga.branches[0].mode = Mode::TwoPhaseCommit;
        saga.branches[1].step.inputs = vec![input("x", "a")];
    });
    assert_eq!(
        prepared,
        [
            "branches[1].inputs[0].branch_id must name a branch with an output, a is in two-phase commit and has none"
        ]
    );
}

#[test]
fn each_mistake_of_the_pivot_is_refused_and_named() {
    let pivots = |saga: &mut Definition| {
        saga.branches[1].step.pivot = true;
        saga.branches[2].step.pivot = true;
    };
    assert_eq!(
        found(pivots),
        [
            "branches[2].pivot must be set in one branch at most, b is the pivot; let a step that may only succeed come after it"
        ]
    );
    let pivot_at =
        |index: usize| move |saga: &mut Definition| saga.branches[index].step.pivot = true;
    let reserved = found(|saga| {
        pivot_at(1)(saga);
        saga.branches[1].mode = Mode::Tcc;
    });
    assert_eq!(
        reserved,
        [
            "branches[1].pivot must not be set in a branch of mode tcc: the pivot is a step of mode saga"
        ]
    );
    let child = found(|saga| {
        pivot_at(1)(saga);
        let tx_id = TxId(uuid::Uuid::nil());
        let number = unanimo_core::BranchNumber::from_index(0);
        saga.parent = Some(Parent { tx_id, number, root: tx_id });
    });
    assert_eq!(child, ["branches[1].pivot must not be set: the parent of a child decides"]);
    assert_eq!(
        found(|saga| saga.branches[3].step.compensation = Compensation::None),
        [
            "branches[3].compensation must not be none: an ABORT may follow the branch; say kept if its effect is to stay"
        ]
    );
    for index in [1, 3] {
        let kept = found(|saga| {
            pivot_at(1)(saga);
            saga.branches[index].step.compensation = Compensation::Kept;
        });
        assert_eq!(
            kept,
            [format!(
                "branches[{index}].compensation must not be kept: no ABORT follows the pivot; say none"
            )]
        );
        let retry = |retry| {
            found(|saga| {
                pivot_at(1)(saga);
                saga.branches[index].step.retry = Some(retry);
            })
        };
        let pauses = RetryPolicy {
            backoff_min: Some(Duration::from_secs(1)),
            backoff_max: Some(Duration::from_secs(2)),
            ..RetryPolicy::default()
        };
        assert_eq!(retry(pauses), [""; 0], "its pauses are its own");
        let (attempts_max, give_up_after) = (Some(3), Some(Duration::from_secs(9)));
        assert_eq!(
            retry(RetryPolicy { attempts_max, give_up_after, ..pauses }),
            ["attempts_max", "give_up_after"].map(|name| format!(
                "branches[{index}].retry.{name} must not be set in the pivot or after it: it is sent until it is answered"
            ))
        );
    }
    let locked = found(|saga| {
        pivot_at(1)(saga);
        saga.branches[3].step.locks = vec![lock("x")];
    });
    assert_eq!(
        locked,
        [
            "branches[3].locks must not be set after the pivot: nothing could be undone for a lock that is not had; take it before"
        ]
    );
}

#[test]
fn each_mistake_of_numbers_and_times_is_refused_and_named() {
    let retry = |retry: RetryPolicy| found(|saga| saga.branches[1].step.retry = Some(retry));
    assert_eq!(
        retry(RetryPolicy { attempts_max: Some(0), ..RetryPolicy::default() }),
        ["branches[1].retry.attempts_max must be at least 1"]
    );
    assert_eq!(
        retry(RetryPolicy { give_up_after: Some(Duration::ZERO), ..RetryPolicy::default() }),
        ["branches[1].retry.give_up_after must be at least 1 ms"]
    );
    let (min, max) = (Some(Duration::from_secs(2)), Some(Duration::from_secs(1)));
    assert_eq!(
        retry(RetryPolicy { backoff_min: min, backoff_max: max, ..RetryPolicy::default() }),
        ["branches[1].retry.backoff_max must be at least backoff_min"]
    );
    assert_eq!(
        found(|saga| saga.branches[1].step.delay = Some(Duration::from_secs(60))),
        ["branches[1].delay must be less than the timeout of the transaction, 60 s"]
    );
    assert_eq!(
        found(|saga| saga.locks = vec![lock("x"), lock("x")]),
        ["locks[1].name must be unique, x came before"]
    );
    assert_eq!(
        found(
            |saga| saga.branches[1].step.locks = (0..17).map(|n| lock(&format!("l{n}"))).collect()
        ),
        ["branches[1].locks must have at most 16 locks, has 17"]
    );
}

#[test]
fn fields_of_sagas_are_refused_elsewhere() {
    let mut tcc = definition(Mode::Tcc, Drive::Declarative, &["a", "b"]);
    tcc.branches[1].step.depends_on = vec![id("a")];
    tcc.branches[1].step.pivot = true;
    let violations = tcc.violations(&Limits::default());
    let rule = "must not be set: the transaction is no saga";
    assert_eq!(
        violations,
        [Violation::new("branches[1].depends_on", rule), Violation::new("branches[1].pivot", rule)]
    );
}

#[test]
fn mistakes_of_a_child_are_named_within_their_branch() {
    let mut inner = diamond();
    inner.branches[1].step.inputs = vec![input("x", "c")];
    let nest = |inner: Definition| {
        let mut outer = diamond();
        outer.children = vec![(2, inner)];
        outer
    };
    assert_eq!(
        nest(inner.clone()).violations(&Limits::default())[0].field,
        "branches[2].child.branches[1].inputs[0].branch_id"
    );
    // A child that aborts after COMMIT could not be made up for.
    let mut behind = nest(diamond());
    behind.branches[1].step.pivot = true;
    behind.branches[2].step.depends_on = vec![id("b")];
    assert_eq!(
        behind.violations(&Limits::default())[0].to_string(),
        "branches[2].child must not be set after the pivot: a child that aborts could not be made up for"
    );
    // It has no output.
    let mut read = nest(diamond());
    read.branches[3].step.inputs = vec![input("x", "c")];
    assert_eq!(
        read.violations(&Limits::default())[0].to_string(),
        "branches[3].inputs[0].branch_id must name a branch with an output, c is a child and has none"
    );
    // Its steps cannot read any: inputs would be lost.
    let mut given = nest(diamond());
    given.branches[2].step.inputs = vec![input("x", "a")];
    assert_eq!(
        given.violations(&Limits::default()),
        [Violation::new(
            "branches[2].inputs",
            "must not be set together with child: the child's steps cannot read them"
        )]
    );
    let mut large = diamond();
    large.children = vec![(2, diamond()); 64];
    assert_eq!(
        large.violations(&Limits::default())[0].to_string(),
        "branches must begin at most 64 transactions, children included, begin 65"
    );
    let too_deep = nest(nest(nest(nest(nest(diamond())))));
    assert_eq!(
        too_deep.violations(&Limits::default())[0].to_string(),
        "branches[2].child.branches[2].child.branches[2].child.branches[2].child.branches[2].child \
         must stand at most 4 deep"
    );
}

#[test]
fn an_enlisted_step_obeys_the_same_rules() {
    let policy = Policy::default();
    let begin = definition(Mode::Saga, Drive::Interactive, &[]);
    let (mut tx, _) = Transaction::begin(TxId(uuid::Uuid::nil()), begin, Timestamp(1), &policy);
    let mut enlist =
        |name: &str, change: &dyn Fn(&mut unanimo_core::BranchRequest), by: Enlistment| {
            let mut branch = common::request(name);
            change(&mut branch);
            let input = unanimo_core::Input::Enlist { branch, enlistment: by };
            match tx.apply(input, Timestamp(2), &policy) {
                Ok(_) => String::new(),
                Err(Rejection::Invalid(violation)) => violation.to_string(),
                Err(other) => format!("another rejection: {other}"),
            }
        };
    let by = Enlistment::Coordinator;
    assert_eq!(enlist("a", &|_| {}, by), "");
    assert_eq!(
        enlist("b", &|b| b.step.depends_on = vec![id("z")], by),
        "branch.depends_on[0] must name a branch of the transaction, z is none"
    );
    assert_eq!(
        enlist("b", &|b| b.step.pivot = true, by),
        "branch.pivot must not be set: the initiator of an interactive saga decides"
    );
    assert_eq!(
        enlist("b", &|b| b.step.inputs = vec![input("x", "a")], by),
        "branch.inputs[0].branch_id must name a branch that b depends on, directly or not; a is none"
    );
    assert_eq!(enlist("b", &|b| b.step.depends_on = vec![id("a")], by), "");
    assert_eq!(
        enlist("c", &|b| b.step.delay = Some(Duration::from_secs(1)), Enlistment::Initiator),
        "branch must only say depends_on and compensation of a branch that its initiator calls"
    );
}

/// Names are told with their transaction: there is a bound on all of them together.
/// A second wall behind the edge that puts names into namespaces.
#[test]
fn all_names_of_a_transaction_are_in_one_namespace() {
    let tenant = Namespace::new("tenant-a").unwrap();
    let inside = |saga: &mut Definition| {
        saga.gid = saga.gid.clone().within(Some(&tenant));
        for branch in &mut saga.branches {
            branch.participant = branch.participant.clone().within(Some(&tenant));
        }
    };
    assert_eq!(found(inside), [""; 0]);
    let rule = "must be in the namespace of the transaction";
    let strangers = found(|saga| {
        inside(saga);
        saga.branches[1].participant = saga.branches[1].participant.clone().within(None);
        saga.branches[2].step.locks = vec![lock("stock")];
        saga.locks = vec![lock("account:1")];
    });
    let fields = ["branches[1].participant", "branches[2].locks[0].name", "locks[0].name"];
    assert_eq!(strangers, fields.map(|field| format!("{field} {rule}")));
    let other = Namespace::new("tenant-b").unwrap();
    let of_another = found(|saga| {
        inside(saga);
        saga.branches[0].participant = saga.branches[0].participant.clone().within(Some(&other));
    });
    assert_eq!(of_another, [format!("branches[0].participant {rule}")]);

    let (policy, now) = (Policy::default(), Timestamp(1));
    let mut begun = definition(Mode::Tcc, Drive::Interactive, &[]);
    begun.gid = begun.gid.within(Some(&tenant));
    let (mut tx, _) = Transaction::begin(TxId(uuid::Uuid::nil()), begun, now, &policy);
    let branch = common::request("a");
    let own = unanimo_core::BranchRequest {
        participant: branch.participant.clone().within(Some(&tenant)),
        ..branch.clone()
    };
    let enlistment = Enlistment::Coordinator;
    let refused = tx.apply(unanimo_core::Input::Enlist { branch, enlistment }, now, &policy);
    let violation = Violation::new("branch.participant", rule);
    assert_eq!(refused.unwrap_err(), Rejection::Invalid(violation));
    tx.apply(unanimo_core::Input::Enlist { branch: own, enlistment }, now, &policy).unwrap();
}

#[test]
fn names_of_a_transaction_have_a_bound_together() {
    let rule =
        "names of dependencies, inputs and locks of all branches must be at most 98304 bytes, has ";
    let long = |prefix: &str, n: usize| format!("{prefix}{n:0>width$}", width = 128 - prefix.len());
    let locked = |count: usize| {
        found(|saga| {
            for branch in &mut saga.branches {
                branch.step.locks = (0..count).map(|n| lock(&long("l", n))).collect();
            }
        })
    };
    assert_eq!(locked(16), [""; 0]);
    let mut saga = definition(Mode::Saga, Drive::Declarative, &[]);
    for n in 0..64 {
        let mut spec = common::spec(&long("b", n), Mode::Saga);
        spec.step.locks = (0..16).map(|n| lock(&long("l", n))).collect();
        saga.branches.push(spec);
    }
    let found = saga.violations(&Limits::default());
    let found: Vec<_> = found.iter().map(Violation::to_string).collect();
    assert_eq!(found, [format!("{rule}{}", 64 * 16 * 256)]);

    // Also where branches come one by one.
    let policy = Policy::default();
    let saga = definition(Mode::Saga, Drive::Interactive, &[]);
    let (mut tx, _) = Transaction::begin(TxId(uuid::Uuid::nil()), saga, Timestamp(1), &policy);
    let refused = (0..64).find_map(|n| {
        let mut branch = common::spec(&long("b", n), Mode::Saga);
        branch.step.locks = (0..16).map(|n| lock(&long("l", n))).collect();
        let branch = branch.into();
        let input = unanimo_core::Input::Enlist { branch, enlistment: Enlistment::Coordinator };
        tx.apply(input, Timestamp(2), &policy).err()
    });
    assert_eq!(refused.unwrap().to_string(), format!("{rule}{}", 25 * 16 * 256));
    assert_eq!(tx.branches().len(), 24);
}

/// A saga that can only abort through its child is refused, too.
#[test]
fn delays_within_a_child_end_before_the_deadline() {
    let secs = |secs| Some(Duration::from_secs(secs));
    let child = |delays: [u64; 2]| {
        let mut child = diamond();
        (child.branches[0].step.delay, child.branches[3].step.delay) =
            (secs(delays[0]), secs(delays[1]));
        child.timeout = secs(1000);
        child
    };
    let nested = |child: Definition, before: u64, after: u64| {
        found(|saga| {
            saga.branches[0].step.delay = secs(before);
            saga.branches[3].step.delay = secs(after);
            saga.children = vec![(1, child)];
        })
    };
    assert_eq!(nested(child([20, 20]), 19, 0), [""; 0]);
    let rule = "must have less delays: with the delays before it they are 60 s, and the timeout of the transaction is 60 s";
    assert_eq!(nested(child([20, 20]), 20, 0), [format!("branches[1].child {rule}")]);
    let mut deep = diamond();
    (deep.timeout, deep.children) = (secs(1000), vec![(2, child([20, 20]))]);
    assert_eq!(nested(deep, 20, 0), [format!("branches[1].child {rule}")]);
    assert_eq!(
        nested(child([20, 20]), 0, 20),
        [
            "branches[3].delay must be less: with the delays before it that is 60 s, and the timeout of the transaction is 60 s"
        ]
    );
}

/// A saga that can only abort is refused: delays in a row that last until the deadline.
#[test]
fn delays_in_a_row_end_before_the_deadline() {
    let secs = |secs| Some(Duration::from_secs(secs));
    let delays = |a, b, d| {
        found(|saga| {
            saga.branches[0].step.delay = secs(a);
            saga.branches[1].step.delay = secs(b);
            saga.branches[3].step.delay = secs(d);
        })
    };
    assert_eq!(delays(20, 20, 19), [""; 0]);
    let rule = "must be less: with the delays before it that is 60 s, and the timeout of the transaction is 60 s";
    assert_eq!(delays(20, 20, 20), [format!("branches[3].delay {rule}")]);
    assert_eq!(delays(40, 20, 20), [format!("branches[1].delay {rule}")], "the first is told");
    let after_pivot = found(|saga| {
        saga.branches[0].step.pivot = true;
        saga.branches[1].step.delay = secs(40);
        saga.branches[3].step.delay = secs(40);
        for index in 0..4 {
            saga.branches[index].step.compensation = Compensation::None;
        }
    });
    assert_eq!(after_pivot, [""; 0], "there is no deadline");
    let pivot = found(|saga| {
        saga.branches[3].step.pivot = true;
        saga.branches[3].step.compensation = Compensation::None;
        saga.branches[3].step.delay = secs(60);
    });
    assert_eq!(pivot, ["branches[3].delay must be less than the timeout of the transaction, 60 s"]);
}

/// The times of day of a definition are checked against the time at which it is begun.
#[test]
fn times_of_day_are_not_past_the_deadline_nor_too_far_ahead() {
    let now = Timestamp(1_000_000);
    let found = |change: &dyn Fn(&mut Definition)| -> Vec<String> {
        let mut saga = diamond();
        change(&mut saga);
        let violations = saga.violations_at(now, &Limits::default());
        violations.iter().map(Violation::to_string).collect()
    };
    let late = "branches[1].start_at must be before the deadline of the transaction, which counts from its start";
    let at = |secs| Some(now.after(Duration::from_secs(secs)));
    assert_eq!(found(&|saga| saga.branches[1].step.start_at = at(59)), [""; 0]);
    assert_eq!(found(&|saga| saga.branches[1].step.start_at = at(60)), [late]);
    for start in
        [Start::At(now.after(Duration::from_secs(10))), Start::After(Duration::from_secs(10))]
    {
        let with = |secs| {
            found(&|saga| {
                saga.start = start;
                saga.branches[1].step.start_at = at(secs);
            })
        };
        assert_eq!((with(69), with(70)), (Vec::new(), vec![late.to_owned()]));
    }
    let behind_pivot = found(&|saga| {
        saga.branches[0].step.pivot = true;
        saga.branches[1].step.start_at = at(60);
    });
    assert_eq!(behind_pivot, [""; 0]);
    let year = 366 * 24 * 60 * 60;
    let far = "must be at most 31622400 s ahead";
    let too_far = found(&|saga| {
        saga.start = Start::At(now.after(Duration::from_secs(year + 1)));
        saga.branches[1].step.start_at = at(year + 2);
        let mut child = diamond();
        child.branches[2].step.start_at = at(year + 3);
        saga.children = vec![(3, child)];
    });
    assert_eq!(
        too_far,
        [
            format!("start_at {far}"),
            format!("branches[1].start_at {far}"),
            format!("branches[3].child.branches[2].start_at {far}"),
        ]
    );
}
