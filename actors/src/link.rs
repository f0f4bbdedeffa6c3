//! The way to an actor that may be replaced.
//!
//! A panic ends an actor and its address. Those who were given a [`Link`] through their constructor reach
//! the successor as soon as the supervisor has started it, and nobody has to look anything up.

use std::sync::{Arc, PoisonError, RwLock};

use actix::dev::{MessageResponse, ToEnvelope};
use actix::prelude::{Request, SendError};
use actix::{Actor, Addr, Handler, Message};

/// An address that the supervisor can point at a successor. Cheap to clone.
pub struct Link<A: Actor>(Arc<RwLock<Addr<A>>>);

impl<A: Actor> Clone for Link<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Actor> Link<A> {
    /// A link to this actor.
    #[must_use]
    pub fn new(addr: Addr<A>) -> Self {
        Self(Arc::new(RwLock::new(addr)))
    }

    /// Where it leads now.
    #[must_use]
    pub fn addr(&self) -> Addr<A> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Send, and await the answer. An error means that the actor has just died; its successor is not there yet,
    /// or has not got this message.
    pub fn ask<M>(&self, message: M) -> Request<A, M>
    where
        M: Message + Send + 'static,
        M::Result: MessageResponse<A, M> + Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.addr().send(message)
    }

    /// Send without waiting.
    ///
    /// # Errors
    /// `Full` or `Closed`, with the message.
    pub fn try_tell<M>(&self, message: M) -> Result<(), SendError<M>>
    where
        M: Message + Send + 'static,
        M::Result: MessageResponse<A, M> + Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.addr().try_send(message)
    }

    /// From now on it leads to the successor. The supervisor's to call.
    pub(crate) fn replace(&self, successor: Addr<A>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = successor;
    }
}
