use std::collections::VecDeque;

use lapin::{
    BasicProperties,
    message::{BasicReturnMessage, Delivery},
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// A confirmation that the test brings.
#[derive(Clone, Default)]
struct Promise(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    confirmation: Option<lapin::Result<Confirmation>>,
    waker: Option<Waker>,
}

impl Promise {
    fn resolve(&self, confirmation: Confirmation) {
        self.complete(Ok(confirmation));
    }

    fn complete(&self, confirmation: lapin::Result<Confirmation>) {
        let mut shared = self.0.lock().unwrap();
        shared.confirmation = Some(confirmation);
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
    }
}

impl Future for Promise {
    type Output = lapin::Result<Confirmation>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.0.lock().unwrap();
        match shared.confirmation.take() {
            Some(confirmation) => Poll::Ready(confirmation),
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn id(number: usize) -> UpdateId {
    UpdateId(Uuid::from_u128(number as u128))
}

fn returned(id: UpdateId) -> BasicReturnMessage {
    let mut delivery = Delivery::mock(0, "".into(), "p0".into(), false, Vec::new());
    delivery.properties = BasicProperties::default().with_message_id(id.to_string().into());
    BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() }
}

fn published(
    unconfirmed: &Arc<Unconfirmed<Promise>>,
    number: usize,
) -> (Promise, Confirming<Promise>) {
    let promise = Promise::default();
    let issuing = unconfirmed.clone().issue(id(number));
    (promise.clone(), issuing.confirmed_by(promise))
}

fn look(confirming: &mut Confirming<Promise>) -> Option<Confirmed> {
    match Pin::new(confirming).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(confirmed) => Some(confirmed),
        Poll::Pending => None,
    }
}

#[test]
fn each_confirmation_is_told_for_what_it_is() {
    let unconfirmed = Arc::default();
    let (queued, mut is_queued) = published(&unconfirmed, 1);
    let (refused, mut is_refused) = published(&unconfirmed, 2);
    let (lost, mut is_returned) = published(&unconfirmed, 3);
    assert_eq!(look(&mut is_queued), None);
    queued.resolve(Confirmation::Ack(None));
    refused.resolve(Confirmation::Nack(None));
    assert_eq!(look(&mut is_queued), Some(Confirmed::Queued));
    assert_eq!(look(&mut is_refused), Some(Confirmed::Refused));
    lost.resolve(Confirmation::Ack(Some(returned(id(3)))));
    assert_eq!(look(&mut is_returned), Some(Confirmed::Returned));
}

#[test]
fn a_return_that_came_with_another_confirmation_is_found() {
    let unconfirmed = Arc::default();
    let (other, mut is_other) = published(&unconfirmed, 1);
    let (lost, mut is_lost) = published(&unconfirmed, 2);
    other.resolve(Confirmation::Ack(Some(returned(id(2)))));
    lost.resolve(Confirmation::Ack(None));
    // Even if the other's own task was slow to look.
    assert_eq!(look(&mut is_lost), Some(Confirmed::Returned));
    assert_eq!(look(&mut is_other), Some(Confirmed::Unknown));
}

#[test]
fn a_return_that_came_with_a_publish_of_which_nothing_is_known_yet_is_waited_for() {
    let unconfirmed = Arc::default();
    let (lost, mut is_lost) = published(&unconfirmed, 1);
    let issuing = unconfirmed.clone().issue(id(2));
    lost.resolve(Confirmation::Ack(None));
    assert_eq!(look(&mut is_lost), None);
    let later = Promise::default();
    later.resolve(Confirmation::Ack(Some(returned(id(1)))));
    drop(issuing.confirmed_by(later));
    assert_eq!(look(&mut is_lost), Some(Confirmed::Returned));
}

#[test]
fn a_return_that_came_with_a_publish_that_nobody_waits_for_is_found() {
    let unconfirmed = Arc::default();
    let (abandoned, is_abandoned) = published(&unconfirmed, 1);
    let (lost, mut is_lost) = published(&unconfirmed, 2);
    drop(is_abandoned);
    abandoned.resolve(Confirmation::Ack(Some(returned(id(2)))));
    lost.resolve(Confirmation::Ack(None));
    assert_eq!(look(&mut is_lost), Some(Confirmed::Returned));
    assert!(unconfirmed.lock().publishes.is_empty(), "something is kept for good");
}

#[test]
fn a_channel_that_fails_fails_all() {
    let unconfirmed = Arc::default();
    let (failed, mut has_failed) = published(&unconfirmed, 1);
    failed.complete(Err(lapin::ErrorKind::MissingHeartbeatError.into()));
    assert_eq!(look(&mut has_failed), Some(Confirmed::Failed));
}

/// RabbitMQ and lapin with some publishes of one channel, every other one without a queue.
#[derive(Default)]
struct Rig {
    unconfirmed: Arc<Unconfirmed<Promise>>,
    /// What was issued and is not confirmed, with whether it has a queue.
    sent: Vec<(usize, bool, Promise)>,
    /// Returns that lapin hands to whatever is confirmed next.
    waiting: VecDeque<usize>,
    issuing: Option<(usize, Issuing<Promise>, Promise)>,
    confirming: HashMap<usize, Confirming<Promise>>,
    settled: HashMap<usize, Confirmed>,
}

impl Rig {
    fn issue(&mut self, number: usize, has_queue: bool) {
        let promise = Promise::default();
        // RabbitMQ returns it as soon as it reads it, and confirms later.
        if !has_queue {
            self.waiting.push_back(number);
        }
        self.sent.push((number, has_queue, promise.clone()));
        self.issuing = Some((number, self.unconfirmed.clone().issue(id(number)), promise));
    }

    fn register(&mut self) {
        if let Some((number, issuing, promise)) = self.issuing.take() {
            self.confirming.insert(number, issuing.confirmed_by(promise));
        }
    }

    fn confirm(&mut self, nth: usize) {
        if !self.sent.is_empty() {
            let (_, _, promise) = self.sent.remove(nth % self.sent.len());
            let message = self.waiting.pop_front().map(|number| returned(id(number)));
            promise.resolve(Confirmation::Ack(message));
        }
    }

    fn look(&mut self, nth: usize) {
        let mut numbers: Vec<usize> = self.confirming.keys().copied().collect();
        numbers.sort_unstable();
        if !numbers.is_empty() {
            let number = numbers[nth % numbers.len()];
            if let Some(confirmed) = look(self.confirming.get_mut(&number).unwrap()) {
                self.confirming.remove(&number);
                self.settled.insert(number, confirmed);
            }
        }
    }
}

proptest! {
    #[test]
    fn what_has_no_queue_is_never_taken_for_queued(
        queues in prop::collection::vec(any::<bool>(), 1..8),
        steps in prop::collection::vec((0..4_u8, any::<u8>()), 0..60),
    ) {
        let mut rig = Rig::default();
        let mut next = queues.iter().copied().enumerate();
        for (step, nth) in steps {
            match step {
                0 if rig.issuing.is_none() => {
                    if let Some((number, has_queue)) = next.next() {
                        rig.issue(number, has_queue);
                    }
                }
                0 | 1 => rig.register(),
                2 => rig.confirm(nth.into()),
                _ => rig.look(nth.into()),
            }
        }
        rig.register();
        while !rig.sent.is_empty() {
            rig.confirm(0);
        }
        while !rig.confirming.is_empty() {
            rig.look(0);
        }
        for (number, confirmed) in &rig.settled {
            if queues[*number] {
                prop_assert!([Confirmed::Queued, Confirmed::Unknown].contains(confirmed));
            } else {
                prop_assert!([Confirmed::Returned, Confirmed::Unknown].contains(confirmed));
            }
        }
        let inner = rig.unconfirmed.lock();
        prop_assert!(inner.publishes.is_empty() && inner.returned.is_empty());
    }
}
