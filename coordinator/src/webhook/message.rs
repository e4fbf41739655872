//! Messages to receivers: CloudEvents 1.0 in JSON, signed by the scheme of Standard Webhooks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::Serialize;
use serde_json::value::RawValue;
use unanimo_core::Timestamp;

use crate::feed::Event;
use crate::store::FeedRow;

/// Media type of a message.
pub(super) const MEDIA_TYPE: &str = "application/cloudevents+json";

/// Type of a test event.
const TEST_TYPE: &str = "org.unanimo.webhook.test";

/// A CloudEvent in structured mode.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

/// Returns the source of a coordinator group's events.
pub(super) fn source(cluster_id: &str) -> String {
    format!("urn:unanimo:{cluster_id}")
}

/// Makes the message of an event, whose JSON is given; nothing if that is none.
pub(super) fn of(source: &str, row: &FeedRow, event: &Event, data: &[u8]) -> Option<Vec<u8>> {
    let data: Box<RawValue> = serde_json::from_slice(data).ok()?;
    let id = row.revision.to_string();
    let kind = format!("org.unanimo.transaction.{}", event.kind.name());
    written(source, (&id, &kind, &event.gid), Timestamp(event.at_ms), &data)
}

/// Makes a test event.
pub(super) fn test_event(source: &str, id: &str, now: Timestamp) -> Vec<u8> {
    let data = RawValue::NULL;
    written(source, (&format!("test-{id}"), TEST_TYPE, ""), now, data).unwrap_or_default()
}

fn written(
    source: &str,
    (id, kind, subject): (&str, &str, &str),
    at: Timestamp,
    data: &RawValue,
) -> Option<Vec<u8>> {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(ms).ok()?.to_string();
    let (specversion, datacontenttype) = ("1.0", "application/json");
    let event = CloudEvent { specversion, id, source, kind, subject, time, datacontenttype, data };
    serde_json::to_vec(&event).ok()
}

/// Makes the signatures of a message, one for each key.
pub(super) fn signatures(keys: &[hmac::Key], id: &str, seconds: u64, body: &[u8]) -> String {
    let signed = keys.iter().map(|key| {
        let mut context = hmac::Context::with_key(key);
        context.update(format!("{id}.{seconds}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    });
    signed.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use unanimo_core::TxId;
    use uuid::Uuid;

    use super::*;

    /// The example of the specification of Standard Webhooks.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("Base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signatures(std::slice::from_ref(&key), id, 1_614_265_330, body), one);
        let two = signatures(&[key.clone(), key], id, 1_614_265_330, body);
        assert_eq!(two, format!("{one} {one}"));
    }

    #[test]
    fn a_message_is_a_cloud_event() {
        let row = FeedRow { revision: 4711, tx_id: TxId(Uuid::nil()), body: Vec::new() };
        let mut event =
            Event { gid: "order \"7\"".into(), at_ms: 1_700_000_000_123, ..Event::default() };
        let data = br#"{"revision":"4711"}"#.to_vec();
        let text = of("urn:unanimo:x", &row, &event, &data).expect("a message");
        assert_eq!(
            String::from_utf8(text).expect("UTF-8"),
            "{\"specversion\":\"1.0\",\"id\":\"4711\",\"source\":\"urn:unanimo:x\",\
             \"type\":\"org.unanimo.transaction.committed\",\"subject\":\"order \\\"7\\\"\",\
             \"time\":\"2023-11-14T22:13:20.123Z\",\"datacontenttype\":\"application/json\",\
             \"data\":{\"revision\":\"4711\"}}"
        );
        event.gid.clear();
        let text = of("urn:unanimo:x", &row, &event, &data).expect("a message");
        assert!(
            !String::from_utf8(text).expect("UTF-8").contains("subject"),
            "it may not be empty"
        );
    }
}
