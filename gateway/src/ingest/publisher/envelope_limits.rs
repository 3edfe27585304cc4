//! How large a lane's messages are, and when it sends one.

use shared::wire::envelope;

/// Unconfirmed messages of all lanes together, where each update is a message. RabbitMQ stops reading from a
/// connection with some 260 messages for queues without a leader, and so would hold up all partitions.
const UNCONFIRMED_OF_ALL: usize = 200;

/// The size of a message, and the number of unconfirmed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EnvelopeLimits {
    messages: usize,
    /// Beyond so many unconfirmed messages, only a full one is sent.
    messages_before_gathering: usize,
    pub(super) updates: usize,
    pub(super) bytes: usize,
}

impl EnvelopeLimits {
    /// For the recorded version of messages, and this number of partitions.
    pub(super) fn of(wire: u16, partitions: u16) -> Self {
        if wire < envelope::VERSION {
            let messages = (UNCONFIRMED_OF_ALL / usize::from(partitions.max(1))).clamp(1, 64);
            Self { messages, messages_before_gathering: messages, updates: 1, bytes: usize::MAX }
        } else {
            // Chosen by measurement: with one before gathering, an update waits for a whole confirmation. The
            // bytes bound what a worker holds, whose prefetch count is of messages.
            Self { messages: 3, messages_before_gathering: 2, updates: 128, bytes: 32 * 1024 }
        }
    }

    /// Whether a message is sent now, of updates of these sizes that wait.
    pub(super) fn may_send(self, unconfirmed: usize, sizes: impl Iterator<Item = usize>) -> bool {
        unconfirmed < self.messages_before_gathering
            || (unconfirmed < self.messages && self.fill_a_message(sizes))
    }

    fn fill_a_message(self, sizes: impl Iterator<Item = usize>) -> bool {
        let (mut updates, mut bytes) = (0, 0);
        for size in sizes {
            updates += 1;
            bytes += size;
            if updates >= self.updates || bytes >= self.bytes {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_not_full_waits_for_a_confirmation() {
        let limits = EnvelopeLimits::of(envelope::VERSION, 8);
        for (unconfirmed, waiting, bytes, expected) in [
            (0, 1, 300, true),
            (1, 1, 300, true),
            (2, 1, 300, false),
            (2, 127, 250, false),
            (2, 128, 250, true),
            (2, 4, 8 * 1024, true),
            (2, 4, 8 * 1024 - 1, false),
            (3, 500, 300, false),
        ] {
            let sizes = std::iter::repeat_n(bytes, waiting);
            let sent = limits.may_send(unconfirmed, sizes);
            assert_eq!(sent, expected, "{unconfirmed} unconfirmed, {waiting} of {bytes} bytes");
        }
    }

    #[test]
    fn each_update_is_a_message_where_readers_know_no_envelopes() {
        for (partitions, messages) in [(1, 64), (3, 64), (8, 25), (200, 1), (1024, 1)] {
            let limits = EnvelopeLimits::of(envelope::VERSION - 1, partitions);
            assert!(limits.may_send(messages - 1, std::iter::once(300)), "{partitions}");
            assert!(!limits.may_send(messages, std::iter::repeat_n(300, 100)), "{partitions}");
        }
    }
}
