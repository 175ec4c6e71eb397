//! What the integration tests share: services, databases, topics, processes and a proxy in between.

// Every helper is here for the module that needs it, whether or not that module exists yet.
#![allow(dead_code)]

pub(crate) mod attempts;
pub(crate) mod clock;
pub(crate) mod fixture;
pub(crate) mod kafka;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod servers;
pub(crate) mod services;
pub(crate) mod world;

use std::time::{Duration, Instant};

/// Whether tests are to take their long form (`tests/run long`).
pub(crate) fn is_long() -> bool {
    std::env::var_os("INFINITE_SCHEDULER_TEST_LONG").is_some()
}

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
/// After `deadline`, naming `what` it waited for.
pub(crate) async fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) {
    wait_for(deadline, what, async || condition().await.then_some(())).await;
}

/// Waits until `attempt` gives a value, and returns it.
///
/// # Panics
/// After `deadline`, naming `what` it waited for.
pub(crate) async fn wait_for<T>(
    deadline: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    // The condition itself may hang, on a held connection for instance: the deadline covers that too.
    let outcome = tokio::time::timeout(deadline, async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            // The only sleep of the tests: everything else waits for a condition.
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    });
    match outcome.await {
        Ok(value) => value,
        Err(_) => panic!("waited {:.1} s for {what}, in vain", started.elapsed().as_secs_f64()),
    }
}

mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn waiting_ends_when_the_condition_holds() {
        let mut asked = 0;
        wait_until(Duration::from_secs(5), "the third time", async || {
            asked += 1;
            asked == 3
        })
        .await;
        assert_eq!(asked, 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[should_panic(expected = "for a miracle, in vain")]
    async fn waiting_in_vain_names_what_it_waited_for() {
        wait_until(Duration::from_millis(50), "a miracle", async || false).await;
    }
}

/// Makes a module of each test function with a test on each database, to which the function is
/// called with that [`Database`](services::Database). `with_mysql` adds MySQL, which otherwise
/// counts as MariaDB.
macro_rules! on_each_database {
    (with_mysql: $($test:ident)+) => {$(
        mod $test {
            $crate::support::on_each_database!(@ $test on_sqlite Sqlite);
            $crate::support::on_each_database!(@ $test on_mariadb MariaDb);
            $crate::support::on_each_database!(@ $test on_mysql MySql);
            $crate::support::on_each_database!(@ $test on_postgres Postgres);
        }
    )+};
    (@ $test:ident $name:ident $database:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            super::$test($crate::support::services::Database::$database).await;
        }
    };
    ($($test:ident)+) => {$(
        mod $test {
            $crate::support::on_each_database!(@ $test on_sqlite Sqlite);
            $crate::support::on_each_database!(@ $test on_mariadb MariaDb);
            $crate::support::on_each_database!(@ $test on_postgres Postgres);
        }
    )+};
}
pub(crate) use on_each_database;
