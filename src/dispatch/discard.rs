//! The handler that does nothing, for trials and benchmarks.

use super::{JobContext, JobError, JobHandler};

/// Every job succeeds at once, without any effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl JobHandler for Discard {
    async fn execute(&self, _ctx: &JobContext) -> Result<(), JobError> {
        Ok(())
    }

    fn name(&self) -> &str {
        "discard"
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::tests::context;
    use super::*;

    #[tokio::test]
    async fn every_job_succeeds() {
        assert_eq!(Discard.execute(&context("{}")).await, Ok(()));
    }
}
