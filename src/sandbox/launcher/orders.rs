//! What a new interpreter is told, and what it says to it.

use std::collections::BTreeMap;
use std::io;

use actors::world::LaunchError;
use serde::{Deserialize, Serialize};

use super::{Program, failed};
use crate::frame::{BrokenFrame, Kind, PROTOCOL};
use crate::sandbox::channel::{Channel, ChannelError};
use crate::sandbox::mounter::HANDLER;

/// `LOAD` and `ZYGOTE`, as the protocol has them.
#[derive(Serialize)]
struct Order<'a> {
    protocol: u32,
    name: &'a str,
    directory: &'a str,
    entry: &'a str,
    environment: &'a BTreeMap<String, String>,
    packages: &'a [String],
}

/// `ZYGOTE` for packages, as the protocol has it.
#[derive(Serialize)]
pub(super) struct PlantOrder<'a> {
    pub(super) protocol: u32,
    pub(super) packages: &'a [String],
}

/// `RENEW`, as the protocol has it.
#[derive(Serialize)]
struct Renewal {
    random: String,
}

/// `READY`, as far as the worker cares.
#[derive(Deserialize)]
pub(super) struct Ready {
    pub(super) protocol: u32,
    pub(super) head: bool,
    pub(super) entry: String,
    #[serde(default)]
    pub(super) end: bool,
    /// In answer to `ZYGOTE`: why it must not be forked.
    #[serde(default)]
    pub(super) unforkable: Option<String>,
    /// In answer to `ZYGOTE` for packages.
    #[serde(default)]
    pub(super) held: BTreeMap<String, f64>,
    #[serde(default)]
    pub(super) grown: BTreeMap<String, u64>,
}

/// What comes of an order.
pub(super) enum Answer {
    Ready(Ready),
    LoadFailed(String),
}

/// Waits for it.
pub(super) async fn receive_ready(channel: &mut Channel) -> Result<Answer, ChannelError> {
    let answer = channel.receive().await?;
    match answer.header.kind {
        Kind::Ready => {
            let ready: Ready = serde_json::from_slice(&answer.body)
                .map_err(|_| BrokenFrame("READY is not what it should be"))?;
            if ready.protocol != PROTOCOL {
                return Err(BrokenFrame("another version of the protocol").into());
            }
            Ok(Answer::Ready(ready))
        }
        Kind::LoadFailed => Ok(Answer::LoadFailed(String::from_utf8_lossy(&answer.body).into_owned())),
        _ => Err(BrokenFrame("an answer to nothing").into()),
    }
}

fn random_hex() -> io::Result<String> {
    let mut bytes = [0u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Program {
    /// What goes with a frame that has it loaded.
    pub(super) fn order(&self, kind: Kind) -> Result<Vec<u8>, LaunchError> {
        if kind == Kind::Renew {
            let random = random_hex().map_err(failed("read random bytes"))?;
            return serde_json::to_vec(&Renewal { random })
                .map_err(|error| LaunchError::Failed(error.to_string()));
        }
        let order = Order {
            protocol: PROTOCOL,
            name: self.name.as_str(),
            directory: HANDLER,
            entry: &self.entry,
            environment: &self.environment,
            packages: &self.packages,
        };
        serde_json::to_vec(&order).map_err(|error| LaunchError::Failed(error.to_string()))
    }
}
