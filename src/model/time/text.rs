//! The forms that are text: RFC 3339 and the bare local date-time.

use chrono::TimeDelta;

use super::{NANOS_PER_SECOND, Reason, ScheduledTime, local, part, shortened};

/// Reads `YYYY-MM-DD`, `T` or a space, `HH:MM`, and then, each if it is there, `:SS`, a
/// fraction and an offset.
///
/// Seconds may be missing before an offset too, which RFC 3339 does not allow, because
/// Java's `OffsetDateTime` leaves them out when they are zero.
pub(super) fn parse(text: &str) -> Result<ScheduledTime, Reason> {
    if is_integer(text) {
        return Err("epoch milliseconds must be a number: send it without the quotes".into());
    }
    let mut text = Scanner(text.as_bytes());
    let year = text.number(4, "year")?;
    text.expect(b"-", "a '-' after the year")?;
    let month = text.number(2, "month")?;
    text.expect(b"-", "a '-' after the month")?;
    let day = text.number(2, "day")?;
    text.expect(b"Tt ", "a 'T' and the time of day after the date")?;
    let hour = text.number(2, "hour")?;
    text.expect(b":", "a ':' after the hour")?;
    let minute = text.number(2, "minute")?;
    let (mut second, mut nano) = (0, 0);
    if text.take(b":").is_some() {
        second = text.number(2, "second")?;
        if text.take(b".").is_some() {
            nano = text.fraction()?;
        }
    }
    let local = local([year, month, day, hour, minute, second, nano])?;
    let Some(offset_seconds) = text.offset()? else {
        return Ok(ScheduledTime::Local(local));
    };
    let instant = (local - TimeDelta::seconds(offset_seconds)).and_utc();
    let time = ScheduledTime::Instant(instant);
    if time.is_in_calendar() {
        Ok(time)
    } else {
        Err("in UTC its year is not one of 0 to 9999".into())
    }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The rest of a text that is being parsed.
struct Scanner<'a>(&'a [u8]);

impl Scanner<'_> {
    fn take(&mut self, wanted: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        wanted.contains(&first).then(|| {
            self.0 = rest;
            first
        })
    }

    fn expect(&mut self, wanted: &[u8], what: &'static str) -> Result<(), Reason> {
        self.take(wanted).map(drop).ok_or_else(|| format!("it needs {what}").into())
    }

    fn digit(&mut self) -> Option<i64> {
        self.take(b"0123456789").map(|digit| i64::from(digit - b'0'))
    }

    fn number(&mut self, digits: usize, what: &'static str) -> Result<i64, Reason> {
        (0..digits)
            .try_fold(0, |number, _| Some(number * 10 + self.digit()?))
            .ok_or_else(|| format!("the {what} must have {digits} digits").into())
    }

    fn fraction(&mut self) -> Result<i64, Reason> {
        let (mut nano, mut unit) = (0, i64::from(NANOS_PER_SECOND));
        while let Some(digit) = self.digit() {
            unit /= 10;
            if unit == 0 {
                return Err("the fraction has more than 9 digits".into());
            }
            nano += digit * unit;
        }
        if unit == i64::from(NANOS_PER_SECOND) {
            return Err("the fraction has no digits".into());
        }
        Ok(nano)
    }

    /// The offset in seconds that ends the text, or `None` where the text has ended.
    fn offset(&mut self) -> Result<Option<i64>, Reason> {
        let sign = match self.take(b"Zz+-") {
            None if self.0.is_empty() => return Ok(None),
            None => return Err(self.left_over()),
            Some(b'Z' | b'z') => 0,
            Some(b'-') => -1,
            Some(_) => 1,
        };
        let mut seconds = 0;
        if sign != 0 {
            let hours = self.number(2, "offset's hour")?;
            self.take(b":");
            let minutes = self.number(2, "offset's minute")?;
            part("offset's hour", hours, 0..=23)?;
            part("offset's minute", minutes, 0..=59)?;
            seconds = sign * (hours * 3600 + minutes * 60);
        }
        if self.0.is_empty() { Ok(Some(seconds)) } else { Err(self.left_over()) }
    }

    fn left_over(&self) -> Reason {
        let rest = String::from_utf8_lossy(self.0);
        format!("{} should not be there", shortened(&format!("{rest:?}"))).into()
    }
}
