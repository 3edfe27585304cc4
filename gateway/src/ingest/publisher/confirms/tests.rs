use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    task::Waker,
};

use lapin::{
    BasicProperties,
    message::{BasicReturnMessage, Delivery},
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// A confirmation that the test controls.
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

type Publishes = Unconfirmed<usize, Promise>;

fn publish(unconfirmed: &mut Publishes, number: usize) -> Promise {
    let promise = Promise::default();
    unconfirmed.add(id(number), number, promise.clone());
    promise
}

fn look(unconfirmed: &mut Publishes) -> Vec<(usize, Confirmed)> {
    match unconfirmed.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(confirmed) => confirmed,
        Poll::Pending => Vec::new(),
    }
}

#[test]
fn each_confirmation_is_taken_for_what_it_is() {
    let mut unconfirmed = Publishes::default();
    let [queued, refused, lost, _pending] = [1, 2, 3, 4].map(|n| publish(&mut unconfirmed, n));
    assert_eq!(look(&mut unconfirmed), []);
    queued.resolve(Confirmation::Ack(None));
    refused.resolve(Confirmation::Nack(None));
    let expected = [(1, Confirmed::Queued), (2, Confirmed::Refused)];
    assert_eq!(look(&mut unconfirmed), expected);
    lost.resolve(Confirmation::Ack(Some(returned(id(3)))));
    assert_eq!(look(&mut unconfirmed), [(3, Confirmed::Returned)]);
    assert_eq!(unconfirmed.abandon().collect::<Vec<_>>(), [4]);
}

#[test]
fn a_return_that_came_with_another_confirmation_is_found() {
    for (other, lost) in [(1, 2), (2, 1)] {
        let mut unconfirmed = Publishes::default();
        let promises = [1, 2].map(|n| publish(&mut unconfirmed, n));
        promises[other - 1].resolve(Confirmation::Ack(Some(returned(id(lost)))));
        promises[lost - 1].resolve(Confirmation::Ack(None));
        let mut confirmed = look(&mut unconfirmed);
        confirmed.sort_unstable_by_key(|(number, _)| *number != other);
        assert_eq!(confirmed, [(other, Confirmed::Unknown), (lost, Confirmed::Returned)]);
        assert!(unconfirmed.is_empty() && unconfirmed.returned.is_empty());
    }
}

#[test]
fn a_channel_that_fails_fails_all() {
    let mut unconfirmed = Publishes::default();
    let failed = publish(&mut unconfirmed, 1);
    failed.complete(Err(lapin::ErrorKind::MissingHeartbeatError.into()));
    assert_eq!(look(&mut unconfirmed), [(1, Confirmed::Failed)]);
}

/// RabbitMQ and lapin with some publishes of one channel, some of them without a queue.
#[derive(Default)]
struct Rig {
    unconfirmed: Publishes,
    /// What was published and is not confirmed.
    sent: Vec<Promise>,
    /// Returns that lapin hands to whatever is confirmed next.
    waiting: VecDeque<usize>,
    settled: BTreeMap<usize, Confirmed>,
}

impl Rig {
    fn publish(&mut self, number: usize, has_queue: bool) {
        // RabbitMQ returns it as soon as it reads it, and confirms later.
        if !has_queue {
            self.waiting.push_back(number);
        }
        let promise = publish(&mut self.unconfirmed, number);
        self.sent.push(promise);
    }

    fn confirm(&mut self, nth: usize) {
        if !self.sent.is_empty() {
            let promise = self.sent.remove(nth % self.sent.len());
            let message = self.waiting.pop_front().map(|number| returned(id(number)));
            promise.resolve(Confirmation::Ack(message));
        }
    }

    fn look(&mut self) {
        self.settled.extend(look(&mut self.unconfirmed));
    }
}

proptest! {
    #[test]
    fn what_has_no_queue_is_never_taken_for_queued(
        queues in prop::collection::vec(any::<bool>(), 1..8),
        steps in prop::collection::vec((0..3_u8, any::<u8>()), 0..60),
    ) {
        let mut rig = Rig::default();
        let mut next = queues.iter().copied().enumerate();
        for (step, nth) in steps {
            match step {
                0 => if let Some((number, has_queue)) = next.next() {
                    rig.publish(number, has_queue);
                },
                1 => rig.confirm(nth.into()),
                _ => rig.look(),
            }
        }
        while !rig.sent.is_empty() {
            rig.confirm(0);
        }
        rig.look();
        for (number, confirmed) in &rig.settled {
            if queues[*number] {
                prop_assert!([Confirmed::Queued, Confirmed::Unknown].contains(confirmed));
            } else {
                prop_assert!([Confirmed::Returned, Confirmed::Unknown].contains(confirmed));
            }
        }
        prop_assert!(rig.unconfirmed.is_empty() && rig.unconfirmed.returned.is_empty());
    }
}
