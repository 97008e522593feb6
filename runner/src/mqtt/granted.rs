//! What a broker of version 5 grants to a connection (MQTT 5.0, section 3.2.2.3).

use bytes::{Buf as _, Bytes};

use super::reader::ReadError;

/// The limits of a connection. A broker of version 3.1.1 names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Messages that the broker takes without having acknowledged them, at most.
    pub receive_max: u16,
    /// Bytes of one packet, at most.
    pub packet_bytes_max: Option<u32>,
    /// The highest QoS at which it takes messages.
    pub qos_max: u8,
    /// Whether several clients can share a subscription.
    pub shares: bool,
}

impl Default for Granted {
    fn default() -> Self {
        Self {
            receive_max: u16::MAX,
            packet_bytes_max: None,
            qos_max: 2,
            shares: true,
        }
    }
}

impl Granted {
    /// Reads the properties of CONNACK.
    ///
    /// # Errors
    /// They are not properties.
    pub fn of(mut properties: Bytes) -> Result<Self, ReadError> {
        let mut granted = Self::default();
        let short = |_| ReadError::Malformed("properties");
        while !properties.is_empty() {
            match properties.get_u8() {
                0x21 => granted.receive_max = properties.try_get_u16().map_err(short)?.max(1),
                0x24 => granted.qos_max = properties.try_get_u8().map_err(short)?,
                0x27 => {
                    granted.packet_bytes_max = Some(properties.try_get_u32().map_err(short)?);
                }
                0x2a => granted.shares = properties.try_get_u8().map_err(short)? != 0,
                other => skip(other, &mut properties)?,
            }
        }
        Ok(granted)
    }
}

/// Skips the value of another property (MQTT 5.0, table 2-4).
fn skip(property: u8, rest: &mut Bytes) -> Result<(), ReadError> {
    let wrong = || ReadError::Malformed("properties");
    let text = |at: usize| -> Result<usize, ReadError> {
        let length = rest.get(at..at + 2).ok_or_else(wrong)?;
        Ok(at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]])))
    };
    let bytes = match property {
        0x25 | 0x28 | 0x29 => 1,
        0x13 | 0x22 => 2,
        0x11 => 4,
        0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => text(0)?,
        0x26 => text(text(0)?)?,
        _ => return Err(wrong()),
    };
    if bytes > rest.len() {
        return Err(wrong());
    }
    rest.advance(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> Option<Granted> {
        Granted::of(Bytes::copy_from_slice(bytes)).ok()
    }

    #[test]
    fn limits_are_found_among_other_properties() {
        let all = b"\x12\0\x01c\x26\0\x01a\0\x02bc\x13\0\x0a\x2a\0\x11\0\0\0\x01\
            \x21\0\x14\x24\x01\x27\0\x01\0\0\x16\0\x01x";
        let expected = Granted {
            receive_max: 20,
            packet_bytes_max: Some(65_536),
            qos_max: 1,
            shares: false,
        };
        assert_eq!(of(all), Some(expected));
        assert_eq!(of(b""), Some(Granted::default()));
        for wrong in [&b"\x21\0"[..], b"\x26\0\x01a\0", b"\x12\0\x09c", b"\x7f"] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_limits_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert!(of(&bytes).is_none_or(|granted| granted.receive_max > 0));
        }
    }
}
