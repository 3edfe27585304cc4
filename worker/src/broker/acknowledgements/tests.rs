use super::*;

const QUEUE: &str = "p0";

fn settled(queue: &str, tag: u64) -> Settled<u64> {
    Settled { queue: queue.into(), tag, acker: tag }
}

fn first_unsettled(tag: u64) -> HashMap<Arc<str>, u64> {
    HashMap::from([(QUEUE.into(), tag)])
}

/// With this prefetch count, after these were settled with nothing unsettled before them.
fn after(prefetch: u16, tags: impl IntoIterator<Item = u64>) -> Acknowledgements<u64> {
    let mut acknowledgements = Acknowledgements::new(prefetch);
    for tag in tags {
        acknowledgements.add(settled(QUEUE, tag), &HashMap::new());
    }
    acknowledgements
}

#[tokio::test(start_paused = true)]
async fn the_last_delivery_of_each_queue_is_acknowledged_for_all() {
    let mut acknowledgements = after(256, [1, 2, 3]);
    acknowledgements.add(settled("p1", 7), &HashMap::new());
    assert_eq!(acknowledgements.take_due(), [], "they wait for others");
    tokio::time::advance(DELAY).await;
    let mut taken = acknowledgements.take_due();
    taken.sort_unstable();
    assert_eq!(taken, [(3, true), (7, true)]);
    assert_eq!(acknowledgements.due(), None);
    assert_eq!(acknowledgements.take(), []);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_settled_after_later_ones_leaves_none_behind() {
    assert_eq!(after(256, [5, 7, 6]).take(), [(7, true)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_behind_an_unsettled_delivery_is_acknowledged_alone_and_at_once() {
    let mut acknowledgements = after(256, [1, 2]);
    acknowledgements.add(settled(QUEUE, 3), &first_unsettled(4));
    acknowledgements.add(settled(QUEUE, 5), &first_unsettled(4));
    assert_eq!(acknowledgements.take_due(), [(5, false)]);
    acknowledgements.add(settled(QUEUE, 4), &HashMap::new());
    assert_eq!(acknowledgements.take(), [(4, true)]);
}

#[tokio::test(start_paused = true)]
async fn half_of_the_prefetch_count_does_not_wait() {
    for (prefetch, waiting) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (256, 127)] {
        let mut acknowledgements = after(prefetch, 1..=waiting);
        assert_eq!(acknowledgements.take_due(), [], "{prefetch}");
        acknowledgements.add(settled(QUEUE, waiting + 1), &HashMap::new());
        assert_eq!(acknowledgements.take_due(), [(waiting + 1, true)], "{prefetch}");
    }
}
