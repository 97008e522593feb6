//! Parses schedules as in a Kubernetes CronJob (the fields of cron(5): minute, hour, day of month,
//! month, day of week) and finds their next time. Pure.

use k8s_openapi::jiff::civil::Date;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{Timestamp, ToSpan};

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// The number of days to search. Two consecutive 29 February can be eight years apart.
const DAYS_MAX: u32 = 8 * 366 + 1;

/// One field of a schedule: the matching values as bits, and whether it was left open by `*` or
/// `?`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    any: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits >> value & 1 == 1)
    }
}

/// The times at which a maintenance window opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    /// 0 is Sunday.
    weekday: Field,
}

/// The five fields for the macros of common schedules.
fn macros(text: &str) -> Option<&'static str> {
    Some(match text {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        _ => return None,
    })
}

impl Schedule {
    /// Parses a schedule.
    ///
    /// # Errors
    /// Returns what is wrong with the text, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<_> = macros(text.trim())
            .unwrap_or(text)
            .split_whitespace()
            .collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err("not five fields: minute, hour, day of month, month, day of week".into());
        };
        let mut weekday = field("day of week", weekday, 0, 7, &DAYS, 0)?;
        // Both 0 and 7 are Sunday.
        weekday.bits |= weekday.bits >> 7 & 1;
        Ok(Self {
            minute: field("minute", minute, 0, 59, &[], 0)?,
            hour: field("hour", hour, 0, 23, &[], 0)?,
            day: field("day of month", day, 1, 31, &[], 0)?,
            month: field("month", month, 1, 12, &MONTHS, 1)?,
            weekday,
        })
    }

    fn is_on(&self, date: Date) -> bool {
        let (day, weekday) = (
            self.day.has(date.day()),
            self.weekday.has(date.weekday().to_sunday_zero_offset()),
        );
        // As in cron(5): if both day of month and day of week are given, one match is enough.
        let on = if self.day.any || self.weekday.any {
            day && weekday
        } else {
            day || weekday
        };
        on && self.month.has(date.month())
    }

    /// The first time after `after`, or `None` if there is none. A local time that a clock change
    /// skips becomes the moment after the gap; one that occurs twice is the first of the two.
    pub fn after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // When clocks go back, the next time may have the local date of the day before.
        let mut date = after
            .to_zoned(zone.clone())
            .date()
            .checked_sub(1.day())
            .ok()?;
        for _ in 0..=DAYS_MAX {
            if self.is_on(date) {
                let begins = self.times().filter_map(|(hour, minute)| {
                    date.at(hour, minute, 0, 0)
                        .to_zoned(zone.clone())
                        .ok()
                        .map(|zoned| zoned.timestamp())
                });
                if let Some(found) = begins.filter(|begins| *begins > after).min() {
                    return Some(found);
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn times(&self) -> impl Iterator<Item = (i8, i8)> + '_ {
        let hours = (0..24).filter(|hour| self.hour.has(*hour));
        hours.flat_map(|hour| {
            (0..60)
                .filter(|minute| self.minute.has(*minute))
                .map(move |minute| (hour, minute))
        })
    }
}

/// Parses a field: a list of `*`, `a` or `a-b`, each with an optional `/step`; `a/step` ends at the
/// highest value.
fn field(
    what: &str,
    text: &str,
    low: u32,
    high: u32,
    names: &[&str],
    first: u32,
) -> Result<Field, String> {
    let wrong = |part: &str| {
        let named = names
            .first()
            .map(|name| format!(", or names such as {name}"))
            .unwrap_or_default();
        format!(
            "{part:?} is no {what}: use numbers from {low} to {high}{named}, `*`, ranges such as {low}-{high}, and steps such as */2"
        )
    };
    let number = |text: &str| {
        let named = names
            .iter()
            .zip(first..)
            .find(|(name, _)| text.eq_ignore_ascii_case(name))
            .map(|(_, number)| number);
        let digits = !text.is_empty()
            && text.len() <= 2
            && text.chars().all(|character| character.is_ascii_digit());
        named
            .or_else(|| text.parse().ok().filter(|_| digits))
            .filter(|number| (low..=high).contains(number))
    };
    let mut all = Field {
        bits: 0,
        any: false,
    };
    for part in text.split(',') {
        let (range, step) = part
            .split_once('/')
            .map_or((part, None), |(range, step)| (range, Some(step)));
        let step = match step {
            None => 1,
            Some(step) => step
                .parse::<usize>()
                .ok()
                .filter(|step| (1..=60).contains(step))
                .ok_or_else(|| wrong(part))?,
        };
        let (from, to) = if range == "*" || range == "?" {
            all.any |= step == 1;
            (low, high)
        } else if let Some((from, to)) = range.split_once('-') {
            (
                number(from).ok_or_else(|| wrong(part))?,
                number(to).ok_or_else(|| wrong(part))?,
            )
        } else {
            let from = number(range).ok_or_else(|| wrong(part))?;
            (from, if part.contains('/') { high } else { from })
        };
        if from > to {
            return Err(wrong(part));
        }
        (from..=to)
            .step_by(step)
            .for_each(|value| all.bits |= 1 << value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, after: &str, zone: &str) -> Option<String> {
        let schedule = Schedule::parse(cron).unwrap();
        schedule
            .after(after.parse().unwrap(), &TimeZone::get(zone).unwrap())
            .map(|time| time.to_string())
    }

    #[test]
    fn days_of_the_week_are_those_of_cron() {
        // 2026-06-01 is a Monday.
        let on =
            |day: &str| next(&format!("0 2 * * {day}"), "2026-06-01T12:00:00Z", "UTC").unwrap();
        for sunday in ["0", "7", "Sun", "SUN", "sun"] {
            assert_eq!(on(sunday), "2026-06-07T02:00:00Z", "{sunday}");
        }
        assert_eq!(
            (on("1"), on("mon")),
            (
                "2026-06-08T02:00:00Z".to_owned(),
                "2026-06-08T02:00:00Z".to_owned()
            )
        );
        assert_eq!(
            (on("6"), on("Sat")),
            (
                "2026-06-06T02:00:00Z".to_owned(),
                "2026-06-06T02:00:00Z".to_owned()
            )
        );
        assert_eq!(
            (on("5-7"), on("fri-sat")),
            (
                "2026-06-05T02:00:00Z".to_owned(),
                "2026-06-05T02:00:00Z".to_owned()
            )
        );
        assert_eq!(on("1-5"), "2026-06-02T02:00:00Z");
        assert_eq!(
            on("*/3"),
            "2026-06-03T02:00:00Z",
            "Sunday, Wednesday, Saturday"
        );
    }

    #[test]
    fn fields_are_read_as_a_cron_job_reads_them() {
        let next = |cron: &str| next(cron, "2026-06-01T12:07:30Z", "UTC").unwrap();
        assert_eq!(next("*/15 * * * *"), "2026-06-01T12:15:00Z");
        assert_eq!(next("50/5 * * * *"), "2026-06-01T12:50:00Z");
        assert_eq!(next("5,7,9 12 * * *"), "2026-06-01T12:09:00Z");
        assert_eq!(next("0 22-23/1 * * ?"), "2026-06-01T22:00:00Z");
        assert_eq!(next("0 0 29 2 *"), "2028-02-29T00:00:00Z");
        assert_eq!(next("0 0 1 jan *"), "2027-01-01T00:00:00Z");
        assert_eq!(next("@weekly"), "2026-06-07T00:00:00Z");
        // If both day of month and day of week are given, one match is enough.
        assert_eq!(next("0 0 15 * fri"), "2026-06-05T00:00:00Z");
        assert_eq!(next("0 0 */2 * fri"), "2026-06-03T00:00:00Z");
        assert_eq!(
            Schedule::parse("0 0 31 2 *")
                .unwrap()
                .after("2026-06-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC),
            None
        );
    }

    #[test]
    fn it_is_the_time_of_its_zone_that_counts() {
        assert_eq!(
            next("0 2 * * *", "2026-06-01T12:00:00Z", "Europe/Berlin").unwrap(),
            "2026-06-02T00:00:00Z"
        );
        assert_eq!(
            next("30 2 * * *", "2026-03-28T12:00:00Z", "Europe/Berlin").unwrap(),
            "2026-03-29T01:30:00Z",
            "left out"
        );
        assert_eq!(
            next("30 2 * * *", "2026-10-24T12:00:00Z", "Europe/Berlin").unwrap(),
            "2026-10-25T00:30:00Z",
            "shown twice"
        );
        assert_eq!(
            next("30 2 * * *", "2026-10-25T00:30:00Z", "Europe/Berlin").unwrap(),
            "2026-10-26T01:30:00Z"
        );
        assert_eq!(
            next("0 0 * * sat", "2026-06-05T23:00:00Z", "Pacific/Kiritimati").unwrap(),
            "2026-06-12T10:00:00Z"
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_in_words() {
        let wrong = |cron: &str| Schedule::parse(cron).unwrap_err();
        assert!(wrong("tonight").contains("five fields"));
        assert!(
            wrong("0 0 2 * * sat").contains("five fields"),
            "there are no seconds"
        );
        assert!(wrong("0 25 * * *").contains("\"25\" is no hour: use numbers from 0 to 23"));
        assert!(wrong("0 2 * * 8").contains("day of week"));
        for cron in [
            "60 * * * *",
            "0 0 0 * *",
            "0 0 32 * *",
            "0 0 * 13 *",
            "0 0 * * someday",
            "5-1 * * * *",
            "*/0 * * * *",
            ", * * * *",
            "+1 * * * *",
            "0 0 * * sat-mon",
        ] {
            assert!(Schedule::parse(cron).is_err(), "{cron}");
        }
    }
}
