//! What limits updates before they are looked at: the rate of their token, and the places in flight.

use shared::metrics::{GATEWAY, Refused};
use tokio::{sync::SemaphorePermit, time::Instant};

use super::Intake;
use crate::http::error::ApiError;

/// Said of a token that has reached its rate limit.
const OVER_RATE: &str = "This token sends more updates than it may; nothing was queued, try again";

impl<'a> Intake<'a> {
    /// Counts one update of this token.
    ///
    /// # Errors
    /// 429 if the token has reached its rate limit.
    pub(crate) fn count(&self, token: &str, now: Instant) -> Result<(), ApiError> {
        if self.rate_limit.is_none_or(|limit| limit.take(token, now)) {
            return Ok(());
        }
        Err(ApiError::too_many(OVER_RATE))
    }

    /// Counts updates of this token that must be taken together, however many they are.
    ///
    /// # Errors
    /// 503 if the token has reached its rate limit.
    pub(crate) fn count_together(
        &self,
        token: &str,
        count: usize,
        now: Instant,
    ) -> Result<(), ApiError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if self.rate_limit.is_none_or(|limit| limit.take_together(token, count, now)) {
            return Ok(());
        }
        GATEWAY.refused.of(Refused::RateLimit).inc_by(count.into());
        Err(ApiError::unavailable(OVER_RATE))
    }

    /// A place for one update among those in flight.
    ///
    /// # Errors
    /// 503 when none is free.
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'a>, ApiError> {
        self.places.try_acquire().map_err(|_| {
            GATEWAY.refused.of(Refused::InFlight).inc();
            ApiError::unavailable("Too many updates are in flight; nothing was queued, try again")
        })
    }

    /// Places for some of this many updates, for at least one of them.
    ///
    /// # Errors
    /// 503 when none is free.
    pub(crate) fn some_places(&self, count: usize) -> Result<SemaphorePermit<'a>, ApiError> {
        let free = self.places.available_permits().min(count);
        let places = u32::try_from(free).ok().filter(|free| *free > 0);
        let places = places.and_then(|free| self.places.try_acquire_many(free).ok());
        places.map_or_else(|| self.place(), Ok)
    }
}
