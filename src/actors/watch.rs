//! Starting an actor so that its end is learned of.
//!
//! actix's own Supervisor neither notices a panic nor waits before it starts an actor
//! again. So each child is a task of its own, whose handle is awaited.

use std::any::Any;

use actix::{Actor, Addr, AsyncContext, Context};
use actix_rt::task::JoinHandle;

use super::messages::Exit;

/// Starts `actor`. It does nothing before the caller yields, so its address can be
/// published first.
pub(super) fn launch<A>(actor: A) -> (Addr<A>, JoinHandle<()>)
where
    A: Actor<Context = Context<A>>,
{
    let context = Context::new();
    let address = context.address();
    (address, actix_rt::spawn(context.into_future(actor)))
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
