//! The rpcs of participants, by which they are found.

use std::collections::HashMap;

use tonic::{Request, Status};
use unanimo_core::{FeatureName, ParticipantName, Timestamp, Violation};
use unanimo_proto::v1;
use unanimo_proto::v1::participant_directory_service_server::ParticipantDirectoryService;

use super::access::Access;
use super::error::{
    from_endpoint, from_engine, from_store, invalid, other_database, too_many_endpoints,
    too_many_instances, too_many_participants,
};
use super::rpc::serve;
use super::{Api, page, parse, versions};
use crate::engine;
use crate::participants::allow;
use crate::participants::databases::Database;
use crate::participants::directory::{NamePlace, Place, Registered, Shown, Turn};
use crate::wire::time_to_wire;

/// Most bytes of the name of a life of a participant's process.
pub const INSTANCE_BYTES_MAX: usize = unanimo_core::ids::NAME_BYTES_MAX;

/// Most features that a participant may register with.
pub const FEATURES_MAX: usize = 32;

/// Most bytes of the name and version of a participant's SDK.
pub const SDK_BYTES_MAX: usize = 64;

impl Api {
    async fn keep_endpoint(
        &self,
        request: Request<v1::RegisterEndpointRequest>,
    ) -> Result<v1::RegisterEndpointResponse, Status> {
        let access = Access::of(&request);
        let v1::RegisterEndpointRequest {
            participant,
            endpoint,
            instance_id,
            features,
            sdk,
            database_id,
            database_place,
            ..
        } = request.into_inner();
        let name = parse::participant(&participant, access.names())?;
        self.check_speaks_for(&access, &name)?;
        allow::check_endpoint(&endpoint, &self.options.endpoint_allow).map_err(from_endpoint)?;
        self.options.plaintext.check(&endpoint).map_err(from_endpoint)?;
        let instance = parse::instance(&instance_id)?;
        let registered =
            Registered { instance, features: checked_features(features)?, sdk: checked_sdk(sdk)? };
        parse::text("database_id", &database_id, INSTANCE_BYTES_MAX, true)?;
        parse::text("database_place", &database_place, INSTANCE_BYTES_MAX, true)?;
        let database = Database { id: database_id, place: database_place };
        let this = self.clone();
        to_its_end(async move { this.keep(&name, &endpoint, registered, &database).await }).await?;
        let interval = prost_types::Duration::try_from(self.directory.keep_alive_interval());
        Ok(v1::RegisterEndpointResponse {
            keep_alive_interval: interval.ok(),
            cluster_id: self.engine.cluster_id().to_owned(),
        })
    }

    async fn remove_endpoint(
        &self,
        request: Request<v1::DeregisterEndpointRequest>,
    ) -> Result<v1::DeregisterEndpointResponse, Status> {
        let access = Access::of(&request);
        let v1::DeregisterEndpointRequest { participant, endpoint, instance_id, .. } =
            request.into_inner();
        let name = parse::known_participant(&participant, access.names())?;
        self.check_speaks_for(&access, &name)?;
        allow::parse_endpoint(&endpoint).map_err(invalid)?;
        let instance = parse::instance(&instance_id)?;
        let this = self.clone();
        to_its_end(async move {
            let _turn = this.directory.turn(&name).await;
            match this.remove(&name, &endpoint, &instance).await? {
                true => tracing::info!(participant = %name, endpoint, "a participant has left"),
                false => tracing::debug!(
                    participant = %name, endpoint, instance,
                    "an instance has left, and others stay at its endpoint"
                ),
            }
            Ok(())
        })
        .await?;
        Ok(v1::DeregisterEndpointResponse {})
    }

    async fn keep(
        &self,
        name: &ParticipantName,
        endpoint: &str,
        registered: Registered,
        database: &Database,
    ) -> Result<(), Status> {
        let turn = self.directory.turn(name).await;
        let databases = self.directory.databases();
        let now = self.env.now();
        let instance = registered.instance.as_str();
        let is_new = databases.registers(name, endpoint, instance, database);
        let is_new = is_new.map_err(|other| other_database(&other))?;
        self.make_place(&turn, name, endpoint, &registered).await?;
        let endpoints = self.store.endpoints();
        let kept = endpoints.register(self.me, name, endpoint, instance, now);
        kept.await.map_err(from_store)?;
        if is_new {
            let database = (database.id.as_str(), database.place.as_str());
            let kept = endpoints.keep_database(self.me, name, endpoint, instance, database);
            kept.await.map_err(from_store)?;
        }
        // What was refused, or is not stored, has changed nothing: it is checked when it comes again.
        databases.registered(name, endpoint, instance, database);
        self.directory.seen(name, endpoint, registered);
        Ok(())
    }

