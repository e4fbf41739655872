//! Description of the API: OpenAPI 3.1, from the descriptors, with the contract's comments.

pub mod participant;

use std::sync::LazyLock;

use prost_reflect::{FieldDescriptor, MethodDescriptor};
use serde_json::{Map, Value, json};

use super::descriptors;
use super::schema::{self, Comments};
use super::table::{ROUTES, Route};

/// Returns the description, as it is served.
#[must_use]
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let text = serde_json::to_string_pretty(&made());
        text.expect("keys are texts") + "\n"
    });
    &TEXT
}

fn made() -> Value {
    let comments = Comments::new();
    let (mut paths, mut used) = (Map::new(), schema::Used::default());
    for route in ROUTES {
        let operation = operation(route, &comments, &mut used);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method().as_str().to_lowercase()] = operation;
    }
    let mut schemas = used.schemas(&comments);
    schemas.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Unanimo",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The rpcs of the contract `unanimo.v1` over HTTP, with JSON by its own mapping. Roles, limits and errors are those of gRPC. A field may be spelled as here or as in the contract (`branchId`, `branch_id`).",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:7611" }],
        "security": [{}, { "bearer": [] }, { "mutualTLS": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": { "Problem": {
                "description": "An error, with its reason.",
                "content": { "application/problem+json": { "schema": schema::reference("Problem") } },
            } },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "A token of an identity." },
                "mutualTLS": { "type": "mutualTLS", "description": "A certificate of an identity." },
            },
        },
    })
}

fn operation(route: &Route, comments: &Comments, used: &mut schema::Used) -> Value {
    let method = descriptors::method(route.rpc);
    let of_path: Vec<_> = route.fields().collect();
    let by = of_path.first().filter(|_| ROUTES.iter().filter(|r| r.rpc == route.rpc).count() > 1);
    let id = by.map_or_else(
        || method.name().to_owned(),
        |by| format!("{}By{}", method.name(), if *by == "gid" { "Gid" } else { "TxId" }),
    );
    let text = comments.of_method(&method);
    let mut operation = json!({
        "operationId": id,
        "tags": [method.parent_service().name()],
        "summary": schema::first_sentence(&text),
        "description": text,
        "responses": { "200": answer(&method, used), "default": { "$ref": "#/components/responses/Problem" } },
    });
    let input = method.input();
    let rest: Vec<FieldDescriptor> = input.fields().filter(|f| !is_in_path(f, &of_path)).collect();
    let in_path = of_path.iter().filter_map(|name| input.get_field_by_name(name));
    let mut parameters: Vec<_> =
        in_path.map(|field| parameter(&field, "path", field.name(), comments, used)).collect();
    if route.by_query {
        let of_query = rest.iter().map(|f| parameter(f, "query", f.json_name(), comments, used));
        parameters.extend(of_query);
    } else {
        let body = schema::object(&rest, comments, used);
        let required = !rest.is_empty() && of_path.is_empty();
        operation["requestBody"] = json!({
            "required": required,
            "content": { "application/json": { "schema": body } },
        });
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation
}

/// Tells whether a field is in the path, or another one of its `oneof` is.
fn is_in_path(field: &FieldDescriptor, of_path: &[&str]) -> bool {
    let rivals = field
        .containing_oneof()
        .into_iter()
        .flat_map(|oneof| oneof.fields().map(|field| field.name().to_owned()).collect::<Vec<_>>());
    let mut names = rivals.chain([field.name().to_owned()]);
    names.any(|name| of_path.contains(&name.as_str()))
}

fn parameter(
    field: &FieldDescriptor,
    place: &str,
    name: &str,
    comments: &Comments,
    used: &mut schema::Used,
) -> Value {
    let mut parameter = json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": comments.of_field(field),
        "schema": used.of_field(field),
    });
    if field.is_map() {
        // `metadata[KEY]=VALUE`.
        (parameter["style"], parameter["explode"]) = ("deepObject".into(), true.into());
    }
    parameter
}

fn answer(method: &MethodDescriptor, used: &mut schema::Used) -> Value {
    let schema = used.of_message(&method.output());
    match method.is_server_streaming() {
        false => json!({
            "description": "The answer.",
            "content": { "application/json": { "schema": schema } },
        }),
        true => json!({
            "description": "Server-sent events: `state` with the message below and the revision as its id, at last `end`, or `error` with a problem. A reader that comes again with `Last-Event-ID` goes on after it.",
            "content": { "text/event-stream": { "schema": { "type": "string" }, "x-message": schema } },
        }),
    }
}

/// Returns the schema of errors.
fn problem() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "Problem details (RFC 9457). docs/reference/errors.md has the reasons.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": text("Address of the reason's description; about:blank if there is no reason."),
            "title": text("The meaning of the reason."),
            "status": { "type": "integer", "description": "Status of HTTP." },
            "detail": text("This error, in words."),
            "code": text("Code of gRPC, such as NOT_FOUND."),
            "reason": text("Stable reason, such as GID_UNKNOWN."),
            "retryable": { "type": "boolean", "description": "The same request may succeed when it is sent again as it is." },
            "effect": text("none if this call changed nothing, otherwise unknown."),
            "metadata": { "type": "object", "additionalProperties": { "type": "string" } },
            "violations": { "type": "array", "items": {
                "type": "object",
                "properties": { "field": text("Path of the field."), "rule": text("The rule that it breaks.") },
            } },
            "retryAfterMs": { "type": "integer", "description": "Milliseconds after which to come back." },
        },
    })
}
