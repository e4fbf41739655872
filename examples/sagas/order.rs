//! Order: goods are reserved while two banks pay, and then a parcel is packed, which takes a while.

mod bank;
mod carrier;
mod shop;
mod warehouse;

use super::example::{Check, Example, Program, Stage, Step};

/// The order.
pub static EXAMPLE: Example = Example {
    name: "order",
    title: "goods, their payment by two banks, and a parcel",
    definition: include_str!("order/saga.yaml"),
    programs: &[
        Program { name: "shop", tables: shop::TABLES, participant: shop::shop },
        Program { name: "warehouse", tables: warehouse::TABLES, participant: warehouse::warehouse },
        Program { name: "customers-bank", tables: bank::TABLES, participant: bank::bank },
        Program { name: "shops-bank", tables: bank::TABLES, participant: bank::bank },
        Program { name: "carrier", tables: carrier::TABLES, participant: carrier::carrier },
    ],
    steps: &[
        step("order", "shop", "UPDATE shop SET is_open = false"),
        step("stock", "warehouse", "UPDATE stock SET free = 0"),
        step("debit", "customers-bank", "UPDATE account SET is_blocked = true"),
        step("credit", "shops-bank", "UPDATE account SET is_blocked = true"),
        step("shipment", "carrier", "UPDATE packer SET is_ill = true"),
    ],
    children: &[("payment", "debit")],
    checks: &[
        Check::new("shop", "open orders", "SELECT count(*) FROM orders WHERE state = 'open'", 1),
        Check::new("warehouse", "pieces reserved", "SELECT sum(reserved) FROM stock", 0),
        Check::new("warehouse", "pieces sold", "SELECT sum(sold) FROM stock", 2),
        Check::new("customers-bank", "cents paid", "SELECT 60000 - sum(cents) FROM account", 4_000),
        Check::new("customers-bank", "cents held", "SELECT sum(held) FROM account", 0),
        Check::new("shops-bank", "cents got", "SELECT sum(cents) - 60000 FROM account", 4_000),
        Check::new("shops-bank", "cents announced", "SELECT sum(incoming) FROM account", 0),
        Check::new("carrier", "parcels", "SELECT count(*) FROM parcel WHERE state = 'packed'", 1),
    ],
    committed: "The order is paid and packed.",
    aborted: "The order is cancelled, and nothing is left of it.",
};

const fn step(id: &'static str, participant: &'static str, breaks: &'static str) -> Step {
    Step { id, participant, breaks, stage: Stage::BeforePivot }
}
