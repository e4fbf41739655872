//! Pipeline: ten steps in a chain, each made of what the steps before it have made; one is kept.

mod station;

use super::example::{Check, Example, Program, Stage, Step};

/// The pipeline.
pub static EXAMPLE: Example = Example {
    name: "pipeline",
    title: "an environment for a customer, in ten steps",
    definition: include_str!("pipeline/saga.yaml"),
    programs: &[
        Program { name: "directory", tables: station::TABLES, participant: station::directory },
        Program { name: "cloud", tables: station::TABLES, participant: station::cloud },
        Program { name: "web", tables: station::TABLES, participant: station::web },
    ],
    steps: &[
        step("tenant", "directory", "INSERT INTO closed VALUES ('tenant')"),
        step("quota", "directory", "INSERT INTO closed VALUES ('quota')"),
        step("network", "cloud", "INSERT INTO closed VALUES ('network')"),
        step("audit", "directory", "INSERT INTO closed VALUES ('audit')"),
        step("machine", "cloud", "INSERT INTO closed VALUES ('machine')"),
        step("disk", "cloud", "INSERT INTO closed VALUES ('disk')"),
        step("database", "cloud", "INSERT INTO closed VALUES ('database')"),
        step("name", "web", "INSERT INTO closed VALUES ('name')"),
        step("certificate", "web", "INSERT INTO closed VALUES ('certificate')"),
        step("monitor", "web", "INSERT INTO closed VALUES ('monitor')"),
    ],
    children: &[],
    checks: &[
        Check::new("directory", "things", "SELECT count(*) FROM thing", 2),
        Check {
            aborted: (0, 1),
            ..Check::new("directory", "audit entries", "SELECT count(*) FROM audit", 1)
        },
        Check::new("cloud", "things", "SELECT count(*) FROM thing", 4),
        Check::new("web", "things", "SELECT count(*) FROM thing", 3),
    ],
    committed: "The environment is made.",
    aborted: "The environment is taken down. An entry in the audit log is kept.",
};

const fn step(id: &'static str, participant: &'static str, breaks: &'static str) -> Step {
    Step { id, participant, breaks, stage: Stage::BeforePivot }
}
