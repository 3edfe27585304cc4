//! When a parked update counts as one that an operator has to look at.

/// The condition on a row of `sdb_parked`, in SQL: it was not put back, or ten minutes ago and is still
/// there. The command that put it back may have been killed before it sent it.
#[macro_export]
macro_rules! stands_parked {
    () => {
        "(put_back_at IS NULL
            OR put_back_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '10 minutes')"
    };
}
