//! Whatever ends the start of the deliveries, none is dropped.

use std::future::{pending, ready};

use super::*;

/// Deliveries that never come, and what shows whether they were dropped.
fn deliveries() -> (Deliveries, Arc<()>) {
    let kept = Arc::new(());
    let held = kept.clone();
    let deliveries = stream::once(async move {
        let _held = held;
        pending().await
    });
    (Box::pin(deliveries), kept)
}

fn are_kept(kept: &Arc<()>) -> bool {
    Arc::strong_count(kept) == 2
}

#[tokio::test]
async fn an_error_of_one_queue_drops_no_other() {
    let (mut starting, (first, first_kept), (second, second_kept)) =
        (Starting::default(), deliveries(), deliveries());
    starting.late.push(ready(Ok(first)).boxed());
    starting.late.push(ready(Err(DeliveryError::Ended)).boxed());
    starting.late.push(ready(Ok(second)).boxed());
    assert!(starting.wait().await.is_err());
    let all = starting.into_deliveries();
    assert!(are_kept(&first_kept) && are_kept(&second_kept));
    drop(all);
    assert!(!are_kept(&first_kept) && !are_kept(&second_kept));
}

#[tokio::test(start_paused = true)]
async fn a_late_queue_is_not_waited_for_and_its_error_comes_with_the_deliveries() {
    let (mut starting, (first, kept)) = (Starting::default(), deliveries());
    let (late, late_kept) = deliveries();
    starting.late.push(ready(Ok(first)).boxed());
    let starts_too_late = async {
        sleep(LATE_LIMIT * 2).await;
        Ok(late)
    };
    starting.late.push(in_time(starts_too_late.boxed()).boxed());
    starting.wait().await.unwrap();
    let mut all = stream::select_all(starting.into_deliveries());
    assert!(matches!(all.next().await, Some(Err(DeliveryError::Silent))));
    assert!(timeout(LATE_LIMIT * 2, all.next()).await.is_err());
    assert!(are_kept(&kept) && are_kept(&late_kept));
}
