//! Participants that are known at the start.

use std::sync::Arc;
use std::time::Duration;

use unanimo_core::{ParticipantName, Timestamp};

use crate::config::Config;
use crate::participants::ParticipantService;
use crate::participants::databases::Database;
use crate::participants::directory::Directory;
use crate::store::Registration;

/// Adds the participants of the configuration, of this process and of earlier registrations. Of more names
/// than there may be, those that were silent for the longest time are left out.
pub(super) fn fill(
    directory: &Directory,
    config: &Config,
    locals: Vec<(ParticipantName, Arc<dyn ParticipantService>)>,
    mut registrations: Vec<Registration>,
    now: Timestamp,
) {
    for (name, urls) in &config.participants {
        urls.iter().for_each(|url| directory.add_configured(name, url));
    }
    let pardoned = outage(&registrations, now, directory.pardon_max());
    registrations.sort_by_key(|registration| std::cmp::Reverse(registration.last_seen));
    for Registration { name, endpoint, instance, last_seen, database_id, database_place } in
        registrations
    {
        if !directory.has_place_for(&name) {
            directory.add_unplaced(name);
            continue;
        }
        directory.add_name(&name);
        if let Some(endpoint) = endpoint {
            let silent_for = last_seen.until(now);
            // The latest one comes first.
            if silent_for.saturating_sub(pardoned) <= directory.gone_after() {
                let database = Database { id: database_id, place: database_place };
                directory.databases().was_seen(&name, &endpoint, &instance, &database);
            }
            directory.add_stored(&name, &endpoint, instance, silent_for, pardoned);
        }
    }
    for (name, service) in locals {
        directory.add_local(name, service);
    }
    directory.warn_of_unplaced();
}

/// Time in which no coordinator ran: nobody has registered since. What was alive at its beginning counts as
/// alive until it had the time to register again; what was gone is gone. After a long outage nothing does.
fn outage(registrations: &[Registration], now: Timestamp, max: Duration) -> Duration {
    let last = registrations.iter().map(|registration| registration.last_seen).max();
    let outage = last.map(|last| last.until(now)).unwrap_or_default();
    if outage <= max { outage } else { Duration::ZERO }
}
