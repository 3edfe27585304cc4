//! Chooses the primary among several servers, by what they answer.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnectOptions;

use super::{Origin, SERVER_LIMIT, Server};

/// Why one of several servers is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is in recovery.
    #[error("it is a standby")]
    Standby,
    /// Its transactions are read-only.
    #[error("it takes no writes")]
    ReadOnly,
    /// A standby of its was promoted.
    #[error("it is an old primary: its timeline is {timeline}, and {newest} was seen")]
    Old {
        /// Its timeline.
        timeline: u32,
        /// The highest timeline that this process has seen.
        newest: u32,
    },
    /// It is no copy of the one in use.
    #[error(
        "it belongs to another cluster: its system identifier is {found} instead of {expected}"
    )]
    Foreign {
        /// Its system identifier.
        found: String,
        /// That of the first primary which this process used.
        expected: String,
    },
    /// The primary has the same timeline: one server by two names, or two that were promoted at once.
    #[error("it takes writes on the same timeline as {0}, which is used")]
    Second(String),
    /// No answer.
    #[error("it did not answer within {} s", SERVER_LIMIT.as_secs())]
    Silent,
    /// It refused, or can't be reached.
    #[error("{0}")]
    Failed(String),
}

impl Unfit {
    /// Whether it takes writes of others, which are lost to the primary.
    pub(super) const fn is_fault(&self) -> bool {
        match self {
            Self::Old { .. } | Self::Foreign { .. } => true,
            Self::Standby | Self::ReadOnly | Self::Second(_) | Self::Silent | Self::Failed(_) => {
                false
            }
        }
    }
}

/// The primary, and what is known of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    /// Whether the servers were asked at all.
    pub(super) is_made: bool,
    /// The last primary; it is kept while no other server takes over.
    pub(super) primary: Option<Server>,
    /// Its timeline.
    timeline: Option<u32>,
    /// Whether it could be used when it was asked last.
    pub(super) is_usable: bool,
    /// The number of primaries so far.
    pub(super) epoch: u64,
    /// The system identifier of the first primary.
    cluster: Option<String>,
    /// The highest timeline seen.
    newest: u32,
    pub(super) unfit: BTreeMap<String, Unfit>,
}

impl Choice {
    /// How to connect to the primary, with its epoch.
    pub(super) fn primary(&self) -> Option<(PgConnectOptions, u64)> {
        self.primary.as_ref().map(|primary| (primary.connect.clone(), self.epoch))
    }

    /// The timeline of a server with this origin, if it may be used.
    pub(super) fn verify(&self, origin: &Origin) -> Result<u32, Unfit> {
        if let Some(cluster) = self.cluster.as_ref().filter(|cluster| **cluster != origin.cluster) {
            let (found, expected) = (origin.cluster.clone(), cluster.clone());
            return Err(Unfit::Foreign { found, expected });
        }
        match origin.timeline {
            Some(timeline) if timeline < self.newest => {
                Err(Unfit::Old { timeline, newest: self.newest })
            }
            Some(timeline) => Ok(timeline),
            None => Err(Unfit::Standby),
        }
    }

    /// Chooses by what all servers answered, in the order in which they are named.
    pub(super) fn update(&mut self, answers: Vec<(Server, Result<Origin, Unfit>)>) {
        self.is_made = true;
        let fit = || answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
        if self.cluster.is_none() {
            let primary = fit().find(|origin| origin.timeline.is_some());
            self.cluster = primary.or_else(|| fit().next()).map(|origin| origin.cluster.clone());
        }
        let own = fit().filter(|origin| self.cluster.as_ref() == Some(&origin.cluster));
        self.newest = own.filter_map(|origin| origin.timeline).max().unwrap_or(0).max(self.newest);

        let (mut candidates, mut unfit) = (Vec::new(), BTreeMap::new());
        for (server, answer) in answers {
            match answer.and_then(|origin| self.verify(&origin)) {
                Ok(timeline) => candidates.push((server, timeline)),
                Err(reason) => drop(unfit.insert(server.name, reason)),
            }
        }
        self.take(candidates, &mut unfit);
        self.log(&unfit);
        self.unfit = unfit;
    }

    /// Keeps the primary if it is among the candidates, or takes the first of them.
    fn take(&mut self, mut candidates: Vec<(Server, u32)>, unfit: &mut BTreeMap<String, Unfit>) {
        let current = self.primary.as_ref().map(|primary| primary.name.clone());
        let is_current = |(server, _): &(Server, _)| Some(&server.name) == current.as_ref();
        let place = candidates.iter().position(is_current).unwrap_or(0);
        let was_usable = std::mem::replace(&mut self.is_usable, !candidates.is_empty());
        if !self.is_usable {
            return;
        }
        let (server, timeline) = candidates.remove(place);
        for (other, _) in candidates {
            unfit.insert(other.name, Unfit::Second(server.name.clone()));
        }
        let is_new = current.as_ref() != Some(&server.name) || self.timeline != Some(timeline);
        self.epoch += u64::from(is_new);
        if is_new || !was_usable {
            let (server, before) = (&server.name, current);
            tracing::info!(server, timeline, before, "this server of PostgreSQL is used");
        }
        self.timeline = Some(timeline);
        self.primary = Some(server);
    }

