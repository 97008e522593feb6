//! Decodes records of the cluster's metadata log (KIP-500, KIP-631): those for topics, configs,
//! ACLs, credentials and quotas. Pure.
//!
//! A record is a frame version, an api key and a version (unsigned varints), then the message in
//! the flexible format (KIP-482). The shapes are those of
//! `metadata/src/main/resources/common/metadata` in Kafka 4.2 and 4.3. Records of other types are
//! ignored, as are fields that a newer version appends to a known record.

use super::acl::AclBinding;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// SCRAM-SHA-512 in Kafka's encoding (KIP-554).
pub const SCRAM_SHA_512: i8 = 2;
/// Types of resources that have configs, in Kafka's encoding (KIP-133).
pub const TOPIC_RESOURCE: i8 = 2;
pub const BROKER_RESOURCE: i8 = 4;

/// A change of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataRecord {
    Topic {
        name: String,
        id: Uuid,
    },
    RemoveTopic {
        id: Uuid,
    },
    /// All fields of a partition.
    Partition {
        topic: Uuid,
        index: i32,
        state: PartitionFields,
    },
    /// The changed fields of a partition.
    PartitionChange {
        topic: Uuid,
        index: i32,
        state: PartitionFields,
    },
    /// `resource_type` is [`TOPIC_RESOURCE`] or another type. `value` is `None` when the config is
    /// reset to its default.
    Config {
        resource_type: i8,
        resource: String,
        key: String,
        value: Option<String>,
    },
    Acl {
        id: Uuid,
        acl: AclBinding,
    },
    RemoveAcl {
        id: Uuid,
    },
    Scram {
        user: String,
        mechanism: i8,
        fingerprint: Fingerprint,
    },
    RemoveScram {
        user: String,
        mechanism: i8,
    },
    /// `entity` has entity types and names (name `None`: the default of the type). `value` is
    /// `None` when the quota is removed.
    Quota {
        entity: Vec<(String, Option<String>)>,
        key: String,
        value: Option<f64>,
    },
    /// The level of a feature that is in force (KIP-584). 0: the feature is off.
    Feature {
        name: String,
        level: i16,
    },
    /// The records that follow take effect only with the end of the transaction (KIP-868).
    BeginTransaction,
    EndTransaction,
    AbortTransaction,
}

/// Fields of a partition; `None` if a record does not change the field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionFields {
    pub replicas: Option<Vec<i32>>,
    pub in_sync: Option<Vec<i32>>,
    pub removing: Option<Vec<i32>>,
    pub adding: Option<Vec<i32>>,
    pub leader: Option<i32>,
}

/// Identifies a SCRAM credential without revealing it: the first bytes of a hash of the stored key,
/// which is itself a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint of a stored key (RFC 5802).
    pub fn of(stored_key: &[u8]) -> Self {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&Sha256::digest(stored_key)[..8]);
        Self(bytes)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A record that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a metadata record ends early or has a length that cannot be")]
pub struct Unreadable;

type Read<T> = Result<T, Unreadable>;

/// Decodes the value of a record. `None`: a record type that Freehold does not need.
///
/// # Errors
/// The record is not in the format.
pub fn decode(bytes: &[u8]) -> Read<Option<MetadataRecord>> {
    let mut reader = Reader(bytes);
    let _frame_version = reader.varint()?;
    let (key, _version) = (reader.varint()?, reader.varint()?);
    Ok(Some(match key {
        2 => MetadataRecord::Topic {
            name: reader.string()?,
            id: reader.uuid()?,
        },
        3 => partition(&mut reader)?,
        4 => MetadataRecord::Config {
            resource_type: reader.i8()?,
            resource: reader.string()?,
            key: reader.string()?,
            value: reader.nullable_string()?,
        },
        5 => partition_change(&mut reader)?,
        9 => MetadataRecord::RemoveTopic { id: reader.uuid()? },
        11 => {
            let (user, mechanism, _salt, stored_key) = (
                reader.string()?,
                reader.i8()?,
                reader.bytes()?,
                reader.bytes()?,
            );
            MetadataRecord::Scram {
                user,
                mechanism,
                fingerprint: Fingerprint::of(stored_key),
            }
        }
        12 => MetadataRecord::Feature {
            name: reader.string()?,
            level: reader.i16()?,
        },
        14 => quota(&mut reader)?,
        18 => acl(&mut reader)?,
        19 => MetadataRecord::RemoveAcl { id: reader.uuid()? },
        22 => MetadataRecord::RemoveScram {
            user: reader.string()?,
            mechanism: reader.i8()?,
        },
        23 => MetadataRecord::BeginTransaction,
        24 => MetadataRecord::EndTransaction,
        25 => MetadataRecord::AbortTransaction,
        _ => return Ok(None),
    }))
}

fn partition(reader: &mut Reader<'_>) -> Read<MetadataRecord> {
    let (index, topic) = (reader.i32()?, reader.uuid()?);
    let mut ids = || reader.ids().map(Option::unwrap_or_default);
    let (replicas, in_sync, removing, adding) = (ids()?, ids()?, ids()?, ids()?);
    let leader = Some(reader.i32()?);
    let state = PartitionFields {
        replicas: Some(replicas),
        in_sync: Some(in_sync),
        removing: Some(removing),
        adding: Some(adding),
        leader,
    };
    Ok(MetadataRecord::Partition {
        topic,
        index,
        state,
    })
}

