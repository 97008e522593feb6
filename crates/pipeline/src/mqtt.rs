//! What blocks say of MQTT: topics and filters, and what is wrong with a source or a sink.

use crate::definition::Delivery;
use crate::endpoint::host_and_port;
use crate::outside::{Wrong, promise, url};
use crate::sink::MqttSink;
use crate::source::MqttSource;

/// The schemes of a broker's URL, each with its usual port.
pub const SCHEMES: [(&str, u16); 2] = [("mqtts", 8883), ("mqtt", 1883)];

/// Checks a source.
pub(crate) fn source(source: &MqttSource) -> Wrong {
    let mut wrong = Wrong::new();
    let why = url(&source.broker.url, &SCHEMES, "basic");
    wrong.extend(why.map(|why| (".source.mqtt.url".into(), why)));
    if source.topics.is_empty() {
        let why = "empty; give a topic filter, such as sensors/#";
        wrong.push((".source.mqtt.topics".into(), why.into()));
    }
    for (place, filter) in source.topics.iter().enumerate() {
        if filter.starts_with('$') {
            let why = format!("{filter:?}: filters that begin with $ are not served; remove it");
            wrong.push((format!(".source.mqtt.topics[{place}]"), why));
        } else if !filter_is_valid(filter) {
            let why = format!(
                "{filter:?}: in a topic filter + stands for one level and # for all that follow, \
                 each alone between slashes, # at the end: sensors/+/temperature, sensors/#"
            );
            wrong.push((format!(".source.mqtt.topics[{place}]"), why));
        }
    }
    wrong
}

/// Checks a sink of a Pipeline with this delivery.
pub(crate) fn sink(sink: &MqttSink, delivery: Delivery) -> Wrong {
    let mut wrong = Wrong::new();
    let why = url(&sink.broker.url, &SCHEMES, "basic");
    wrong.extend(why.map(|why| (".sink.mqtt.url".into(), why)));
    if sink.topic.is_empty() || sink.topic.contains(['+', '#', '\0']) {
        let why = format!(
            "{:?}: give a topic without + and #, which stand for levels in filters: orders/eu",
            sink.topic
        );
        wrong.push((".sink.mqtt.topic".into(), why));
    }
    let gets = (
        "a subscriber",
        "the user property idempotency-key of MQTT 5",
    );
    let why = promise(gets, delivery, sink.delivery);
    wrong.extend(why.map(|why| (".sink.mqtt.delivery".into(), why)));
    wrong
}

/// Whether a source gets what a sink publishes.
pub(crate) fn goes_round(source: &MqttSource, sink: &MqttSink) -> bool {
    let broker = |url: &str| host_and_port(url, &SCHEMES).ok();
    let place = broker(&source.broker.url);
    let mut filters = source.topics.iter();
    place.is_some()
        && place == broker(&sink.broker.url)
        && filters.any(|filter| matches(filter, sink.topic.as_bytes()))
}

/// Whether it is a topic filter (MQTT 5.0, section 4.7).
fn filter_is_valid(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let last = levels.len() - 1;
    let is_level = |(place, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => place == last,
        level => !level.contains(['+', '#', '\0']),
    };
    !filter.is_empty() && levels.iter().enumerate().all(is_level)
}

/// Whether a topic is one of a filter (MQTT 5.0, section 4.7).
pub fn matches(filter: &str, topic: &[u8]) -> bool {
    let mut levels = topic.split(|byte| *byte == b'/');
    // Topics of the broker itself are only for filters that name them.
    if topic.first() == Some(&b'$') && filter.starts_with(['+', '#']) {
        return false;
    }
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part.as_bytes() == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_whole_levels() {
        let matching = [
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("a/+/c", "a/b/c"),
            ("+", "a"),
            ("a/+", "a/"),
            ("/+", "/a"),
        ];
        for (filter, topic) in matching {
            assert!(matches(filter, topic.as_bytes()), "{filter} {topic}");
        }
        let others = [
            ("a/#", "ab"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("a", "a/b"),
            ("#", "$SYS/a"),
            ("+", "/a"),
        ];
        for (filter, topic) in others {
            assert!(!matches(filter, topic.as_bytes()), "{filter} {topic}");
        }
    }
}
