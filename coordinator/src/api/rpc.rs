//! Every rpc, and the roles that may call it.
//!
//! The contract states them beside each rpc, and docs/security.md has them as a table. This is the one place in
//! which roles are enforced.

use crate::identity::Role;

macro_rules! rpcs {
    ($($service:ident { $($rpc:ident: $($role:ident)|+;)* })*) => {
        /// An rpc that the coordinator serves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Rpc { $($($rpc,)*)* }

        impl Rpc {
            /// Every rpc, with its service.
            #[cfg(test)]
            pub(super) const ALL: &[(&str, Self)] = &[$($((stringify!($service), Self::$rpc),)*)*];

            /// Returns the one that is called by this path.
            pub(super) fn of_path(path: &str) -> Option<Self> {
                match path.strip_prefix(concat!("/", "unanimo.v1", "."))? {
                    $($(concat!(stringify!($service), "/", stringify!($rpc)) => Some(Self::$rpc),)*)*
                    _ => None,
                }
            }

            /// Returns its name, as the contract spells it.
            pub(super) fn name(self) -> &'static str {
                match self { $($(Self::$rpc => stringify!($rpc),)*)* }
            }

            /// Returns the roles that may call it.
            pub(super) fn roles(self) -> &'static [Role] {
                match self { $($(Self::$rpc => &[$(Role::$role),+],)*)* }
            }
        }
    };
}

rpcs! {
    CoordinatorService {
        SubmitTransaction: Initiator;
        BeginTransaction: Initiator;
        ExecuteBranch: Initiator;
        EnlistBranch: Initiator | Participant;
        CommitTransaction: Initiator;
        RollbackTransaction: Initiator | Operator;
        GetTransaction: Initiator | Participant | Operator | Viewer;
        ListTransactions: Initiator | Participant | Operator | Viewer;
        WatchTransaction: Initiator | Operator | Viewer;
        WatchTransactions: Initiator | Operator | Viewer;
        ExportTransaction: Initiator | Operator | Viewer;
        InquireBranches: Participant;
        GetServerInfo: Initiator | Participant | Operator | Viewer;
    }
    ParticipantDirectoryService {
        RegisterEndpoint: Participant;
        DeregisterEndpoint: Participant;
        ListParticipants: Operator | Viewer;
    }
    OperatorService {
        RetryTransaction: Operator;
        ResolveBranch: Operator;
        ForgetTransaction: Operator;
        ListAudit: Operator | Viewer;
        ListWebhooks: Operator | Viewer;
        ListDeadLetters: Operator | Viewer;
        RedeliverEvents: Operator;
        TestWebhook: Operator;
        GetStatistics: Operator | Viewer;
    }
}

/// Tells whether operators may make the call with this path, and not anybody: what is no service of the contract needs no
/// identity.
pub(super) fn is_for_operators(path: &str) -> bool {
    Rpc::of_path(path).is_some_and(|rpc| rpc.roles().contains(&Role::Operator))
}