fn partition_change(reader: &mut Reader<'_>) -> Read<MetadataRecord> {
    let (index, topic) = (reader.i32()?, reader.uuid()?);
    let mut state = PartitionFields::default();
    for _ in 0..reader.varint()? {
        let (tag, size) = (reader.varint()?, reader.varint()?);
        let mut field = Reader(reader.take(size as usize)?);
        match tag {
            0 => state.in_sync = field.ids()?,
            1 => state.leader = Some(field.i32()?),
            2 => state.replicas = field.ids()?,
            3 => state.removing = field.ids()?,
            4 => state.adding = field.ids()?,
            _ => {}
        }
    }
    Ok(MetadataRecord::PartitionChange {
        topic,
        index,
        state,
    })
}

fn quota(reader: &mut Reader<'_>) -> Read<MetadataRecord> {
    let mut entity = Vec::new();
    for _ in 0..reader.varint()?.saturating_sub(1) {
        entity.push((reader.string()?, reader.nullable_string()?));
        reader.tags()?;
    }
    let (key, value, removed) = (
        reader.string()?,
        f64::from_be_bytes(reader.array()?),
        reader.i8()? != 0,
    );
    Ok(MetadataRecord::Quota {
        entity,
        key,
        value: (!removed).then_some(value),
    })
}

fn acl(reader: &mut Reader<'_>) -> Read<MetadataRecord> {
    let id = reader.uuid()?;
    let acl = AclBinding {
        resource_type: reader.i8()?,
        resource_name: reader.string()?,
        pattern_type: reader.i8()?,
        principal: reader.string()?,
        host: reader.string()?,
        operation: reader.i8()?,
        permission: reader.i8()?,
    };
    Ok(MetadataRecord::Acl { id, acl })
}

/// The bytes that are left to read. Every length is checked against them before memory is
/// allocated.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Unreadable)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Unreadable)
    }

    fn i16(&mut self) -> Read<i16> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn i8(&mut self) -> Read<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn uuid(&mut self) -> Read<Uuid> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// Seven bits in each byte, the lowest first.
    fn varint(&mut self) -> Read<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = u32::from(self.array::<1>()?[0]);
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    /// The varint is the length plus one; 0 means null.
    fn nullable_bytes(&mut self) -> Read<Option<&'a [u8]>> {
        match self.varint()? {
            0 => Ok(None),
            length => self.take(length as usize - 1).map(Some),
        }
    }

    fn bytes(&mut self) -> Read<&'a [u8]> {
        self.nullable_bytes()?.ok_or(Unreadable)
    }

    fn nullable_string(&mut self) -> Read<Option<String>> {
        let text = |bytes: &[u8]| {
            std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|_| Unreadable)
        };
        self.nullable_bytes()?.map(text).transpose()
    }

    fn string(&mut self) -> Read<String> {
        self.nullable_string()?.ok_or(Unreadable)
    }

    fn ids(&mut self) -> Read<Option<Vec<i32>>> {
        let Some(count) = self.varint()?.checked_sub(1) else {
            return Ok(None);
        };
        let ids = self.take((count as usize).checked_mul(4).ok_or(Unreadable)?)?;
        Ok(Some(
            ids.chunks_exact(4)
                .map(|id| i32::from_be_bytes([id[0], id[1], id[2], id[3]]))
                .collect(),
        ))
    }

    fn tags(&mut self) -> Read<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let size = self.varint()?;
            self.take(size as usize)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: [u8; 16] = [7; 16];

    fn frame(key: u8, version: u8, body: &[&[u8]]) -> Vec<u8> {
        [&[1, key, version], body.concat().as_slice()].concat()
    }

    #[test]
    fn a_topic_and_its_config_are_read() {
        let topic = frame(2, 0, &[&[4], b"abc", &ID, &[0]]);
        assert_eq!(
            decode(&topic),
            Ok(Some(MetadataRecord::Topic {
                name: "abc".into(),
                id: Uuid::from_bytes(ID)
            }))
        );
        let removed = frame(4, 0, &[&[2, 4], b"abc", &[2], b"k", &[0, 0]]);
        let config = MetadataRecord::Config {
            resource_type: 2,
            resource: "abc".into(),
            key: "k".into(),
            value: None,
        };
        assert_eq!(decode(&removed), Ok(Some(config)));
    }

    #[test]
    fn a_change_of_a_partition_says_only_what_changed() {
        let change = frame(
            5,
            0,
            &[
                &1_i32.to_be_bytes(),
                &ID,
                &[2],
                &[1, 4],
                &9_i32.to_be_bytes(),
                &[2, 5, 2],
                &3_i32.to_be_bytes(),
            ],
        );
        let state = PartitionFields {
            replicas: Some(vec![3]),
            leader: Some(9),
            ..PartitionFields::default()
        };
        assert_eq!(
            decode(&change),
            Ok(Some(MetadataRecord::PartitionChange {
                topic: Uuid::from_bytes(ID),
                index: 1,
                state
            }))
        );
    }

    #[test]
    fn other_records_are_passed_over_and_short_ones_are_errors() {
        assert_eq!(decode(&frame(20, 0, &[])), Ok(None));
        assert_eq!(decode(&frame(2, 0, &[&[200], b"abc"])), Err(Unreadable));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }
    }
}