    /// Lets go of what is gone, where there are as many names, endpoints or instances as may be.
    async fn make_place(
        &self,
        turn: &Turn<'_>,
        name: &ParticipantName,
        endpoint: &str,
        registered: &Registered,
    ) -> Result<(), Status> {
        // Before anybody leaves for one that finds no room all the same.
        if !self.directory.has_place_for_instance(name, endpoint, registered) {
            return Err(too_many_instances());
        }
        match self.directory.place_for_name(name) {
            NamePlace::Free => {}
            // Something may be owed to it, as long as not everything is adopted.
            NamePlace::Instead(_) if !self.engine.has_adopted() => {
                return Err(too_many_participants(self.directory.names_bound(name)));
            }
            NamePlace::Instead(gone) => {
                let turn = self.directory.turn_beside(turn, &gone);
                // It may be about to register.
                let still_gone =
                    self.directory.place_for_name(name) == NamePlace::Instead(gone.clone());
                if turn.is_none() || !still_gone {
                    return Err(too_many_participants(self.directory.names_bound(name)));
                }
                self.store.endpoints().forget(self.me, &gone).await.map_err(from_store)?;
                self.directory.forget(&gone);
                tracing::info!(participant = %gone, "a participant that is long gone was forgotten");
            }
            NamePlace::Taken => {
                return Err(too_many_participants(self.directory.names_bound(name)));
            }
        }
        match self.directory.place_for(name, endpoint) {
            Place::Free => {}
            Place::Instead { url, instances } => {
                for instance in instances {
                    self.remove(name, &url, &instance).await?;
                }
                tracing::info!(
                    participant = %name, endpoint = url,
                    "an endpoint that was gone has made place for another one"
                );
            }
            Place::Taken => return Err(too_many_endpoints(name)),
        }
        if let Some(surplus) = self.directory.surplus(name, endpoint, &registered.instance) {
            self.remove(name, endpoint, &surplus).await?;
        }
        Ok(())
    }

    /// Takes an instance away in the caller's turn, and tells whether it was the last of its endpoint.
    async fn remove(
        &self,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
    ) -> Result<bool, Status> {
        let leaving = self.store.endpoints().deregister(self.me, name, endpoint, instance);
        let was_last = leaving.await.map_err(from_store)?;
        self.directory.leave(name, endpoint, instance);
        Ok(was_last)
    }

    #[expect(clippy::unused_async, reason = "served as every rpc is")]
    async fn participants(
        &self,
        request: Request<v1::ListParticipantsRequest>,
    ) -> Result<v1::ListParticipantsResponse, Status> {
        let access = Access::of(&request);
        let v1::ListParticipantsRequest { page_size, page_token, .. } = request.into_inner();
        let limit = page::size(page_size) as usize;
        let after = match page_token.as_str() {
            "" => None,
            token => {
                let after = access.names().known_participant(token);
                Some(after.map_err(|_| parse::bad_page_token())?)
            }
        };
        let now = self.env.now();
        let parked: HashMap<_, _> = self.directory.parked().into_iter().collect();
        let names = self.directory.names().into_iter();
        let names = names.filter(|name| access.reaches(name.namespace().as_ref()));
        let mut rest = names.filter(|name| after.as_ref().is_none_or(|after| name > after));
        // One after the other, up to what fits: all of them together may be large.
        let shown = rest.by_ref().take(limit).map(|name| {
            let shown = self.directory.shown(&name).into_iter();
            let endpoints = shown.map(|shown| endpoint(shown, now)).collect();
            let transactions_parked =
                parked.get(&name).map_or(0, |n| u32::try_from(*n).unwrap_or(u32::MAX));
            let health = Some(self.health(&name, now));
            let owed = self.directory.going(&name).owed;
            let versions = versions::told(&name, &self.directory.versions(&name), owed, now);
            let name = name.to_string();
            v1::Participant { name, endpoints, transactions_parked, health, versions }
        });
        let (participants, whole) = page::fitting(shown, page::PAGE_BYTES_MAX);
        let last = participants.last().filter(|_| !whole || rest.next().is_some());
        let next_page_token = last.map(|last| last.name.clone()).unwrap_or_default();
        Ok(v1::ListParticipantsResponse { participants, next_page_token })
    }
}

/// Does it in a task that goes on when the caller goes away.
async fn to_its_end(
    work: impl Future<Output = Result<(), Status>> + Send + 'static,
) -> Result<(), Status> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(from_engine(engine::Error::Stopped)))
}

fn endpoint(shown: Shown, now: Timestamp) -> v1::ParticipantEndpoint {
    let silent_ms = u64::try_from(shown.silent_for.as_millis()).unwrap_or(u64::MAX);
    let seen = Timestamp(now.0.saturating_sub(silent_ms));
    let Registered { instance, features, sdk, .. } = shown.registered;
    v1::ParticipantEndpoint {
        endpoint: shown.url,
        configured: shown.configured,
        last_seen_at: (!shown.configured).then(|| time_to_wire(seen)),
        alive: shown.alive,
        instance_id: instance,
        features,
        sdk,
    }
}

fn checked_features(features: Vec<String>) -> Result<Vec<String>, Status> {
    if features.len() > FEATURES_MAX {
        let rule = format!("would be one more than {FEATURES_MAX} features");
        return Err(invalid(Violation::new(format!("features[{FEATURES_MAX}]"), rule)));
    }
    for (index, name) in features.iter().enumerate() {
        FeatureName::new(name).map_err(|rule| {
            invalid(Violation::new(format!("features[{index}]"), rule.to_string()))
        })?;
    }
    Ok(features)
}

fn checked_sdk(sdk: String) -> Result<String, Status> {
    parse::text("sdk", &sdk, SDK_BYTES_MAX, true)?;
    if sdk.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        Ok(sdk)
    } else {
        Err(invalid(Violation::new("sdk", "must be printable ASCII")))
    }
}

serve! {
    ParticipantDirectoryService {}

    register_endpoint:
        RegisterEndpoint(v1::RegisterEndpointRequest) -> v1::RegisterEndpointResponse
            = keep_endpoint;
    deregister_endpoint:
        DeregisterEndpoint(v1::DeregisterEndpointRequest) -> v1::DeregisterEndpointResponse
            = remove_endpoint;
    list_participants:
        ListParticipants(v1::ListParticipantsRequest) -> v1::ListParticipantsResponse
            = participants;
}
