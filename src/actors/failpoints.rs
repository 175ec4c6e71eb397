//! Panics on request, for tests of supervision. Compiled only with the feature `failpoints`.

use std::sync::Arc;

use actix::fut::wrap_future;
use actix::{Actor, AsyncContext, Context, Message};
use tokio::sync::Notify;

/// Makes one actor panic when a test requests it.
#[derive(Clone, Debug)]
pub(super) struct Fault(Arc<Notify>);

impl Fault {
    /// Prepares the actor that will run in `context`.
    pub(super) fn armed<A>(mut context: Context<A>) -> (Context<A>, Self)
    where
        A: Actor<Context = Context<A>>,
    {
        let requested = Arc::new(Notify::new());
        let fault = Self(requested.clone());
        let panic = async move {
            requested.notified().await;
            panic!("a test injected a fault")
        };
        context.spawn(wrap_future::<_, A>(panic));
        (context, fault)
    }

    /// Makes the actor panic the next time it is polled.
    pub(super) fn inject(&self) {
        self.0.notify_one();
    }
}

/// Test → Supervisor: make every actor panic whose role begins with this. The reply is their
/// number.
#[derive(Clone, Debug, Message)]
#[rtype(result = "usize")]
pub(crate) struct Break(pub String);
