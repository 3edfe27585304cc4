//! Many updates in one request, beside one in each.

use anyhow::Result;

use crate::{
    bench::{Bench, closed},
    load::Request,
    report::{Figure, Row, Target},
    sequence::Sequence,
    updates::{CONNECTIONS, post_all},
};

/// Updates in each request.
const EACH: usize = 100;
/// Clients that send them.
const CONNECTIONS_OF_MANY: usize = 16;

/// With their outcomes; a rate counts updates.
pub(crate) async fn post(bench: &mut Bench) -> Result<()> {
    for sequence in [Sequence::Repeating, Sequence::Changing] {
        let system = bench.system(&format!("many_{}", sequence.word())).await?;
        sequence.prepare(&system).await?;
        let (many, single) = (sequence.bodies_of_many(EACH), sequence.bodies());
        let of_many = Request::post_many(&many, EACH, &bench.token)?;
        let of_one = Request::post(&single, &bench.token)?;
        let what = format!(
            "POST /api/v1/updates, {EACH} in each, {CONNECTIONS_OF_MANY} connections, {}",
            sequence.words()
        );
        let (together, alone) = bench
            .alternate(
                &what,
                &system,
                async |time| {
                    many.rewind();
                    let load = closed(&system, &of_many, CONNECTIONS_OF_MANY, time);
                    post_all(&system, sequence, load).await
                },
                async |time| {
                    single.rewind();
                    let load = closed(&system, &of_one, CONNECTIONS, time);
                    Ok(Some(post_all(&system, sequence, load).await?))
                },
            )
            .await?;
        let beside = format!("POST with its outcome, {CONNECTIONS} connections");
        bench.add(
            Row::rate(what, &together)?
                .beside(beside, Figure::rate(&alone)?)
                .target(Target::RatioAtLeast(5.0)),
        );
    }
    Ok(())
}
