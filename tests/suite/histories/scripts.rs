//! Scripts of the recorded histories: one for each thing that an upgrade must not change.

/// Name of each history, and its script.
pub(super) const SCRIPTS: &[(&str, &str)] = &[
    ("2pc-commit", "2pc\nbranch a\nbranch b\na prepared\nb read_only\na done"),
    ("2pc-refused", "2pc\nbranch a\nbranch b\na prepared\nb refused\na done"),
    (
        "2pc-deadline",
        "2pc\nbranch a\nbranch b\na prepared\nb failed\nwake\nb failed\nwait 60000\na failed\nwake\na done\nb done",
    ),
    (
        "2pc-interactive",
        "interactive 2pc\nexecute a\nenlist b\na prepared\ncommit a,b=prepared\na done\nb done",
    ),
    ("tcc-commit", "tcc\nbranch a\nbranch b\na prepared 5\nb prepared 9\na done\nb done"),
    ("tcc-rollback", "tcc\nbranch a\nbranch b\na prepared\nrollback\nb failed\na done\nb done"),
    (
        "tcc-interactive-waits",
        "interactive tcc\nexecute a\nexecute b\na failed\ncommit a,b\nb prepared\nwake\n\
         a prepared\na done\nb done",
    ),
    ("tcc-unlisted", "interactive tcc\nexecute a\nenlist b\na prepared\ncommit a\na done\nb done"),
    ("tcc-no-vote", "interactive tcc\nenlist a\ncommit a\na done"),
    (
        "tcc-down-for-long",
        "tcc\nbranch a\na prepared\na failed\nwake\na failed\nwake\na failed\nwake\na failed\nwake\n\
         a failed\nwake\na failed\nwake\na working 20000\nwait 70000\na failed\ncrash\na failed\n\
         retry\na failed\nwake\na done",
    ),
    (
        "tcc-heuristic",
        "tcc\nbranch a\nbranch b\na prepared\nb prepared\na rolls_back\nb failed\n\
         resolve b commits\nforget",
    ),
    (
        "saga-sequence",
        "saga\nbranch a\nbranch b after a takes a\nbranch c after b takes a,b\na prepared 12\nb prepared 3\nc prepared",
    ),
    (
        "saga-compensated-in-reverse",
        "saga\nbranch a\nbranch b after a\nbranch c after a\nbranch d after b,c\na prepared\n\
         b prepared\nc prepared\nd refused\nb done\nc failed\nwake\nc done\na done",
    ),
    (
        "saga-trip-with-pivot",
        "saga\nbranch flight\nbranch hotel\nbranch pay after flight,hotel pivot\n\
         branch ticket after pay takes flight\nbranch mail after ticket none\nflight prepared 40\n\
         hotel prepared 31\npay failed\nwake\npay working 500\nwake\npay prepared\nticket failed\n\
         wake\nticket refused\nwake\nticket prepared\nmail prepared",
    ),
    (
        "saga-pivot-refuses",
        "saga\nbranch flight\nbranch hotel\nbranch pay after flight,hotel pivot\nbranch mail after pay none\n\
         flight prepared\nhotel prepared\npay refused\nflight done\nhotel done",
    ),
    (
        "saga-pivot-past-the-deadline",
        "saga\nbranch stock\nbranch pay after stock pivot\nstock prepared\npay failed\nrollback\n\
         wait 61000\npay failed\nwait 60000\npay failed\ncrash\npay failed\nwake\npay prepared",
    ),
    (
        "saga-gives-up-attempts",
        "saga\nbranch a\nbranch b after a tries 3\na prepared\nb failed\nwake\nb failed\nwake\n\
         b failed\nb done\na done",
    ),
    (
        "saga-gives-up-time",
        "saga\nbranch a\nbranch b after a patience 500\na prepared\nb failed\nwake\nb failed\nwake\n\
         b failed\nwake\nb failed\nwait 500\nb done\na done",
    ),
    (
        "saga-late-answer-of-a-step",
        "saga\nbranch a\nbranch b\na prepared\nrollback\nb prepared\na done\nb failed\nwake\nb done",
    ),
    (
        "saga-kept-and-reserved",
        "saga\nbranch mark kept\nbranch reserve tcc after mark\nbranch write 2pc after reserve\n\
         branch last after write\nmark prepared\nreserve prepared 8\nwrite prepared\nlast refused\n\
         write done\nreserve done",
    ),
    (
        "saga-reserved-commits",
        "saga\nbranch reserve tcc\nbranch work after reserve takes reserve\nreserve prepared 8\n\
         work prepared\nreserve failed\nwake\nreserve done",
    ),
    (
        "saga-locks",
        "saga\nlock account:42\nbranch a lock item:7\nbranch b after a\nlocks older\nwake\n\
         locks younger\nwake\nlocks granted\nlocks a failed\nwake\nlocks a granted\na prepared\n\
         b prepared",
    ),
    (
        "saga-lock-not-had",
        "saga\nbranch a\nbranch b after a lock item:7\na prepared\nlocks b older\nwait 2500\n\
         locks b older\na done",
    ),
    (
        "saga-starts-later",
        "saga\nstarts 7200000\nbranch a\nbranch b after a delay 5000\nwait 7200000\na prepared\n\
         wake\nb prepared",
    ),
    ("saga-cancelled-before-start", "saga\nstarts 7200000\nbranch a\nwait 1000\nrollback"),
    (
        "saga-late-after-a-stop",
        "saga\nstarts 7200000\nbranch a\nwait 1000\nstop 90000000\ncrash\nwake\na prepared",
    ),
    (
        "saga-child-commits",
        "saga\nchild\nbranch a tcc\nbranch b after a\na prepared\nb prepared\nwait 90000\ncrash\nparent commit\na done",
    ),
    (
        "saga-child-rolled-back",
        "saga\nchild\nbranch a\nbranch b after a\na prepared\nb prepared\nparent cancel\nb done\n\
         a failed\nwake\na done",
    ),
    (
        "saga-child-refuses",
        "saga\nchild\nbranch a\nbranch b after a\na prepared\nb refused\na done",
    ),
    (
        "saga-crashes",
        "saga\nbranch a\nbranch b after a\nbranch c after b\na prepared 4\ncrash\na prepared 4\n\
         wait 3000\nb prepared\ncrash\nc refused\nc failed\ncrash\nc done\nb done\ncrash\na done\n\
         c done\nb done",
    ),
    (
        "saga-operator",
        "saga\nbranch a\nbranch b after a\na prepared\nb refused\na failed\nretry\na failed\nwait 61000\n\
         resolve a rolls_back\nforget",
    ),
    (
        "saga-interactive",
        "interactive saga\nexecute a\na prepared 6\nexecute b after a takes a\nb prepared\n\
         enlist c\ncommit a,b,c=prepared",
    ),
    (
        "saga-interactive-rollback",
        "interactive saga\nexecute a\na prepared\nexecute b after a\nrollback\nb done\na done",
    ),
    (
        "saga-votes-noted",
        "saga\nbranch a\nbranch b after a\nbranch c after a\na prepared\nwait 5000\nb prepared\ncrash\nc prepared",
    ),
    ("saga-many-inputs", MANY_INPUTS),
    (
        "saga-word-for-a-pivot-that-is-done",
        "saga\nbranch a\nbranch p after a pivot\nbranch b after p takes p\na prepared\np failed\n\
         resolve p commits 5\nb prepared\nforget",
    ),
    (
        "saga-word-for-a-pivot-that-is-not",
        "saga\nbranch a\nbranch p after a pivot\nbranch b after p\na prepared\np failed\n\
         resolve p rolls_back\np failed\nresolve p rolls_back\na failed\nwake\np hazard\na done\nforget",
    ),
    (
        "saga-word-with-an-output",
        "saga\nbranch p pivot\nbranch a after p\nbranch b after a takes a delay 500\np prepared\na failed\n\
         wait 70000\nresolve a commits 7\nwake\nb prepared\nforget",
    ),
    ("saga-output-dropped", "saga\nbranch a\nbranch b after a takes a\na prepared 1100000\na done"),
    (
        "saga-output-too-large",
        "saga\nbranch p pivot\nbranch b after p takes p\np prepared 1600000\nwake\np prepared 9\nb prepared",
    ),
    (
        "saga-alarms",
        "saga\nbranch p pivot\nbranch a after p\nbranch b after a\np failed\nwait 130000\np prepared\n\
         a failed\nwait 70000\na refused\nwake\na prepared\nb refused\nwake\nb prepared",
    ),
    (
        "saga-crash-in-a-sleep",
        "saga\nbranch a\nbranch b after a delay 30000\nbranch c after b\na prepared\nwait 5000\ncrash\n\
         wait 5000\nrewrite\nrollback\na done",
    ),
    (
        "saga-late-step-after-a-stop",
        "saga\nbranch p pivot\nbranch b after p delay 5000\np prepared\nstop 90000\ncrash\nwake\nwake\nb prepared",
    ),
    (
        "saga-crash-after-commit",
        "saga\nbranch p pivot\nbranch a after p takes p\nbranch b after a\np prepared 3\ncrash\na prepared\n\
         b failed\ncrash\na prepared\nb prepared",
    ),
    (
        "saga-step-at-a-time",
        "saga\nbranch a\nbranch b after a at 20000\na prepared\nwait 3000\ncrash\nwake\nb prepared",
    ),
    (
        "saga-rollback-with-an-enlisted-branch",
        "interactive saga\nexecute a\na prepared\nenlist b after a\nrollback\nb done\na done",
    ),
    (
        "saga-parent-sleeps-with-its-child",
        "saga\nbranch a tcc\nbranch b after a\na asleep 40000\ncrash\na asleep 40000\nwake\na prepared\n\
         b prepared\na done",
    ),
    ("saga-lock-until-the-deadline", "saga\nbranch a lock item:7\nlocks a younger\nwait 60000"),
    (
        "saga-crash-while-a-lock-is-waited-for",
        "saga\nbranch a\nbranch b after a lock item:7\na prepared\nlocks b older\nwait 500\ncrash\n\
         locks b older\nwait 2500\nlocks b older\nb done\na done",
    ),
    (
        "saga-crash-longer-than-a-steps-patience",
        "saga\nbranch a patience 3000\na failed\nstop 9000\ncrash\na prepared",
    ),
    (
        "saga-crash-after-a-sleep-that-is-over",
        "saga\nbranch a\nbranch b after a delay 30000\na prepared\nstop 40000\ncrash\nrollback\nb done\na done",
    ),
];

/// More inputs than are kept without a write.
const MANY_INPUTS: &str = "saga\nbranch a\nbranch b after a\na prepared\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb working 900\nwake\n\
    b working 900\nwake\nb working 900\nwake\nb working 900\nwake\nb prepared";
