//! Participants that are known at the start.

use std::sync::Arc;

use unanimo_core::ParticipantName;

use crate::config::Config;
use crate::participants::ParticipantService;
use crate::participants::directory::{Directory, Registered};
use crate::store::Registration;

/// Adds the participants of the configuration, of this process and of earlier registrations.
pub(super) fn fill(
    directory: &Directory,
    config: &Config,
    locals: Vec<(ParticipantName, Arc<dyn ParticipantService>)>,
    registrations: Vec<Registration>,
) {
    for Registration { name, endpoint, instance, .. } in registrations {
        directory.add_name(&name);
        if let Some(endpoint) = endpoint {
            // It counts as seen just now, because it could not register while no coordinator ran.
            directory.seen(&name, &endpoint, Registered { instance, ..Registered::default() });
        }
    }
    for (name, urls) in &config.participants {
        urls.iter().for_each(|url| directory.add_configured(name, url));
    }
    for (name, service) in locals {
        directory.add_local(name, service);
    }
}
