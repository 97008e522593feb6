//! Maintenance windows: times at which a disruption that is not urgent may begin. Pure.

use super::api::MaintenanceWindow;
use super::observe::Observed;
use super::plan::{Plan, WaitingOn};
use super::validate::ValidCluster;
use jiff_cron::Schedule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::str::FromStr;

/// A window's schedule. Its five fields are those of cron; the library wants seconds before them.
///
/// # Errors
/// What is wrong with it, in words.
pub fn schedule(window: &MaintenanceWindow) -> Result<(Schedule, TimeZone), String> {
    if window.cron.split_whitespace().count() != 5 {
        return Err(format!("{:?} is not five fields: minute, hour, day of month, month, day of week", window.cron));
    }
    let schedule = Schedule::from_str(&format!("0 {}", window.cron)).map_err(|error| format!("{:?}: {error}", window.cron))?;
    let zone = TimeZone::get(&window.time_zone)
        .map_err(|_| format!("timeZone {:?} is not known; use one such as Europe/Berlin", window.time_zone))?;
    Ok((schedule, zone))
}

/// Whether a window is open; without any it always is.
///
/// # Errors
/// When the next one opens; `None` when none ever does.
fn open(windows: &[MaintenanceWindow], now: Timestamp) -> Result<(), Option<Timestamp>> {
    let mut next: Option<Timestamp> = None;
    for window in windows {
        let Ok((schedule, zone)) = schedule(window) else { continue };
        let lasts = SignedDuration::from_mins(window.duration_minutes.into());
        let begins = |after: Timestamp| schedule.after(after.to_zoned(zone.clone())).next().map(|zoned| zoned.timestamp());
        // One that began less than its length ago is open still.
        if begins(now - lasts).is_some_and(|began| began <= now) {
            return Ok(());
        }
        next = [next, begins(now)].into_iter().flatten().min();
    }
    if windows.is_empty() { Ok(()) } else { Err(next) }
}

/// Whether a disruption may begin now by the cluster's windows; where not, the plan says when one opens.
pub fn is_open(cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) -> bool {
    let opens = open(&cluster.spec.rollout.maintenance_windows, observed.now).err();
    plan.waiting_on.extend(opens.map(|opens| WaitingOn::Window { opens: opens.map(Time) }));
    opens.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, duration_minutes: u32) -> MaintenanceWindow {
        MaintenanceWindow { cron: cron.into(), duration_minutes, time_zone: "UTC".into() }
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn a_window_is_open_from_its_start_for_its_length() {
        let nightly = [window("0 2 * * *", 90)];
        assert_eq!(open(&nightly, at("2026-06-01T02:00:00Z")), Ok(()));
        assert_eq!(open(&nightly, at("2026-06-01T03:29:59Z")), Ok(()));
        assert_eq!(open(&nightly, at("2026-06-01T03:30:00Z")), Err(Some(at("2026-06-02T02:00:00Z"))));
        assert_eq!(open(&[], at("2026-06-01T12:00:00Z")), Ok(()));
        let either = [window("0 2 * * *", 60), window("0 14 * * *", 60)];
        assert_eq!(open(&either, at("2026-06-01T14:30:00Z")), Ok(()));
        assert_eq!(open(&either, at("2026-06-01T12:00:00Z")), Err(Some(at("2026-06-01T14:00:00Z"))));
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_words() {
        assert!(schedule(&window("tonight", 60)).unwrap_err().contains("five fields"));
        assert!(schedule(&window("0 25 * * *", 60)).is_err());
        let nowhere = MaintenanceWindow { time_zone: "Nowhere/At_All".into(), ..window("0 2 * * *", 60) };
        assert!(schedule(&nowhere).unwrap_err().contains("timeZone"));
    }
}
