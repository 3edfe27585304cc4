//! Parts of the OpenAPI document that several endpoints use.

use serde::Serialize;
use serde_json::Value;
use shared::domain::update_id::UpdateId;
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, schema::SchemaType},
};
use uuid::Uuid;

/// The id of an update in examples.
pub(crate) const EXAMPLE_ID: UpdateId =
    UpdateId(Uuid::from_u128(0x019c_e2a4_7c00_7000_8000_0000_0000_0000));

/// One of these values.
pub(crate) fn one_of<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> Object {
    let values: Vec<Value> = values.into_iter().map(Into::into).collect();
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).enum_values(Some(values)).build()
}

/// An attribute of a component.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attribute {
    /// The name of the attribute.
    #[schema(example = "region")]
    name: String,
    /// The component's value of it.
    #[schema(example = "Region 1")]
    value: String,
}

impl From<shared::domain::component::Attribute> for Attribute {
    fn from(attribute: shared::domain::component::Attribute) -> Self {
        let shared::domain::component::Attribute { name, value } = attribute;
        Self { name, value }
    }
}
