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
    ran.check(2).complains(&[&format!(
        "understand the configuration file {path}: line 1: leese is no setting; did you mean lease?"
    )]);
    assert_eq!(ran.err.matches("leese").count(), 1, "said once: {}", ran.err);
}

/// A file that a setting names is a part of the configuration.
#[tokio::test]
async fn a_bad_file_that_a_setting_names_ends_with_2() {
    let url = super::sqlite(&super::new_path(".db"));
    let boss = file("[[identity]]\nname = \"a\"\nroles = [\"boss\"]\nsubjects = [\"s\"]\n");
    let rule = "line 3: roles: each must be initiator, participant, operator or viewer";
    for (setting, path, says) in [
        ("--identities", &boss, rule),
        ("--webhooks", &file("[[webhook]]\nname = 1\n"), "line 2: name: must be a text"),
        ("--webhooks", &"nowhere.toml".to_owned(), "read the webhooks nowhere.toml: No such file"),
    ] {
        let ran = super::serve(&url, &[setting, path]).end().await;
        ran.check(2).complains(&["failed to start: ", says]);
        assert_eq!(ran.out, "");
    }
    let certificate = file("no certificate");
    let tls = ["--tls-cert", &certificate, "--tls-key", &certificate];
    super::serve(&url, &tls).end().await.check(2).complains(&["failed to start: use the "]);
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
    let told = run(&["config", "--config", &path, "--node", "two", "--json"]).await;
    assert!(!told.out.contains("secret"), "{}", told.out);
    let told = told.check(0).json();
    for (key, value, source) in [
        ("database-url", "\"postgres://ann:***@db/x\"", "file"),
        ("node", "\"two\"", "flag"),
        ("listen", "\"127.0.0.1:7610\"", "default"),
        ("participants.bank", "[\"http://10.0.0.1:7000\"]", "file"),
    ] {
        let setting = serde_json::json!({ "key": key, "value": value, "source": source });
        assert!(told["settings"].as_array().unwrap().contains(&setting), "{setting}: {told}");
    }
}

/// Nobody pays twice because a variable is misspelt: without its database nothing starts.
#[tokio::test]
async fn an_unknown_variable_stops_every_command_that_reads_any() {
    let definition = file("{}");
    for args in [
        vec!["serve"],
        vec!["serve", "--database-url", "sqlite:x.db"],
        vec!["config"],
        vec!["tx", "list"],
        vec!["tx", "submit", &definition],
    ] {
        let mut command = command(&args);
        command.env("UNANIMO_DATABASEURL", "postgres://x").env("UNANIMO_ENDPIONT", "http://x:1");
        let ran = Program::start(command).end().await;
        ran.check(2).complains(&[
            "UNANIMO_DATABASEURL is no variable that unanimo reads; did you mean UNANIMO_DATABASE_URL?",
            "UNANIMO_ENDPIONT is no variable that unanimo reads; did you mean UNANIMO_ENDPOINT?",
        ]);
        assert_eq!(ran.out, "", "{args:?}");
    }
    // Kubernetes makes these for a service with the name `unanimo`.
    let mut command = command(&["config"]);
    command.env("UNANIMO_SERVICE_HOST", "10.0.0.1").env("UNANIMO_PORT", "tcp://10.0.0.1:7610");
    command
        .env("UNANIMO_PORT_7610_TCP_ADDR", "10.0.0.1")
        .env("UNANIMO_DATABASE_URL", "sqlite:x.db");
    Program::start(command).end().await.check(0);
}

#[tokio::test]
async fn whoever_configures_anything_names_the_database() {
    let empty = file("");
    let run_with = async |args: &[&str], variable: Option<(&str, &str)>| {
        let mut command = command(args);
        command.envs(variable);
        Program::start(command).end().await
    };
    for (args, variable) in [
        (vec!["serve", "--lease", "20s"], None),
        (vec!["serve", "--listen=127.0.0.1:0"], None),
        (vec!["serve", "--participant", "p=http://127.0.0.1:1"], None),
        (vec!["serve"], Some(("UNANIMO_NODE", "two"))),
        (vec!["config", "--node", "two"], None),
    ] {
        let ran = run_with(&args, variable).await;
        ran.check(2).complains(&[
            "database-url must be set where anything else is: pass --database-url postgres://",
            "or set the variable UNANIMO_DATABASE_URL",
        ]);
    }
    let ran = run_with(&["serve", "--config", &empty], None).await;
    ran.check(2).complains(&[&format!(
        "add the line database-url = \"postgres://USER:PASSWORD@HOST/DATABASE\" to {empty}"
    )]);
    // A variable that is set to nothing, as some tools do, names no database either.
    let ran = run_with(&["serve"], Some(("UNANIMO_DATABASE_URL", ""))).await;
    ran.check(2);
    let defaults = run_with(&["config"], Some(("UNANIMO_ENDPOINT", "http://x:1"))).await;
    defaults.check(0).says(&["database-url = \"sqlite:unanimo-data/unanimo.db\"\n"]);
}

/// The first line of the log tells which database it is, and who has named it.
#[tokio::test]
async fn the_first_line_names_the_database_and_its_source() {
    let path = super::new_path(".db");
    let url = super::sqlite(&path);
    let ports = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let config = file(&format!("database-url = \"{url}\"\n"));
    let from_file = format!("source=\"file {config}\"");
    let cases: [(Vec<&str>, Option<&str>, &str); 3] = [
        (vec!["--database-url", &url], None, "source=\"flag\""),
        (vec![], Some(&url), "source=\"environment\""),
        (vec!["--config", &config], None, &from_file),
    ];
    for (more, variable, source) in cases {
        let mut all = ports.to_vec();
        all.extend(more);
        let mut command = command(&all);
        command.envs(variable.map(|url| ("UNANIMO_DATABASE_URL", url)));
        let mut program = Program::start(command);
        super::addresses(&mut program).await;
        program.process.signal(rustix::process::Signal::TERM);
        let ran = program.end().await;
        let first = ran.check(0).err.lines().next().unwrap();
        for part in [source, &format!("database={url}"), &format!("file={}", path.display())] {
            assert!(first.contains(part), "no {part} in {first}");
        }
    }
    // The newcomer's path is one command, and its log says where the state is.
    let folder = super::new_path("");
    std::fs::create_dir(&folder).unwrap();
    let mut command = command(&["config"]);
    command.current_dir(&folder);
    Program::start(command).end().await.check(0);
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
    // A command for those who write the pages is not among the others.
    let is_listed = ran.check(0).out.lines().any(|line| line.trim_start().starts_with("reference"));
    assert!(!is_listed, "{}", ran.out);
}
