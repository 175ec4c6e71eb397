//! Checks that all instances use the same version of the time zone database.

use std::collections::BTreeSet;

use super::ShardKeeper;
use crate::health::ProblemKind;
use crate::store::Observation;

impl ShardKeeper {
    /// Reports different versions, with which the same local time may become two instants.
    pub(super) fn check_time_zones(&self, observed: &Observation) {
        let own = &self.instance.settings.time_zones;
        let others: BTreeSet<&str> = observed
            .time_zones
            .values()
            .filter(|other| *other != own)
            .map(String::as_str)
            .collect();
        if others.is_empty() {
            return self.instance.health.clear("time zones");
        }
        let others = others.into_iter().collect::<Vec<_>>().join(" and ");
        let why = format!(
            "this instance reads local times by version {own} of the IANA database, others by \
             {others}: bring the program or its system's tzdata to one version everywhere"
        );
        self.instance.health.report("time zones", ProblemKind::TimeZonesDiffer, why);
    }
}
