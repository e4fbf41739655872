//! Trip: a flight, a hotel and a car are reserved at the same time; the payment is the pivot.

mod airline;
mod bank;
mod cars;
mod hotel;
mod post;

use super::example::{Check, Example, Program, Stage, Step};

/// The trip.
pub static EXAMPLE: Example = Example {
    name: "trip",
    title: "a flight, a hotel and a car, or nothing",
    definition: include_str!("trip/saga.yaml"),
    programs: &[
        Program { name: "airline", tables: airline::TABLES, participant: airline::airline },
        Program { name: "hotel", tables: hotel::TABLES, participant: hotel::hotel },
        Program { name: "cars", tables: cars::TABLES, participant: cars::cars },
        Program { name: "bank", tables: bank::TABLES, participant: bank::bank },
        Program { name: "post", tables: post::TABLES, participant: post::post },
    ],
    steps: &[
        step("flight", "airline", "DELETE FROM seat", Stage::BeforePivot),
        step("hotel", "hotel", "DELETE FROM room", Stage::BeforePivot),
        step("car", "cars", "DELETE FROM car", Stage::BeforePivot),
        step("payment", "bank", "UPDATE account SET is_blocked = true", Stage::Pivot),
        step(
            "ticket",
            "airline",
            "UPDATE printer SET sheets = 0",
            Stage::AfterPivot("UPDATE printer SET sheets = 10"),
        ),
        step(
            "mail",
            "post",
            "INSERT INTO blocked VALUES ('traveller-1')",
            Stage::AfterPivot("DELETE FROM blocked"),
        ),
    ],
    children: &[],
    checks: &[
        Check::new("airline", "seats held", "SELECT count(*) FROM seat WHERE state = 'held'", 0),
        Check::new("airline", "seats sold", "SELECT count(*) FROM seat WHERE state = 'sold'", 1),
        Check::new("airline", "tickets", "SELECT count(*) FROM ticket", 1),
        Check::new("hotel", "bookings", "SELECT count(*) FROM booking WHERE state = 'booked'", 1),
        Check::new("hotel", "rooms taken", "SELECT count(*) FROM room WHERE NOT is_free", 1),
        Check::new("cars", "cars out", "SELECT count(*) FROM car WHERE traveller IS NOT NULL", 1),
        Check::new("bank", "payments", "SELECT count(*) FROM payment", 1),
        Check::new("bank", "cents taken", "SELECT 100000 - sum(cents) FROM account", 46_500),
        Check::new("post", "mails", "SELECT count(*) FROM outbox", 1),
    ],
    committed: "The trip is booked.",
    aborted: "The trip is not booked, and nothing is left of it.",
};

const fn step(
    id: &'static str,
    participant: &'static str,
    breaks: &'static str,
    stage: Stage,
) -> Step {
    Step { id, participant, breaks, stage }
}
