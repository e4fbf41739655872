//! Description of what a participant over HTTP serves: OpenAPI 3.1, from the descriptors, with the contract's comments.

use std::sync::LazyLock;

use prost_reflect::MethodDescriptor;
use serde_json::{Map, Value, json};
use unanimo_proto::over_http::TIMEOUT_HEADER;

use super::super::descriptors::POOL;
use super::super::schema::{self, Comments};

/// Service that participants implement.
const SERVICE: &str = "unanimo.v1.ParticipantService";

const ABOUT: &str = "The calls that a participant over HTTP answers, below the base of its endpoint \
    (`http+json://HOST:PORT/BASE`). They are those of `ParticipantService` of the contract `unanimo.v1`, with JSON by \
    its own mapping: a field that has its default is left out, bytes are in base64, numbers of 64 bits are texts. A \
    receiver passes over fields that it does not know; an enum's value that it does not know may come as a number. \
    The status 200 with `application/json` and a body that can be read is an answer; everything else is none, and the \
    call comes again. docs/participant-guide.md has the rules that no schema tells.";

/// Returns the description.
#[must_use]
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let text = serde_json::to_string_pretty(&made());
        text.expect("keys are texts") + "\n"
    });
    &TEXT
}

fn made() -> Value {
    let (comments, mut used) = (Comments::new(), schema::Used::default());
    let service = POOL.get_service_by_name(SERVICE).expect("a service of the contract");
    let paths = service.methods().map(|method| {
        let name = method.name().to_lowercase();
        let path = json!({ "post": operation(&name, &method, &comments, &mut used) });
        (format!("/{name}"), path)
    });
    let paths: Map<_, _> = paths.collect();
    let mut schemas = used.schemas(&comments);
    // Both sides pass over what a later version adds.
    for schema in schemas.values_mut().filter_map(Value::as_object_mut) {
        schema.remove("additionalProperties");
    }
    schemas.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "A participant of Unanimo",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:7702/tx", "description": "Base of the endpoint." }],
        "security": [{}, { "bearer": [] }, { "mutualTLS": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": { "Timeout": header(
                TIMEOUT_HEADER,
                "Milliseconds for which the coordinator waits for this answer; the work may go on past it.",
                &json!({ "type": "integer", "minimum": 1 }),
            ), "Traceparent": header(
                "traceparent",
                "The transaction's trace (W3C Trace Context).",
                &json!({ "type": "string" }),
            ), "Tracestate": header("tracestate", "Of the same.", &json!({ "type": "string" })) },
            "responses": { "Problem": {
                "description": "No answer: nothing is known, and the call comes again.",
                "content": { "application/problem+json": { "schema": schema::reference("Problem") } },
            } },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "The coordinator's token." },
                "mutualTLS": { "type": "mutualTLS", "description": "The coordinator's certificate." },
            },
        },
    })
}

fn header(name: &str, description: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema })
}

fn operation(
    name: &str,
    method: &MethodDescriptor,
    comments: &Comments,
    used: &mut schema::Used,
) -> Value {
    let text = comments.of_method(method);
    let parameters = ["Timeout", "Traceparent", "Tracestate"]
        .map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
    json!({
        "operationId": name,
        "summary": schema::first_sentence(&text),
        "description": text,
        "parameters": parameters,
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": used.of_message(&method.input()) } },
        },
        "responses": {
            "200": {
                "description": "The answer.",
                "content": { "application/json": { "schema": used.of_message(&method.output()) } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    })
}

/// Returns the schema of a response that is no answer, as far as it counts.
fn problem() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "Problem details (RFC 9457). None of them is needed: the status tells enough.",
        "properties": {
            "title": text("Told to operators where there is no detail."),
            "detail": text("Told to operators."),
            "code": text("Code of gRPC, such as UNIMPLEMENTED, that counts instead of the status."),
        },
    })
}
