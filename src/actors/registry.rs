//! Where each actor is reached just now, by the messages that it answers. Only the Supervisor
//! writes it.
//!
//! A sender names a message and, where an actor exists for each app or partition, which of
//! them is meant; it knows no actor's type. So actors import messages and not each other.
//! An address is looked up when it is used, never kept: a fresh actor has a new one.

use std::any::{Any, TypeId};
use std::fmt;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use dashmap::DashMap;

use crate::kafka::TopicPartition;
use crate::model::ids::AppId;

/// Which actor of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// The only one of this instance.
    Instance,
    /// That of an app.
    App(AppId),
    /// That of a partition.
    Partition(TopicPartition),
}

impl From<AppId> for Scope {
    fn from(app: AppId) -> Self {
        Self::App(app)
    }
}

impl From<TopicPartition> for Scope {
    fn from(partition: TopicPartition) -> Self {
        Self::Partition(partition)
    }
}

/// The recipient of each message of each actor.
#[derive(Default)]
pub(super) struct Registry(DashMap<Key, Erased>);

/// A message, and which of the actors that answer it.
pub(super) type Key = (TypeId, Scope);

/// The `Recipient` of the key's message.
type Erased = Box<dyn Any + Send + Sync>;

/// What one actor answers, for the registry.
pub(super) struct Routes<A: Actor> {
    address: Addr<A>,
    scope: Scope,
    recipients: Vec<(Key, Erased)>,
}

impl Registry {
    /// Enters what an actor answers, in the place of its predecessor.
    pub(super) fn register<A: Actor>(&self, routes: Routes<A>) -> Vec<Key> {
        let enter = |(key, recipient): (Key, Erased)| {
            self.0.insert(key.clone(), recipient);
            key
        };
        routes.recipients.into_iter().map(enter).collect()
    }

    /// Removes an actor that has left.
    pub(super) fn remove(&self, keys: &[Key]) {
        for key in keys {
            self.0.remove(key);
        }
    }

    /// Says something that may be lost without harm: its doc comment tells why.
    pub(super) fn notify<M: Notification>(&self, message: M) {
        self.notify_scope(Scope::Instance, message);
    }

    /// The same to the actor of an app or partition.
    pub(super) fn notify_scope<M: Notification>(&self, scope: impl Into<Scope>, message: M) {
        self.with::<M, _>(scope.into(), |recipient| notify_recipient(recipient, message));
    }

    /// The same to the actors of all apps or partitions that answer it.
    pub(super) fn notify_all<M: Notification + Clone>(&self, message: &M) {
        for entry in self.0.iter().filter(|entry| entry.key().0 == TypeId::of::<M>()) {
            if let Some(recipient) = entry.value().downcast_ref::<Recipient<M>>() {
                notify_recipient(recipient, message.clone());
            }
        }
    }

    /// Asks the actor of an app or partition, or the only one. The question is on its way
    /// before the answer is awaited. `None`: there is no such actor, or it died.
    pub(super) fn ask<M, S: Into<Scope>>(
        &self,
        scope: S,
        message: M,
    ) -> impl Future<Output = Option<M::Result>> + Send + use<M, S>
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let asked = self.with::<M, _>(scope.into(), |recipient| recipient.send(message));
        async move { asked?.await.ok() }
    }

    /// Whether there is an actor that answers `M`, dead or alive.
    pub(super) fn is_registered<M: 'static>(&self, scope: impl Into<Scope>) -> bool {
        self.0.contains_key(&(TypeId::of::<M>(), scope.into()))
    }

    /// Whether the actor that answers `M` is alive.
    pub(super) fn is_alive<M>(&self, scope: impl Into<Scope>) -> bool
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        self.with::<M, _>(scope.into(), Recipient::connected).unwrap_or(false)
    }

    fn with<M, T>(&self, scope: Scope, use_it: impl FnOnce(&Recipient<M>) -> T) -> Option<T>
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let entry = self.0.get(&(TypeId::of::<M>(), scope))?;
        entry.value().downcast_ref().map(use_it)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.0.len()).finish()
    }
}

/// A message without an answer.
pub(super) trait Notification: Message<Result = ()> + Send + 'static {}

impl<M: Message<Result = ()> + Send + 'static> Notification for M {}

impl<A: Actor> Routes<A> {
    /// Nothing yet.
    pub(super) fn of(address: Addr<A>, scope: Scope) -> Self {
        Self { address, scope, recipients: Vec::new() }
    }

    /// Its address is where `M` goes.
    pub(super) fn handles<M>(mut self) -> Self
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let key = (TypeId::of::<M>(), self.scope.clone());
        let recipient: Recipient<M> = self.address.clone().recipient();
        self.recipients.push((key, Box::new(recipient)));
        self
    }
}

/// Says something that may be lost without harm.
#[allow(clippy::disallowed_methods, reason = "the one place for messages that may be lost")]
pub(super) fn notify_recipient<M: Notification>(recipient: &Recipient<M>, message: M) {
    recipient.do_send(message);
}

#[cfg(test)]
mod tests {
    use actix::{Context, MessageResult};

    use super::*;

    struct Echo;

    impl Actor for Echo {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Question(u32);

    impl Handler<Question> for Echo {
        type Result = MessageResult<Question>;

        fn handle(&mut self, question: Question, _: &mut Context<Self>) -> Self::Result {
            MessageResult(question.0)
        }
    }

    #[test]
    fn a_message_reaches_the_actor_of_its_scope_until_that_is_removed() {
        actix::System::new().block_on(reach_and_remove());
    }

    async fn reach_and_remove() {
        let registry = Registry::default();
        let register =
            |scope: Scope| registry.register(Routes::of(Echo.start(), scope).handles::<Question>());
        let keys = register(AppId(1).into());
        assert_eq!(registry.ask(AppId(1), Question(7)).await, Some(7));
        assert_eq!(registry.ask(AppId(2), Question(7)).await, None, "of another app");
        assert_eq!(registry.ask(Scope::Instance, Question(7)).await, None);
        assert!(registry.is_alive::<Question>(AppId(1)));
        registry.remove(&keys);
        assert!(!registry.is_registered::<Question>(AppId(1)));
        assert_eq!(registry.ask(AppId(1), Question(7)).await, None);
    }
}
