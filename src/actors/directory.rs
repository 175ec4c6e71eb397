//! Where each actor can be reached just now. Only the Supervisor writes it.
//!
//! An address is looked up when it is used, never kept: a fresh actor has a new one.

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use dashmap::DashMap;

use super::app_scheduler::AppScheduler;
use super::dedup::Dedup;
use super::janitor::Janitor;
use super::outcomes::Outcomes;
use super::reader::PartitionReader;
use super::retry_dlq::RetryDlq;
use super::shard_keeper::ShardKeeper;
use crate::kafka::TopicPartition;
use crate::model::ids::AppId;

/// What an actor is there for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Dedup,
    RetryDlq,
    Outcomes,
    ShardKeeper,
    Janitor,
    App(AppId),
    Reader(TopicPartition),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dedup => f.write_str("dedup"),
            Self::RetryDlq => f.write_str("retry-dlq"),
            Self::Outcomes => f.write_str("outcomes"),
            Self::ShardKeeper => f.write_str("shard-keeper"),
            Self::Janitor => f.write_str("janitor"),
            Self::App(app) => write!(f, "app-scheduler {app}"),
            Self::Reader(partition) => write!(f, "partition-reader {partition}"),
        }
    }
}

/// An address of whichever kind.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Dedup(Addr<Dedup>),
    RetryDlq(Addr<RetryDlq>),
    Outcomes(Addr<Outcomes>),
    ShardKeeper(Addr<ShardKeeper>),
    Janitor(Addr<Janitor>),
    App(Addr<AppScheduler>),
    Reader(Addr<PartitionReader>),
}

/// Every actor's current address.
#[derive(Debug, Default)]
pub(super) struct Directory(DashMap<Role, Address>);

macro_rules! typed {
    ($name:ident, $variant:ident, $actor:ty $(, $arg:ident: $of:ty)?) => {
        pub(super) fn $name(&self $(, $arg: $of)?) -> Option<Addr<$actor>> {
            match self.0.get(&Role::$variant $(($arg))?)?.value() {
                Address::$variant(address) => Some(address.clone()),
                _ => None,
            }
        }
    };
}

impl Directory {
    typed!(dedup, Dedup, Dedup);
    typed!(retry_dlq, RetryDlq, RetryDlq);
    typed!(outcomes, Outcomes, Outcomes);
    typed!(shard_keeper, ShardKeeper, ShardKeeper);
    typed!(app, App, AppScheduler, app: AppId);
    typed!(reader, Reader, PartitionReader, partition: TopicPartition);

    pub(super) fn publish(&self, role: Role, address: Address) {
        self.0.insert(role, address);
    }

    pub(super) fn remove(&self, role: &Role) {
        self.0.remove(role);
    }

    pub(super) fn all(&self) -> Vec<(Role, Address)> {
        self.0.iter().map(|entry| (entry.key().clone(), entry.value().clone())).collect()
    }
}

/// Says something that may be lost without harm: its doc comment tells why.
#[allow(clippy::disallowed_methods, reason = "the one place for messages that may be lost")]
pub(super) fn hint<A, M>(to: Option<Addr<A>>, message: M)
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message<Result = ()> + Send + 'static,
{
    if let Some(address) = to {
        address.do_send(message);
    }
}
