//! Finds policies of RabbitMQ that can lose updates.
//!
//! A policy overrides arguments that a program passes when it declares a queue. Policies are read from
//! the output of `rabbitmqctl`, so that no plugin is needed.

use std::fmt;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};
use shared::amqp::topology::Topology;

/// What to pipe in.
const USAGE: &str = "pipe in what `rabbitmqctl -q -p VHOST list_policies --formatter json`, and after \
    it the same with `list_operator_policies`, prints";

/// A policy as `rabbitmqctl` prints it.
#[derive(Deserialize)]
struct Policy {
    name: String,
    pattern: String,
    #[serde(rename = "apply-to")]
    apply_to: String,
    #[serde(deserialize_with = "definition")]
    definition: Map<String, Value>,
    priority: i64,
}

/// An object, or a text with its JSON, depending on the version of RabbitMQ.
fn definition<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let read = value.as_str().map(serde_json::from_str);
    read.unwrap_or_else(|| serde_json::from_value(value.clone())).map_err(D::Error::custom)
}

/// What a policy can apply to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PolicyTarget {
    Partition,
    DeadLetters,
    Exchange,
}

/// A policy that can lose updates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Danger {
    policy: String,
    pattern: String,
    setting: String,
    names: Vec<String>,
    consequence: &'static str,
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, pattern, setting, names, consequence } = self;
        write!(f, "Policy `{policy}` (pattern `{pattern}`) sets {setting} on ")?;
        match names.as_slice() {
            [name] => write!(f, "{name}")?,
            [name, others @ ..] => write!(f, "{name} and {} others", others.len())?,
            [] => write!(f, "nothing")?,
        }
        write!(f, ": it {consequence}.")
    }
}

/// The dangers among the policies that `rabbitmqctl` printed, operator policies in a second list.
///
/// # Errors
/// When the input or a pattern can't be read; the message names the expected input.
pub(crate) fn check(printed: &str, topology: Topology) -> Result<Vec<Danger>> {
    ensure!(!printed.trim().is_empty(), "nothing came in: {USAGE}");
    let lists = serde_json::Deserializer::from_str(printed).into_iter::<Vec<Policy>>();
    let lists: Vec<Vec<Policy>> =
        lists.collect::<Result<_, _>>().with_context(|| format!("that can't be read: {USAGE}"))?;
    let names = names(topology);
    let mut dangers: Vec<Danger> = Vec::new();
    for list in lists {
        let mut policies = Vec::new();
        for policy in list {
            let pattern = Regex::new(&policy.pattern).with_context(|| {
                format!("the pattern of the policy `{}` can't be checked", policy.name)
            })?;
            policies.push((policy, pattern));
        }
        for (kind, name) in &names {
            let applying = policies
                .iter()
                .filter(|(policy, pattern)| policy.applies_to(*kind) && pattern.is_match(name));
            let applying: Vec<&Policy> = applying.map(|(policy, _)| policy).collect();
            // Only one policy of a list applies to a name. Among several of the same priority it is
            // undefined which one.
            let priority = applying.iter().map(|policy| policy.priority).max();
            for policy in applying.iter().filter(|policy| Some(policy.priority) == priority) {
                for (key, value) in &policy.definition {
                    if let Some(consequence) = consequence(*kind, key, value) {
                        note(&mut dangers, policy, format!("{key} = {value}"), name, consequence);
                    }
                }
            }
        }
    }
    Ok(dangers)
}

fn note(
    dangers: &mut Vec<Danger>,
    policy: &Policy,
    setting: String,
    name: &str,
    consequence: &'static str,
) {
    let same = dangers.iter_mut().find(|danger| {
        danger.policy == policy.name
            && danger.pattern == policy.pattern
            && danger.setting == setting
            && danger.consequence == consequence
    });
    match same {
        Some(danger) => danger.names.push(name.to_owned()),
        None => dangers.push(Danger {
            policy: policy.name.clone(),
            pattern: policy.pattern.clone(),
            setting,
            names: vec![name.to_owned()],
            consequence,
        }),
    }
}

impl Policy {
    fn applies_to(&self, kind: PolicyTarget) -> bool {
        match self.apply_to.as_str() {
            "queues" | "quorum_queues" => kind != PolicyTarget::Exchange,
            "exchanges" => kind == PolicyTarget::Exchange,
            "classic_queues" | "streams" => false,
            // `all`, and values of later versions.
            _ => true,
        }
    }
}

/// The queues and exchanges of updates, now and after the next change of the topology.
fn names(topology: Topology) -> Vec<(PolicyTarget, String)> {
    let mut names = Vec::new();
    for version in [topology.version, topology.version + 1] {
        let topology = Topology { version, ..topology };
        let partitions = 0..topology.partitions;
        names.extend(
            partitions.map(|partition| (PolicyTarget::Partition, topology.queue(partition))),
        );
        names.push((PolicyTarget::DeadLetters, topology.dead_letter_queue()));
        names.push((PolicyTarget::Exchange, topology.publish_exchange()));
    }
    names.push((PolicyTarget::Exchange, "sdb.gateway.example".to_owned()));
    names
}

