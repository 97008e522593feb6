//! Decides whether a maintenance window is open: non-urgent disruptions may begin only then. Pure.

use crate::api::kafka_cluster::MaintenanceWindow;
use crate::kinds::kafka_cluster::disruption::cron::Schedule;
use crate::kinds::kafka_cluster::disruption::waiting::WaitingOn;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::Observed;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The schedule and time zone of a window.
///
/// # Errors
/// Returns what is wrong with the window, in words.
pub fn schedule(window: &MaintenanceWindow) -> Result<(Schedule, TimeZone), String> {
    let schedule =
        Schedule::parse(&window.cron).map_err(|why| format!("cron {:?}: {why}", window.cron))?;
    let zone = TimeZone::get(&window.time_zone).map_err(|_| {
        format!(
            "timeZone {:?} is not known; use one such as Europe/Berlin",
            window.time_zone
        )
    })?;
    Ok((schedule, zone))
}

/// `Ok` if a window is open, or if there are no windows.
///
/// # Errors
/// Returns the time at which the next window opens; `None` if none ever does.
fn open(windows: &[MaintenanceWindow], now: Timestamp) -> Result<(), Option<Timestamp>> {
    let mut next: Option<Timestamp> = None;
    for window in windows {
        let Ok((schedule, zone)) = schedule(window) else {
            continue;
        };
        let lasts = SignedDuration::from_mins(window.duration_minutes.into());
        let begins = |after: Timestamp| schedule.after(after, &zone);
        // A window is open if it began less than its duration ago.
        if begins(now - lasts).is_some_and(|began| began <= now) {
            return Ok(());
        }
        next = [next, begins(now)].into_iter().flatten().min();
    }
    if windows.is_empty() {
        Ok(())
    } else {
        Err(next)
    }
}

/// The closed window that a disruption has to wait for. `None` if a window is open, or if there are
/// no windows.
pub fn closed(cluster: &ValidCluster, observed: &Observed) -> Option<WaitingOn> {
    let opens = open(&cluster.spec.rollout.maintenance_windows, observed.now).err()?;
    Some(WaitingOn::Window {
        opens: opens.map(Time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, duration_minutes: u32) -> MaintenanceWindow {
        MaintenanceWindow {
            cron: cron.into(),
            duration_minutes,
            time_zone: "UTC".into(),
        }
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn a_window_is_open_from_its_start_for_its_length() {
        let nightly = [window("0 2 * * *", 90)];
        assert_eq!(open(&nightly, at("2026-06-01T02:00:00Z")), Ok(()));
        assert_eq!(open(&nightly, at("2026-06-01T03:29:59Z")), Ok(()));
        assert_eq!(
            open(&nightly, at("2026-06-01T03:30:00Z")),
            Err(Some(at("2026-06-02T02:00:00Z")))
        );
        assert_eq!(open(&[], at("2026-06-01T12:00:00Z")), Ok(()));
        let either = [window("0 2 * * *", 60), window("0 14 * * *", 60)];
        assert_eq!(open(&either, at("2026-06-01T14:30:00Z")), Ok(()));
        assert_eq!(
            open(&either, at("2026-06-01T12:00:00Z")),
            Err(Some(at("2026-06-01T14:00:00Z")))
        );
    }

    #[test]
    fn a_window_of_one_weekday_is_closed_on_every_other_day() {
        for (name, number, open_on) in [("sat", "6", 6), ("sun", "0", 7), ("mon", "1", 1)] {
            for weekday in [name, number] {
                let windows = [window(&format!("0 2 * * {weekday}"), 60)];
                // 2026-06-01 is a Monday.
                for day in 1..=7 {
                    for (hour, minute, second, within) in [
                        (0, 0, 0, false),
                        (1, 59, 59, false),
                        (2, 0, 0, true),
                        (2, 59, 59, true),
                        (3, 0, 0, false),
                        (23, 59, 59, false),
                    ] {
                        for part in ["", ".000000001", ".5", ".999999999"] {
                            let time = format!(
                                "2026-06-{day:02}T{hour:02}:{minute:02}:{second:02}{part}Z"
                            );
                            let expected = day == open_on && within;
                            assert_eq!(
                                open(&windows, at(&time)).is_ok(),
                                expected,
                                "{weekday} {time}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_words() {
        assert!(
            schedule(&window("tonight", 60))
                .unwrap_err()
                .contains("five fields")
        );
        assert!(schedule(&window("0 25 * * *", 60)).is_err());
        let nowhere = MaintenanceWindow {
            time_zone: "Nowhere/At_All".into(),
            ..window("0 2 * * *", 60)
        };
        assert!(schedule(&nowhere).unwrap_err().contains("timeZone"));
    }
}
