//! Starts actors in a way that makes their end observable.
//!
//! actix's own Supervisor neither notices a panic nor waits before it restarts an actor. Therefore
//! each child runs in a task of its own, whose handle is awaited.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use actix::{Actor, AsyncContext, Context, Handler, Recipient};
use actix_rt::task::JoinHandle;

#[cfg(feature = "failpoints")]
use super::failpoints::Fault;
use super::instance::Instance;
use super::messages::Report;
use super::registry::{Key, Routes, Scope};

/// An actor that the Supervisor starts and restarts.
pub(super) trait Child: Actor<Context = Context<Self>> + Handler<Report> {
    /// The name of this kind of actor in logs.
    const KIND: &'static str;

    /// Which actor of its kind this is.
    fn scope(&self) -> Scope {
        Scope::Instance
    }

    /// Registers every message that other actors send to this one; a message that is missing here
    /// is not delivered.
    fn routes(routes: Routes<Self>) -> Routes<Self>;
}

/// Starts a child, and starts it again after it has ended.
pub(super) type Factory = Box<dyn FnMut(&Arc<Instance>) -> Launched>;

/// Identifies an actor across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Role {
    pub(super) kind: &'static str,
    pub(super) scope: Scope,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::Instance => f.write_str(self.kind),
            Scope::App(app) => write!(f, "{} {app}", self.kind),
            Scope::Partition(partition) => write!(f, "{} {partition}", self.kind),
        }
    }
}

/// A child that was started. It does nothing before the Supervisor yields to the runtime.
pub(super) struct Launched {
    pub(super) role: Role,
    /// Its entries in the registry.
    pub(super) keys: Vec<Key>,
    pub(super) report: Recipient<Report>,
    #[cfg(feature = "failpoints")]
    pub(super) fault: Fault,
    pub(super) handle: JoinHandle<()>,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It was asked to stop.
    Drained,
    /// It stopped by itself.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

/// A factory for an actor that exists once per instance.
pub(super) fn single<A: Child>(new: fn(Arc<Instance>) -> A) -> Factory {
    Box::new(move |instance| launch(instance, new(instance.clone())))
}

/// Starts `actor`. It is registered before it runs, so that replies to its first messages reach it.
pub(super) fn launch<A: Child>(instance: &Instance, actor: A) -> Launched {
    let role = Role { kind: A::KIND, scope: actor.scope() };
    let context = Context::new();
    #[cfg(feature = "failpoints")]
    let (context, fault) = Fault::armed(context);
    let address = context.address();
    let routes = A::routes(Routes::of(address.clone(), role.scope.clone()));
    Launched {
        role,
        keys: instance.registry.register(routes),
        report: address.recipient(),
        #[cfg(feature = "failpoints")]
        fault,
        handle: actix_rt::spawn(context.into_future(actor)),
    }
}

/// Waits until a child has ended.
pub(super) async fn exit_of(child: JoinHandle<()>) -> Exit {
    match child.await {
        Ok(()) => Exit::Failed("stopped without being asked".into()),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Exit::Panicked(panic_text(&*panic)),
            Err(error) => Exit::Failed(error.to_string()),
        },
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
