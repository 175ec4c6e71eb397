//! The form that does nothing, for trying out and for measuring.

use super::{JobContext, JobError, JobHandler};

/// Every job succeeds at once and goes nowhere.
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
