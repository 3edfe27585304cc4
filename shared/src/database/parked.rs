//! Which rows of `sdb_parked` are parked updates that need an operator.

/// The SQL condition on a row of `sdb_parked`: it was not requeued, or it was requeued more than ten minutes
/// ago and still exists. The command that requeued it may have been killed before it published the message.
#[macro_export]
macro_rules! is_parked {
    () => {
        "(put_back_at IS NULL
            OR put_back_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '10 minutes')"
    };
}
