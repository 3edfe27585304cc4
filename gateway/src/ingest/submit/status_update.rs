//! A status update as it is submitted, whatever the endpoint.

use shared::{
    domain::{
        component::{Attribute, Component, ComponentId, NoComponent},
        condition::Condition,
    },
    wire::message::Report,
};

use crate::store::catalogue::Catalogue;

/// How a client refers to a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ComponentRef {
    /// By its name and its attributes, or some of them.
    Named {
        name: String,
        attributes: Vec<Attribute>,
    },
    Id(ComponentId),
}

impl ComponentRef {
    /// The component in a catalogue.
    pub(super) fn find<'a>(
        &self,
        catalogue: &'a Catalogue,
    ) -> Result<&'a Component, NoComponent<'a>> {
        match self {
            Self::Named { name, attributes } => catalogue.find(name, attributes),
            Self::Id(id) => catalogue.with_id(*id).ok_or(NoComponent::NotFound),
        }
    }
}

/// An update as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusUpdate {
    pub(crate) component: ComponentRef,
    /// Never the impact `Maintenance`.
    pub(crate) condition: Condition,
    /// The title of an incident that it opens.
    pub(crate) text: String,
    pub(crate) idempotency_key: Option<String>,
    /// What the client says of its report. Without a source, the subject of its token is the source.
    pub(crate) report: Report,
}

impl StatusUpdate {
    /// Whether only a message with a report can say it.
    pub(super) fn needs_report(&self) -> bool {
        self.condition == Condition::Ok || self.report != Report::default()
    }
}
