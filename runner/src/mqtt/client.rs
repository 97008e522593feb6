//! A connection to a broker that has taken the client in.

use std::path::Path;

use freehold_pipeline::endpoint::MqttBroker;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::PATIENCE;
use super::connect::{Stream, open};
use super::granted::Granted;
use super::packet::{Login, Session, connect};
use super::reader::{Packet, ReadError, Reader};
use super::reason::refused;
use crate::process::secret;

/// Bytes that the broker must have taken within [`PATIENCE`]: a slow line is no failure.
const PIECE_BYTES: usize = 16 << 10;

/// Who connects, and where its Secrets are.
pub struct Who<'a> {
    pub client_id: &'a str,
    pub session: Session,
    pub secrets: &'a Path,
}

/// A connection.
pub struct Client {
    pub reader: Reader<ReadHalf<Box<dyn Stream>>>,
    pub granted: Granted,
    /// The broker has kept the session of an earlier connection.
    pub is_known: bool,
    writer: WriteHalf<Box<dyn Stream>>,
}

impl Client {
    /// Connects. User, password and CA are read from their files. Payloads above `bytes_max` are
    /// not kept.
    ///
    /// # Errors
    /// Why there is no connection, in words, without a secret.
    pub async fn open(
        broker: &MqttBroker,
        who: &Who<'_>,
        bytes_max: usize,
    ) -> Result<Self, String> {
        let login = match &broker.basic {
            None => None,
            Some(basic) => {
                let of = |key| secret(who.secrets, &basic.name, key);
                Some((of("username")?, of("password")?))
            }
        };
        let (reader, writer) = tokio::io::split(open(broker, who.secrets).await?);
        let mut client = Self {
            reader: Reader::new(reader, broker.version, bytes_max),
            granted: Granted::default(),
            is_known: false,
            writer,
        };
        let login = Login {
            client_id: who.client_id,
            session: who.session,
            basic: login
                .as_ref()
                .map(|(user, password)| (&user[..], &password[..])),
        };
        client.send(&connect(broker.version, &login)).await?;
        match client.answer().await? {
            Packet::Connected {
                code: 0,
                is_known,
                granted,
            } => (client.is_known, client.granted) = (is_known, granted),
            Packet::Connected { code, .. } => return Err(refused(code)),
            _ => return Err("the broker does not answer CONNECT".to_owned()),
        }
        Ok(client)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The broker does not take them.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let sent = async {
                self.writer.write_all(piece).await?;
                self.writer.flush().await
            };
            match timeout(PATIENCE, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(ReadError::Io(error).to_string()),
                Err(_) => return Err("the broker does not read".to_owned()),
            }
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<Packet, String> {
        let packet = timeout(PATIENCE, self.reader.next()).await;
        let packet = packet.map_err(|_| "the broker does not answer".to_owned())?;
        packet.map_err(|error| error.to_string())
    }
}
