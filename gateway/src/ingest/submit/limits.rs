//! What limits updates before they are looked at: the rate of their token, and the places in flight.

use shared::telemetry::metrics::{GATEWAY, Refused};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep_until, timeout_at},
};

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

    /// Counts updates of this token that must be taken together, however many they are. Waits while the token
    /// has reached its rate limit, if it can send again before the deadline.
    ///
    /// # Errors
    /// 503 if it can't, or if the gateway stops.
    pub(crate) async fn count_together(
        &self,
        token: &str,
        count: usize,
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let Some(limit) = self.rate_limit else { return Ok(()) };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        // Nothing is reserved while this waits: a request that its client gives up costs none of the rate.
        while let Err(then) = limit.take_together(token, count, Instant::now()) {
            if then >= deadline {
                GATEWAY.refused.of(Refused::RateLimit).inc_by(count.into());
                return Err(ApiError::unavailable(OVER_RATE));
            }
            tokio::select! {
                biased;
                () = sleep_until(then) => {}
                _ = self.stop.stops() => return Err(ApiError::stopping()),
            }
        }
        Ok(())
    }

    /// A place for one update among those in flight.
    ///
    /// # Errors
    /// 503 when none is free.
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'a>, ApiError> {
        self.places.try_acquire().map_err(|_| none_free())
    }

    /// Places for some of this many updates, for at least one of them. Waits until one is free.
    ///
    /// # Errors
    /// 503 when none is free by the deadline.
    pub(crate) async fn some_places(
        &self,
        count: usize,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'a>, ApiError> {
        let first = timeout_at(deadline, self.places.acquire()).await;
        let mut places = first.ok().and_then(Result::ok).ok_or_else(none_free)?;
        let more = self.places.available_permits().min(count.saturating_sub(1));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if let Ok(more) = self.places.try_acquire_many(more) {
            places.merge(more);
        }
        Ok(places)
    }
}

fn none_free() -> ApiError {
    GATEWAY.refused.of(Refused::InFlight).inc();
    ApiError::unavailable("Too many updates are in flight; nothing was queued, try again")
}