/// Makes a service of the methods of [`Api`](super::Api): that the call was [admitted](super::admit) and the requirements
/// of each request are checked before anything else, and each call is counted under its rpc.
macro_rules! serve {
    (
        $service:ident { $($associated:tt)* }
        $($method:ident: $rpc:ident($request:ty) -> $response:ty = $work:ident;)*
    ) => {
        #[tonic::async_trait]
        impl $service for Api {
            $($associated)*

            $(async fn $method(
                &self,
                request: tonic::Request<$request>,
            ) -> Result<tonic::Response<$response>, tonic::Status> {
                let rpc = $crate::api::rpc::Rpc::$rpc;
                let counted = $crate::api::calls::begin(rpc, &request);
                let deadline = self.deadline(&request);
                let work = async {
                    $crate::api::access::Access::check(rpc, &request)?;
                    $crate::api::features::check(&request)?;
                    counted?;
                    let namespace = $crate::api::access::Access::of(&request).namespace().cloned();
                    let mut told = Self::$work(self, request).await?;
                    if let Some(namespace) = namespace {
                        $crate::api::namespace::Told::take_off(&mut told, &namespace);
                    }
                    Ok(told)
                };
                self.served(rpc, deadline, work).await.map(tonic::Response::new)
            })*
        }
    };
}
pub(super) use serve;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost_types::FileDescriptorSet;

    use super::*;

    /// Called by coordinators, and served by participants.
    const OF_PARTICIPANTS: &str = "ParticipantService";

    /// Returns what the contract says of the callers of each rpc.
    fn callers_of_the_contract() -> BTreeMap<String, String> {
        let set = unanimo_proto::COMMENTED_DESCRIPTOR_SET;
        let set: FileDescriptorSet = prost::Message::decode(set).expect("descriptors");
        let mut callers = BTreeMap::new();
        for file in &set.file {
            // Files of others have no comments here.
            let locations = file.source_code_info.iter().flat_map(|info| &info.location);
            for location in locations {
                // The path of a method is that of its service and its number in it.
                let &[6, service, 2, method] = &location.path[..] else { continue };
                let service = &file.service[usize::try_from(service).expect("a number")];
                if service.name() == OF_PARTICIPANTS {
                    continue;
                }
                let method = &service.method[usize::try_from(method).expect("a number")];
                let comment = location.leading_comments().replace('\n', " ");
                let (_, caller) = comment.rsplit_once("Caller: ").unwrap_or_else(|| {
                    panic!("{} names no caller", method.name());
                });
                callers.insert(method.name().to_owned(), caller.to_owned());
            }
        }
        callers
    }

    /// The roles that the contract names beside each rpc are those that are let in.
    #[test]
    fn the_contract_names_the_roles_that_may_call() {
        let callers = callers_of_the_contract();
        assert_eq!(callers.len(), Rpc::ALL.len());
        for (_, rpc) in Rpc::ALL {
            let caller = &callers[rpc.name()];
            let caller = match caller.trim().trim_end_matches('.').strip_prefix("as ") {
                Some(other) => &callers[other],
                None => caller,
            };
            let words: Vec<&str> = caller
                .split(|c: char| !c.is_alphabetic())
                .filter(|word| !word.is_empty())
                .collect();
            let named: Vec<Role> =
                Role::ALL.into_iter().filter(|role| words.contains(&role.name())).collect();
            let mut roles = rpc.roles().to_vec();
            roles.sort_by_key(|role| Role::ALL.iter().position(|of_all| of_all == role));
            assert_eq!(named, roles, "{}: {caller}", rpc.name());
        }
    }

    #[test]
    fn every_rpc_of_the_contract_has_its_roles() {
        let set = unanimo_proto::FILE_DESCRIPTOR_SET;
        let set: FileDescriptorSet = prost::Message::decode(set).expect("descriptors");
        let services = set.file.iter().flat_map(|file| &file.service);
        let contract: BTreeSet<_> = services
            .filter(|service| service.name() != OF_PARTICIPANTS)
            .flat_map(|service| service.method.iter().map(|rpc| (service.name(), rpc.name())))
            .collect();
        let table: BTreeSet<_> =
            Rpc::ALL.iter().map(|(service, rpc)| (*service, rpc.name())).collect();
        assert_eq!(table, contract);
        assert_eq!(Rpc::ALL.len(), table.len(), "each rpc is served once");
        assert!(Rpc::ALL.iter().all(|(_, rpc)| !rpc.roles().is_empty()));
        for (path, expected) in [
            ("/unanimo.v1.OperatorService/ForgetTransaction", true),
            ("/unanimo.v1.CoordinatorService/ListTransactions", true),
            ("/unanimo.v1.CoordinatorService/SubmitTransaction", false),
            ("/unanimo.v1.ParticipantDirectoryService/RegisterEndpoint", false),
            ("/unanimo.v1.CoordinatorService/Nothing", false),
            ("/grpc.health.v1.Health/Check", false),
        ] {
            assert_eq!(is_for_operators(path), expected, "{path}");
        }
        for (service, rpc) in Rpc::ALL {
            let path = format!("/unanimo.v1.{service}/{}", rpc.name());
            assert_eq!(Rpc::of_path(&path), Some(*rpc));
            assert_eq!(Rpc::of_path(&format!("{path}/")), None);
        }
        let by_operators: Vec<_> =
            Rpc::ALL.iter().filter(|(_, rpc)| rpc.roles() == [Role::Operator]).collect();
        assert!(by_operators.iter().all(|(service, _)| *service == "OperatorService"));
    }
}
