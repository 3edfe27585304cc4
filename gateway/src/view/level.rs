//! How bad a state is, in words and in a shape.

use shared::domain::impact::Impact;

/// A state, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    #[default]
    Operational,
    Maintenance,
    Minor,
    Major,
    Outage,
}

impl Level {
    /// Of an incident. Other programs may write impacts that nobody knows.
    pub(crate) fn of(impact: i16) -> Self {
        match Impact::try_from(impact.clamp(0, 3)) {
            Ok(Impact::Maintenance) => Self::Maintenance,
            Ok(Impact::Minor) => Self::Minor,
            Ok(Impact::Major) => Self::Major,
            Ok(Impact::Outage) | Err(_) => Self::Outage,
        }
    }

    /// Of what is in incidents of which the worst has this impact, if it is in any.
    pub(crate) fn of_worst(impact: Option<i16>) -> Self {
        impact.map(Self::of).unwrap_or_default()
    }

    /// The word for a component.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Operational => "Operational",
            Self::Maintenance => "Maintenance",
            Self::Minor => "Minor problem",
            Self::Major => "Major problem",
            Self::Outage => "Outage",
        }
    }

    /// The words for some components among others.
    pub(crate) const fn phrase(self) -> &'static str {
        match self {
            Self::Operational => "operational",
            Self::Maintenance => "in maintenance",
            Self::Minor => "with a minor problem",
            Self::Major => "with a major problem",
            Self::Outage => "with an outage",
        }
    }

    /// The name of its class in the style sheet, and of its shape.
    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Operational => "operational",
            Self::Maintenance => "maintenance",
            Self::Minor => "minor",
            Self::Major => "major",
            Self::Outage => "outage",
        }
    }

    /// All of them, the worst first.
    pub(crate) const ALL: [Self; 5] =
        [Self::Outage, Self::Major, Self::Minor, Self::Maintenance, Self::Operational];
}
