//! When an update counts as parked.

/// The condition on a row of `sdb_parked`, in SQL: it was not requeued, or ten minutes ago and is still
/// there. The command that requeued it may have been killed before it published it.
#[macro_export]
macro_rules! is_parked {
    () => {
        "(put_back_at IS NULL
            OR put_back_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '10 minutes')"
    };
}
