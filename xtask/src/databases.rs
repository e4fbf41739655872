//! PostgreSQL and MariaDB for the tests: they start their own servers, and need the programs only.

use std::process::Command;

use anyhow::{Result, bail};

use crate::installed;
use crate::step::{has, run};

/// A database, and what makes its programs be there.
pub(crate) struct Database {
    name: &'static str,
    programs: &'static [&'static str],
    /// Its packages, in the order of [`MANAGERS`].
    packages: [&'static [&'static str]; MANAGERS.len()],
    /// What is to be done first where `apt-get` installs it.
    before_apt: Option<&'static str>,
}

pub(crate) const POSTGRES: Database = Database {
    name: "PostgreSQL 13 or later",
    programs: &["initdb", "postgres"],
    packages: [
        &["postgresql"],
        &["postgresql-server"],
        &["postgresql-server"],
        &["postgresql"],
        &["postgresql"],
        &["postgresql@17"],
    ],
    // Debian's package makes and starts a server of its own, unless it is told not to.
    before_apt: Some(
        "mkdir -p /etc/postgresql-common; cd /etc/postgresql-common; \
         [ -e createcluster.conf ] || echo 'create_main_cluster = false' > createcluster.conf",
    ),
};

pub(crate) const MARIADB: Database = Database {
    name: "MariaDB 10.6 or later",
    programs: &["mariadb-install-db", "my_print_defaults", "mariadbd"],
    // Debian's `mariadb-server` starts a server, and has it started at every boot. The `-core`
    // packages hold the programs and no service. The other managers start none by themselves.
    packages: [
        &["mariadb-server-core", "mariadb-client-core"],
        &["mariadb-server"],
        &["mariadb"],
        &["mariadb"],
        &["mariadb"],
        &["mariadb"],
    ],
    before_apt: None,
};

/// A package manager, and what it is told before the packages' names.
struct Manager {
    program: &'static str,
    update: &'static [&'static str],
    install: &'static [&'static str],
}

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        update: &["update", "--quiet"],
        install: &["install", "--yes", "--quiet", "--no-install-recommends"],
    },
    Manager { program: "dnf", update: &[], install: &["install", "-y"] },
    Manager { program: "zypper", update: &[], install: &["-n", "install"] },
    Manager { program: "pacman", update: &[], install: &["-Sy", "--noconfirm", "--needed"] },
    Manager { program: "apk", update: &[], install: &["add"] },
    Manager { program: "brew", update: &[], install: &["install"] },
];

/// Installs those that are not there.
pub(crate) fn ensure(databases: &[Database]) -> Result<()> {
    let missing: Vec<_> = databases.iter().filter(|database| !is_installed(database)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|database| database.name).collect::<Vec<_>>().join(" and ");
    let Some(number) = MANAGERS.iter().position(|manager| has(manager.program)) else {
        bail!("the tests need database servers' programs: install {names}");
    };
    let manager = &MANAGERS[number];
    let packages: Vec<_> = missing.iter().flat_map(|database| database.packages[number]).collect();
    let install = manager.install.iter().chain(packages).copied().collect::<Vec<_>>();
    let line = format!("{} {}", manager.program, install.join(" "));
    let Some(prefix) = privilege(manager) else {
        bail!("the tests need the programs of {names}; run as root: {line}");
    };
    eprintln!("==> installing {names}: {line}");
    for before in missing.iter().filter_map(|database| database.before_apt) {
        if manager.program == "apt-get" {
            privileged(prefix, "sh", &["-c", before])?;
        }
    }
    for arguments in [manager.update, &install] {
        if !arguments.is_empty() {
            privileged(prefix, manager.program, arguments)?;
        }
    }
    if let Some(database) = missing.iter().find(|database| !is_installed(database)) {
        bail!("{line} went well, and yet there are no programs {}", database.programs.join(", "));
    }
    Ok(())
}

fn privileged(prefix: &[&str], program: &str, arguments: &[&str]) -> Result<()> {
    // `env` stands in front: sudo passes no variables on.
    let words = [prefix, &["env", "DEBIAN_FRONTEND=noninteractive", program], arguments].concat();
    run(Command::new(words[0]).args(&words[1..]))
}

fn is_installed(database: &Database) -> bool {
    database.programs.iter().all(|name| installed::program(name).is_some())
}

/// What makes the manager work: nothing, or `sudo` if it does not ask. `None` if it may not.
fn privilege(manager: &Manager) -> Option<&'static [&'static str]> {
    let quiet = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.ok().filter(|output| output.status.success())
    };
    let is_root = quiet("id", &["-u"]).is_some_and(|output| output.stdout.trim_ascii() == b"0");
    if is_root || manager.program == "brew" {
        return Some(&[]);
    }
    quiet("sudo", &["-n", "true"]).map(|_| ["sudo", "-n"].as_slice())
}
