//! Finds the actor that handles a message. Only the Supervisor changes the registry.
//!
//! A sender names the message and, for actors that exist once per app or partition, the app or
//! partition; it does not know the actor's type. Therefore actors import messages and not each
//! other. Addresses are looked up for each message and never stored, since a restarted actor has a
//! new one.

use std::any::{Any, TypeId};
use std::fmt;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use dashmap::DashMap;

use crate::kafka::TopicPartition;
use crate::model::ids::AppId;

/// Distinguishes the actors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// The actor exists once per instance.
    Instance,
    /// The actor of an app.
    App(AppId),
    /// The actor of a partition.
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

/// The recipient of each message, by type and scope.
#[derive(Default)]
pub(super) struct Registry(DashMap<Key, Erased>);

/// The type of a message, and the scope of the actor that handles it.
pub(super) type Key = (TypeId, Scope);

/// The `Recipient` for the message of the key.
type Erased = Box<dyn Any + Send + Sync>;

/// The messages that one actor handles.
pub(super) struct Routes<A: Actor> {
    address: Addr<A>,
    scope: Scope,
    recipients: Vec<(Key, Erased)>,
}

impl Registry {
    /// Registers the messages of an actor, and replaces those of its predecessor.
    pub(super) fn register<A: Actor>(&self, routes: Routes<A>) -> Vec<Key> {
        let enter = |(key, recipient): (Key, Erased)| {
            self.0.insert(key.clone(), recipient);
            key
        };
        routes.recipients.into_iter().map(enter).collect()
    }

    /// Removes the entries of an actor that was stopped.
    pub(super) fn remove(&self, keys: &[Key]) {
        for key in keys {
            self.0.remove(key);
        }
    }

    /// Sends a message that may be lost; its doc comment says why that is harmless.
    pub(super) fn notify<M: Notification>(&self, message: M) {
        self.notify_scope(Scope::Instance, message);
    }

    /// The same, to the actor of an app or partition.
    pub(super) fn notify_scope<M: Notification>(&self, scope: impl Into<Scope>, message: M) {
        self.with::<M, _>(scope.into(), |recipient| notify_recipient(recipient, message));
    }

    /// The same, to the actors of all apps or partitions that handle it.
    pub(super) fn notify_all<M: Notification + Clone>(&self, message: &M) {
        for entry in self.0.iter().filter(|entry| entry.key().0 == TypeId::of::<M>()) {
            if let Some(recipient) = entry.value().downcast_ref::<Recipient<M>>() {
                notify_recipient(recipient, message.clone());
            }
        }
    }

    /// Sends a message and returns a future of the reply. The message is sent even before the
    /// future is polled. Resolves to `None` if there is no such actor, or it stops before it
    /// replies.
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

    /// Whether an actor for `M` is registered, even if it has panicked and waits for its restart.
    pub(super) fn is_registered<M: 'static>(&self, scope: impl Into<Scope>) -> bool {
        self.0.contains_key(&(TypeId::of::<M>(), scope.into()))
    }

    /// Whether the actor for `M` is running.
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

/// A message without a reply.
pub(super) trait Notification: Message<Result = ()> + Send + 'static {}

impl<M: Message<Result = ()> + Send + 'static> Notification for M {}

impl<A: Actor> Routes<A> {
    /// No messages yet.
    pub(super) fn of(address: Addr<A>, scope: Scope) -> Self {
        Self { address, scope, recipients: Vec::new() }
    }

    /// Adds the message `M`.
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

/// Sends a message that may be lost.
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