    /// Logs what has changed.
    fn log(&self, unfit: &BTreeMap<String, Unfit>) {
        for (server, why) in
            unfit.iter().filter(|(server, why)| self.unfit.get(*server) != Some(why))
        {
            let reason = why.to_string();
            match why {
                Unfit::Standby => {
                    tracing::info!(server, reason, "this server of PostgreSQL is not used");
                }
                Unfit::ReadOnly
                | Unfit::Old { .. }
                | Unfit::Foreign { .. }
                | Unfit::Second(_)
                | Unfit::Silent
                | Unfit::Failed(_) => {
                    tracing::warn!(server, reason, "this server of PostgreSQL is not used");
                }
            }
        }
    }

    /// Why each server is not used.
    pub(super) fn reasons(&self) -> String {
        let each = self.unfit.iter().map(|(server, reason)| format!("{server}: {reason}"));
        each.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(timeline: u32) -> Result<Origin, Unfit> {
        Ok(Origin { cluster: "one".to_owned(), timeline: Some(timeline) })
    }

    /// Asks the servers `a`, `b`, and so on; returns the name of the one in use.
    fn ask(choice: &mut Choice, answers: &[Result<Origin, Unfit>]) -> Option<String> {
        let server = |name: char| Server { name: name.into(), connect: PgConnectOptions::new() };
        choice.update(('a'..).map(server).zip(answers.iter().cloned()).collect());
        choice.primary.clone().filter(|_| choice.is_usable).map(|server| server.name)
    }

    #[test]
    fn the_one_that_takes_writes_is_used_and_kept() {
        let mut choice = Choice::default();
        assert_eq!(ask(&mut choice, &[Err(Unfit::Standby), primary(1)]).as_deref(), Some("b"));
        assert_eq!(choice.epoch, 1);
        // Another one on the same timeline changes nothing, though it is named first.
        assert_eq!(ask(&mut choice, &[primary(1), primary(1)]).as_deref(), Some("b"));
        assert_eq!((choice.epoch, &choice.unfit["a"]), (1, &Unfit::Second("b".to_owned())));
        // While it is away nothing is used, and its connections stay.
        assert_eq!(ask(&mut choice, &[Err(Unfit::Standby), Err(Unfit::Silent)]), None);
        assert_eq!(choice.epoch, 1);
        assert_eq!(ask(&mut choice, &[Err(Unfit::Standby), primary(1)]).as_deref(), Some("b"));
        assert_eq!(choice.epoch, 1);
    }

    #[test]
    fn a_lower_timeline_is_never_used_again() {
        let mut choice = Choice::default();
        assert_eq!(ask(&mut choice, &[primary(1), Err(Unfit::Standby)]).as_deref(), Some("a"));
        assert_eq!(ask(&mut choice, &[primary(1), primary(2)]).as_deref(), Some("b"));
        let old = Unfit::Old { timeline: 1, newest: 2 };
        assert_eq!((choice.epoch, &choice.unfit["a"]), (2, &old));
        // Even if it is the only one that answers.
        assert_eq!(ask(&mut choice, &[primary(1), Err(Unfit::Silent)]), None);
        assert!(choice.unfit["a"].is_fault() && !choice.unfit["b"].is_fault());
        assert_eq!(choice.verify(&primary(1).expect("an origin")), Err(old));
        assert_eq!(choice.verify(&primary(3).expect("an origin")), Ok(3));
        // It has followed, and was promoted in turn.
        assert_eq!(ask(&mut choice, &[primary(3), Err(Unfit::Standby)]).as_deref(), Some("a"));
        assert_eq!(choice.epoch, 3);
        // A server may be restored to a point in its past, which begins a timeline, too.
        assert_eq!(ask(&mut choice, &[primary(4), Err(Unfit::Standby)]).as_deref(), Some("a"));
        assert_eq!(choice.epoch, 4);
    }

    #[test]
    fn another_cluster_is_refused_whatever_its_timeline() {
        let mut choice = Choice::default();
        let foreign = || Ok(Origin { cluster: "two".to_owned(), timeline: Some(9) });
        assert_eq!(ask(&mut choice, &[primary(1), foreign()]).as_deref(), Some("a"));
        assert!(matches!(choice.unfit["b"], Unfit::Foreign { .. }));
        assert_eq!(ask(&mut choice, &[Err(Unfit::Silent), foreign()]), None);
        assert!(choice.reasons().contains("a: it did not answer within 1 s; b: it belongs to"));
    }
}
