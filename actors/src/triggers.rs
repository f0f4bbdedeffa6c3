//! What is said to all that calls functions without a client: [`Cron`](crate::cron::Cron) and [`Kafka`](crate::kafka::Kafka).
//!
//! Both read the routing table when they are told, so that it does not matter in which order that is, or how often.

use actix::Message;

use crate::name::FunctionName;

/// Something has happened to this function.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Reconsider {
    /// Which.
    pub name: FunctionName,
}

/// Make no more calls. What has begun goes on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Close;
