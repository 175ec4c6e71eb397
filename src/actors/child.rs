//! Starting an actor so that its end is learned of.
//!
//! actix's own Supervisor neither notices a panic nor waits before it starts an actor
//! again. So each child is a task of its own, whose handle is awaited.

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

/// An actor that the Supervisor starts and replaces.
pub(super) trait Child: Actor<Context = Context<Self>> + Handler<Report> {
    /// What logs call its kind.
    const KIND: &'static str;

    /// Which of its kind it is.
    fn scope(&self) -> Scope {
        Scope::Instance
    }

    /// Adds every message that others send it: one that is missing here does not reach it.
    fn routes(routes: Routes<Self>) -> Routes<Self>;
}

/// Makes a child, and another one when that has ended.
pub(super) type Factory = Box<dyn FnMut(&Arc<Instance>) -> Launched>;

/// What an actor is for.
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

/// A child that was started. It does nothing before the Supervisor yields.
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
    /// It was asked to leave and did.
    Drained,
    /// It stopped by itself.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

/// A factory of the only actor of a kind.
pub(super) fn single<A: Child>(new: fn(Arc<Instance>) -> A) -> Factory {
    Box::new(move |instance| launch(instance, new(instance.clone())))
}

/// Starts `actor`. It is in the registry before it does anything: nothing that it causes can
/// miss it.
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

/// Waits for the end of a child.
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