/// How a setting loses updates there; none if it is harmless.
fn consequence(kind: PolicyTarget, key: &str, value: &Value) -> Option<&'static str> {
    match (kind, key) {
        (PolicyTarget::Partition | PolicyTarget::DeadLetters, "message-ttl") => {
            Some("drops updates that wait longer than that")
        }
        (PolicyTarget::Partition | PolicyTarget::DeadLetters, "expires") => Some(
            "deletes the queue with all that waits in it when no worker consumes it for so long",
        ),
        (PolicyTarget::Partition | PolicyTarget::DeadLetters, "delivery-limit") => Some(
            "gives updates up after so many deliveries, which the crash of a worker counts for all \
            that it holds",
        ),
        (PolicyTarget::Partition, "overflow") if value != "reject-publish" => {
            Some("drops updates when the queue is full, instead of refusing new ones")
        }
        // It is declared without reject-publish, so RabbitMQ drops the oldest.
        (PolicyTarget::DeadLetters, "max-length" | "max-length-bytes") => {
            Some("drops dead-lettered messages beyond that number before they are parked")
        }
        (PolicyTarget::Exchange, "alternate-exchange") => {
            Some("takes updates that have no queue where no worker finds them")
        }
        (PolicyTarget::Partition | PolicyTarget::DeadLetters | PolicyTarget::Exchange, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPOLOGY: Topology =
        Topology { version: 3, partitions: 2, queue_limit: 9, prefetch: 1, wire: 1, arguments: 1 };

    fn policy(pattern: &str, apply_to: &str, priority: i64, definition: &Value) -> Value {
        serde_json::json!({
            "vhost": "/", "name": "p", "pattern": pattern, "apply-to": apply_to,
            "definition": definition.to_string(), "priority": priority,
        })
    }

    fn dangers(policies: &[Value]) -> Vec<String> {
        let printed = Value::from(policies.to_vec()).to_string();
        let dangers = check(&printed, TOPOLOGY).expect("it can be read");
        dangers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_setting_that_loses_updates_is_found_where_it_does() {
        for (definition, names) in [
            (serde_json::json!({ "message-ttl": 1000 }), 6),
            (serde_json::json!({ "expires": 1000 }), 6),
            (serde_json::json!({ "delivery-limit": 5 }), 6),
            (serde_json::json!({ "overflow": "drop-head" }), 4),
            (serde_json::json!({ "overflow": "reject-publish-dlx" }), 4),
            (serde_json::json!({ "max-length": 5 }), 2),
            (serde_json::json!({ "max-length-bytes": 5 }), 2),
            (serde_json::json!({ "alternate-exchange": "x" }), 3),
        ] {
            let found = dangers(&[policy(".*", "all", 0, &definition)]);
            let [found] = found.as_slice() else { panic!("{definition}: {found:?}") };
            let others = format!("and {} others:", names - 1);
            assert!(found.contains(&others), "{definition}: {found}");
        }
    }

    #[test]
    fn what_loses_nothing_is_passed_over() {
        for definition in [
            serde_json::json!({ "overflow": "reject-publish" }),
            serde_json::json!({ "ha-mode": "all", "queue-leader-locator": "balanced" }),
            serde_json::json!({}),
        ] {
            assert_eq!(dangers(&[policy(".*", "all", 0, &definition)]), [""; 0], "{definition}");
        }
        let ttl = serde_json::json!({ "message-ttl": 1 });
        for (pattern, apply_to) in [
            ("^other", "all"),
            (".*", "exchanges"),
            (".*", "classic_queues"),
            (r"^sdb\.updates\.v2\.", "queues"),
        ] {
            assert_eq!(dangers(&[policy(pattern, apply_to, 0, &ttl)]), [""; 0], "{pattern}");
        }
    }

    #[test]
    fn the_policy_with_the_highest_priority_counts() {
        let ttl = serde_json::json!({ "message-ttl": 1 });
        let none = serde_json::json!({ "queue-leader-locator": "balanced" });
        let harmless = policy(r"^sdb\.", "all", 2, &none);
        assert_eq!(dangers(&[policy(".*", "all", 1, &ttl), harmless.clone()]), [""; 0]);
        assert_eq!(dangers(&[policy(".*", "all", 3, &ttl), harmless.clone()]).len(), 1);
        assert_eq!(dangers(&[policy(".*", "all", 2, &ttl), harmless.clone()]).len(), 1);
        // An operator policy applies in addition to the other.
        let operator = Value::from(vec![policy(".*", "queues", 0, &ttl)]).to_string();
        let printed = format!("{}\n{operator}", Value::from(vec![harmless]));
        assert_eq!(check(&printed, TOPOLOGY).expect("it can be read").len(), 1);
    }

    #[test]
    fn what_can_not_be_read_is_told_with_what_to_pipe_in() {
        for printed in ["", "Listing policies ...", "{}"] {
            let error = format!("{:#}", check(printed, TOPOLOGY).expect_err(printed));
            assert!(error.contains("pipe in what `rabbitmqctl"), "{error}");
        }
        let lookahead = policy("(?!x)", "all", 0, &serde_json::json!({})).to_string();
        let error = check(&format!("[{lookahead}]"), TOPOLOGY).expect_err("a look-ahead");
        assert!(error.to_string().contains("the policy `p` can't be checked"), "{error}");
    }
}
