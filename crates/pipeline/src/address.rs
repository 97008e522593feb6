//! Where a record lies in Kafka. Errors name a record by its address, never by its content.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The address of a record: `topic/partition/offset`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Name of the topic in Kafka.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.rsplitn(3, '/').collect();
        let [offset, partition, topic] = parts[..] else {
            return Err(format!("{text:?} is not TOPIC/PARTITION/OFFSET"));
        };
        let number = |part: &str| format!("{text:?} is not TOPIC/PARTITION/OFFSET: {part:?}");
        Ok(Self {
            topic: topic.to_owned(),
            partition: partition.parse().map_err(|_| number(partition))?,
            offset: offset.parse().map_err(|_| number(offset))?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let address: Address = "shop.orders/3/4711".parse().unwrap();
        assert_eq!(address.to_string(), "shop.orders/3/4711");
        assert_eq!((address.partition, address.offset), (3, 4711));
        for wrong in ["orders", "orders/1", "orders/a/1", "orders/1/"] {
            assert!(wrong.parse::<Address>().unwrap_err().contains(wrong));
        }
    }
}
