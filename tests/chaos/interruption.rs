//! How long clients were without good answers while something was broken.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::record::{Attempt, AttemptResult};

/// Something that was broken, until all was well again.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) kind: &'static str,
    pub(crate) begin: Instant,
    /// When all was well again, and whether nothing else was broken meanwhile.
    pub(crate) end: Option<(Instant, bool)>,
}

/// The faults of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interruption {
    pub(crate) times: usize,
    /// The longest time in which a gateway answered nothing with 2xx, where nothing else was broken.
    pub(crate) untaken: Option<Duration>,
    /// The longest time in which a gateway gave no outcome, where nothing else was broken.
    pub(crate) undecided: Option<Duration>,
    /// The same where something else was broken, too.
    pub(crate) undecided_beside: Option<Duration>,
}

/// The interruptions by the kind of fault.
pub(crate) fn by_kind(
    broken: &[Broken],
    attempts: &[Attempt],
) -> BTreeMap<&'static str, Interruption> {
    let taken = moments(attempts, AttemptResult::is_taken);
    let decided = moments(attempts, |result| matches!(result, AttemptResult::Outcome { .. }));
    let mut kinds: BTreeMap<&'static str, Interruption> = BTreeMap::new();
    for Broken { kind, begin, end } in broken {
        let kind = kinds.entry(kind).or_default();
        kind.times += 1;
        let Some((end, is_alone)) = *end else { continue };
        let gap = |moments: &[Vec<Instant>]| {
            moments.iter().map(|of_gateway| longest_gap(of_gateway, *begin, end)).max()
        };
        if is_alone {
            kind.untaken = kind.untaken.max(gap(&taken));
            kind.undecided = kind.undecided.max(gap(&decided));
        } else {
            kind.undecided_beside = kind.undecided_beside.max(gap(&decided));
        }
    }
    kinds
}

/// When each gateway gave such answers, in order.
fn moments(attempts: &[Attempt], such: impl Fn(&AttemptResult) -> bool) -> Vec<Vec<Instant>> {
    let mut moments: BTreeMap<usize, Vec<Instant>> = BTreeMap::new();
    for attempt in attempts {
        let of_gateway = moments.entry(attempt.gateway).or_default();
        if such(&attempt.result) {
            of_gateway.push(attempt.answered);
        }
    }
    moments.values_mut().for_each(|of_gateway| of_gateway.sort_unstable());
    moments.into_values().collect()
}

/// The longest time between two of these moments, as far as it reaches into a span.
fn longest_gap(moments: &[Instant], begin: Instant, end: Instant) -> Duration {
    let before = moments.partition_point(|moment| *moment <= begin);
    let after = moments.partition_point(|moment| *moment < end);
    let first = before.checked_sub(1).and_then(|last| moments.get(last)).copied();
    let inside = moments.get(before..after).unwrap_or_default().iter().copied();
    let last = moments.get(after).copied();
    let all: Vec<Instant> =
        [first.unwrap_or(begin)].into_iter().chain(inside).chain([last.unwrap_or(end)]).collect();
    let gaps = all.windows(2).map(|pair| match pair {
        [one, next] => next.saturating_duration_since(*one),
        _ => Duration::ZERO,
    });
    gaps.max().unwrap_or_default()
}
