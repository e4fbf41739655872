//! PostgreSQL for the tests: they start their own servers, and need its programs only.

use std::process::Command;

use anyhow::{Result, bail};

use crate::installed;
use crate::step::{has, run};

/// A package manager, and what it is told.
pub(crate) struct Manager {
    pub(crate) program: &'static str,
    pub(crate) update: &'static [&'static str],
    pub(crate) install: &'static [&'static str],
}

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        update: &["update", "--quiet"],
        install: &["install", "--yes", "--quiet", "--no-install-recommends", "postgresql"],
    },
    Manager { program: "dnf", update: &[], install: &["install", "-y", "postgresql-server"] },
    Manager { program: "zypper", update: &[], install: &["-n", "install", "postgresql-server"] },
    Manager {
        program: "pacman",
        update: &[],
        install: &["-Sy", "--noconfirm", "--needed", "postgresql"],
    },
    Manager { program: "apk", update: &[], install: &["add", "postgresql"] },
    Manager { program: "brew", update: &[], install: &["install", "postgresql@17"] },
];

/// Debian's package makes and starts a server of its own, unless it is told not to.
const NO_SERVER: &str = "mkdir -p /etc/postgresql-common; cd /etc/postgresql-common; \
                         [ -e createcluster.conf ] || \
                         echo 'create_main_cluster = false' > createcluster.conf";

/// Installs it if it is not there.
pub(crate) fn ensure() -> Result<()> {
    if is_installed() {
        return Ok(());
    }
    let Some(manager) = MANAGERS.iter().find(|manager| has(manager.program)) else {
        bail!("the tests need PostgreSQL's server programs: install PostgreSQL 13 or later");
    };
    let line = format!("{} {}", manager.program, manager.install.join(" "));
    let Some(prefix) = privilege(manager) else {
        bail!("the tests need PostgreSQL's server programs; run as root: {line}");
    };
    eprintln!("==> installing PostgreSQL: {line}");
    if manager.program == "apt-get" {
        privileged(prefix, "sh", &["-c", NO_SERVER])?;
    }
    for arguments in [manager.update, manager.install] {
        if !arguments.is_empty() {
            privileged(prefix, manager.program, arguments)?;
        }
    }
    if !is_installed() {
        bail!("{line} went well, and yet there are no programs initdb and postgres");
    }
    Ok(())
}

pub(crate) fn privileged(prefix: &[&str], program: &str, arguments: &[&str]) -> Result<()> {
    // `env` stands in front: sudo passes no variables on.
    let words = [prefix, &["env", "DEBIAN_FRONTEND=noninteractive", program], arguments].concat();
    run(Command::new(words[0]).args(&words[1..]))
}

fn is_installed() -> bool {
    ["initdb", "postgres"].iter().all(|name| installed::program(name).is_some())
}

/// What makes the manager work: nothing, or `sudo` if it does not ask. `None` if it may not.
pub(crate) fn privilege(manager: &Manager) -> Option<&'static [&'static str]> {
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
