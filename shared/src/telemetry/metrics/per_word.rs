//! Metrics with a series for each word of a set.

use std::{fmt, marker::PhantomData};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, family::Family},
};

use super::words::Words;

/// One label with its value.
pub(super) type Word = [(&'static str, &'static str); 1];

/// A metric for each word of a set.
#[derive(Clone, Debug)]
pub struct PerWord<W, M> {
    family: Family<Word, M, fn() -> M>,
    words: PhantomData<W>,
}

impl<W: Words, M: Clone> PerWord<W, M> {
    pub(super) fn new(make: fn() -> M) -> Self {
        let family = Family::new_with_constructor(make);
        for word in W::all() {
            drop(family.get_or_create(&[(W::LABEL, word.word())]));
        }
        Self { family, words: PhantomData }
    }

    /// The metric of a word.
    #[must_use]
    pub fn of(&self, word: W) -> M {
        self.family.get_or_create_owned(&[(W::LABEL, word.word())])
    }
}

impl<W: Words, M: Default + Clone> Default for PerWord<W, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<W: Words, M: EncodeMetric + TypedMetric + Clone> EncodeMetric for PerWord<W, M> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.family.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
