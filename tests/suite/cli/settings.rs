//! Configuration of a process: files, variables, flags, and errors in them.

use super::{Program, command, file, run};

#[tokio::test]
async fn a_bad_setting_is_named_and_nothing_starts() {
    for (args, complaint) in [
        (vec!["serve", "--lease", "1ms"], "failed to accept the configuration:\n  lease must be"),
        (vec!["config", "--retention", "1000h"], "retention must be at most gid-retention"),
        (vec!["serve", "--lease", "fast"], "invalid value 'fast' for '--lease <DURATION>'"),
        (vec!["serve", "--log", "loud=noise"], "log must be a level or target=level"),
        (vec!["serve", "--log", "loud"], "\"loud\" is neither"),
        (vec!["serve", "--leese", "1s"], "unexpected argument '--leese'"),
        (vec!["serve", "--participant", "p=7000"], "must be http://HOST:PORT"),
        (vec!["serve", "--config", "nowhere.toml"], "read the configuration file nowhere.toml: No"),
        (vec!["serve", "--database-url", "mysql://x"], "database-url must begin with postgres://"),
        (vec!["frobnicate"], "unrecognized subcommand"),
    ] {
        let ran = run(&args).await;
        ran.check(2).complains(&[complaint]);
        assert_eq!(ran.out, "");
    }
    let path = file("leese = \"1s\"\n");
    let ran = run(&["serve", "--config", &path]).await;
    ran.check(2).complains(&["understand the configuration file", "unknown field `leese`"]);
    assert_eq!(ran.err.matches("unknown field").count(), 1, "said once: {}", ran.err);
}

#[tokio::test]
async fn the_configuration_is_printed_without_its_secrets() {
    let path = file(
        "database-url = \"postgres://ann:secret@db/x\"\nlease = \"20s\"\n\
         [participants]\nbank = [\"http://10.0.0.1:7000\"]\n",
    );
    let mut command = command(&["config", "--node", "two"]);
    command.env("UNANIMO_CONFIG", &path).env("UNANIMO_CALL_TIMEOUT", "7s");
    let ran = Program::start(command).end().await;
    ran.check(0).says(&[
        "database-url = \"postgres://ann:***@db/x\"  # file\n",
        "lease = \"20s\"  # file\n",
        "node = \"two\"  # flag\n",
        "call-timeout = \"7s\"  # environment\n",
        "listen = \"127.0.0.1:7610\"\n",
        "[participants]\nbank = [\"http://10.0.0.1:7000\"]",
    ]);
    assert!(!ran.out.contains("secret") && ran.err.is_empty(), "{}{}", ran.out, ran.err);
    let again = file(&ran.out);
    run(&["config", "--config", &again]).await.check(0).says(&["lease = \"20s\"  # file\n"]);
}

#[tokio::test]
async fn help_is_offered() {
    run(&[]).await.check(2).complains(&["Usage: unanimo", "serve", "tx", "Exit codes:"]);
    run(&["--version"]).await.check(0).says(&["unanimo 0."]);
    run(&["serve", "-h"]).await.check(0).says(&[
        "--call-timeout <DURATION>",
        "[default: 10s]",
        "[default: loopback]",
        "UNANIMO_CALL_TIMEOUT]",
    ]);
    // The short help may wrap between the two words; the long one gives them a line of their own.
    run(&["serve", "--help"]).await.check(0).says(&["[env: UNANIMO_CALL_TIMEOUT]"]);
    let ran = run(&["--help"]).await;
    assert!(!ran.check(0).out.contains("reference"), "{}", ran.out);
}
