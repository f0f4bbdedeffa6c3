//! What bodies consist of.

use actors::name::NAME_LENGTH_MAX;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, Object, ObjectBuilder, SchemaFormat, SchemaType, Type,
};

/// Bytes of which nothing is said. Generators of clients want a schema.
pub(super) fn bytes() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .build()
}

/// Whatever JSON may be.
pub(super) fn anything() -> Object {
    Object::with_type(SchemaType::AnyValue)
}

/// What `/create` takes, all of which may be left out.
pub(super) fn order_by_hand() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("code", of(Type::String))
        .property("leaf", of(Type::Boolean))
        .property("parent", of(Type::String))
        .property("pkgs", array_of(Type::String))
}

/// What `/zygotes/fit` takes.
pub(super) fn calls_to_fit() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object).property("calls", map_of(Type::Number))
}

pub(super) fn of(kind: Type) -> Object {
    Object::with_type(kind)
}

/// What `actors::name` takes for one.
pub(super) const NAME_PATTERN: &str = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$";

pub(super) fn function_names() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(NAME_PATTERN))
        .max_length(Some(NAME_LENGTH_MAX))
}

fn or_null(kind: Type) -> SchemaType {
    SchemaType::from_iter([kind, Type::Null])
}

pub(super) fn array_of(kind: Type) -> ArrayBuilder {
    ArrayBuilder::new().items(of(kind))
}

pub(super) fn map_of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(of(kind).into()))))
}

pub(super) fn lambdas() -> ObjectBuilder {
    let mut lambda = ObjectBuilder::new().schema_type(Type::Object);
    for name in ["name", "state"] {
        lambda = lambda.property(name, of(Type::String)).required(name);
    }
    let counts = [
        "generation",
        "busy",
        "warm",
        "frozen",
        "starting",
        "queue",
        "invocations",
        "errors",
        "memory_bytes",
    ];
    for name in counts {
        lambda = lambda.property(name, of(Type::Integer)).required(name);
    }
    for name in ["p50_ms", "p99_ms"] {
        lambda = lambda.property(name, ObjectBuilder::new().schema_type(or_null(Type::Number)));
    }
    lambda = lambda.property("message", ObjectBuilder::new().schema_type(or_null(Type::String)));
    // Of those that have such triggers.
    for triggers in ["cron", "kafka"] {
        lambda = lambda.property(triggers, ArrayBuilder::new().items(of(Type::Object)));
    }
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("worker", of(Type::Object))
        .required("worker")
        .property("lambdas", ArrayBuilder::new().items(lambda))
        .required("lambdas")
}

fn object_of(fields: &[(&str, Type)]) -> ObjectBuilder {
    fields.iter().fold(ObjectBuilder::new().schema_type(Type::Object), |object, (name, kind)| {
        object.property(*name, of(kind.clone())).required(*name)
    })
}

pub(super) fn registered_kafka() -> ObjectBuilder {
    object_of(&[("status", Type::String), ("lambda", Type::String), ("message", Type::String)])
}

pub(super) fn zygote_tree() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("packages", array_of(Type::String))
        .property("children", array_of(Type::Object))
}

pub(super) fn shown() -> ObjectBuilder {
    let node = object_of(&[
        ("node", Type::Integer),
        ("parent", Type::Integer),
        ("state", Type::String),
        ("on_host", Type::Boolean),
        ("replicas", Type::Integer),
        ("bytes", Type::Integer),
        ("hits", Type::Integer),
        ("forks", Type::Integer),
        ("saved_ms", Type::Number),
        ("expected_ms", Type::Number),
        ("unused_s", Type::Integer),
    ]);
    let node = node.property("packages", array_of(Type::String)).property("holds", array_of(Type::String));
    object_of(&[("is_drawn", Type::Boolean), ("bytes", Type::Integer), ("bytes_max", Type::Integer)])
        .property("nodes", ArrayBuilder::new().items(node))
        .required("nodes")
}

pub(super) fn projection() -> ObjectBuilder {
    let node = object_of(&[
        ("bytes", Type::Integer),
        ("n_functions", Type::Integer),
        ("starts", Type::Number),
        ("saved_ms", Type::Number),
    ]);
    let node = node
        .property("parent", ObjectBuilder::new().schema_type(or_null(Type::Integer)))
        .property("packages", array_of(Type::String));
    object_of(&[
        ("n_functions", Type::Integer),
        ("without_ms", Type::Number),
        ("saved_ms", Type::Number),
        ("saved_now_ms", Type::Number),
        ("bytes", Type::Integer),
        ("bytes_max", Type::Integer),
        ("took_ms", Type::Number),
    ])
    .property("unknown", array_of(Type::String))
    .property("unmeasured", array_of(Type::String))
    .property("nodes", ArrayBuilder::new().items(node))
    .property("tree", zygote_tree())
}

pub(super) fn function_config() -> ObjectBuilder {
    let mut triggers = ObjectBuilder::new().schema_type(Type::Object);
    for name in ["HTTP", "Cron", "Kafka"] {
        triggers = triggers
            .property(name, ArrayBuilder::new().schema_type(or_null(Type::Array)).items(of(Type::Object)))
            .required(name);
    }
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("Triggers", triggers)
        .required("Triggers")
        .property("Environment", map_of(Type::String))
        .required("Environment")
        .property("ReuseSandbox", of(Type::Boolean))
        .required("ReuseSandbox")
}
