//! Requests of those who are not known: nobody reads them.

use std::time::Duration;

use tonic::transport::Channel;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;

use super::roles::File;
use crate::coordinator::tcc;
use crate::coordinator::uploads::{begin_submit_on, part_of_8_mib};

/// Bytes that have come of a request of 8 MiB when it is answered.
const COME: usize = 200;

/// Time in which the answer comes: a message that does not come on is waited for for longer.
const AT_ONCE: Duration = Duration::from_secs(9);

async fn status(channel: &Channel, authorization: Option<&str>) -> Option<String> {
    let submitting = begin_submit_on(channel.clone(), part_of_8_mib(COME), authorization);
    tokio::time::timeout(AT_ONCE, submitting).await.ok()?.unwrap()
}

/// The answer does not wait for the message, so that its bytes are neither received nor counted.
#[tokio::test]
async fn who_is_not_known_is_refused_before_the_message_is_read() {
    let file = File::new();
    let world = file.world().await;
    const UNAUTHENTICATED: &str = "16";
    const PERMISSION_DENIED: &str = "7";
    let header = |column: usize| format!("Bearer {}", file.token(column));
    let (viewer, initiator) = (header(5), header(0));
    for (authorization, expected) in [
        (None, Some(UNAUTHENTICATED)),
        (Some("Bearer x"), Some(UNAUTHENTICATED)),
        (Some(viewer.as_str()), Some(PERMISSION_DENIED)),
        // Its message is waited for.
        (Some(initiator.as_str()), None),
    ] {
        let found = status(&world.channel, authorization).await;
        assert_eq!(found.as_deref(), expected, "{authorization:?}");
    }
    let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
    client
        .submit_transaction(tcc("g", &["ok"]))
        .await
        .expect("others are served on the same connection");
}
