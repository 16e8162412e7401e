//! When a failed message is tried again.

use std::time::Duration;

/// Pauses after each failed attempt, those that Standard Webhooks gives as an example: 10 attempts
/// within about three days.
const PAUSES_S: [i64; 9] = [
    5,
    5 * 60,
    30 * 60,
    2 * 60 * 60,
    5 * 60 * 60,
    10 * 60 * 60,
    14 * 60 * 60,
    20 * 60 * 60,
    24 * 60 * 60,
];
/// Each pause is made longer by up to this part of it, so that what failed together does not come
/// back together.
const JITTER: i64 = 5;
/// The longest time that a receiver may ask to be left alone for.
const RETRY_AFTER_S_MAX: i64 = 24 * 60 * 60;

/// Failed attempts one after the other, whatever the messages, from which on an endpoint is taken
/// to be down.
pub(super) const FAILURES_DOWN: u32 = 10;
/// How long to wait between first attempts at an endpoint that is down. New messages wait in the
/// ledger meanwhile.
pub(super) const DOWN_PAUSE: Duration = Duration::from_secs(60);

/// When a message is tried again whose attempt number `attempts`, from 1, failed at `now_ms`; `None`
/// if that was the last one. `chance` is any number, the fresher the better; `retry_after_s` what
/// the receiver asked for.
pub(super) fn due_ms(
    attempts: u32,
    now_ms: i64,
    chance: u32,
    retry_after_s: Option<i64>,
) -> Option<i64> {
    let before = usize::try_from(attempts.checked_sub(1)?).ok()?;
    let pause_ms = PAUSES_S.get(before)? * 1000;
    let asked_ms = retry_after_s.unwrap_or(0).clamp(0, RETRY_AFTER_S_MAX) * 1000;
    Some(now_ms.saturating_add(jittered(pause_ms, chance).max(asked_ms)))
}

/// Until when first attempts wait at an endpoint that failed `failures` times in a row.
pub(super) fn hold_until_ms(failures: u32, now_ms: i64, chance: u32) -> i64 {
    if failures < FAILURES_DOWN {
        return 0;
    }
    let pause_ms = i64::try_from(DOWN_PAUSE.as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_add(jittered(pause_ms, chance))
}

fn jittered(pause_ms: i64, chance: u32) -> i64 {
    pause_ms + i64::from(chance) % (pause_ms / JITTER + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPTS_MAX: u32 = PAUSES_S.len() as u32 + 1;

    #[test]
    fn a_message_gets_ten_attempts_within_about_three_days() {
        let last = |chance| {
            (1..ATTEMPTS_MAX)
                .fold(0, |now_ms, attempts| due_ms(attempts, now_ms, chance, None).unwrap())
        };
        const HOUR_MS: i64 = 60 * 60 * 1000;
        assert_eq!(ATTEMPTS_MAX, 10);
        assert_eq!(last(0), (75 * 60 + 35) * 60 * 1000 + 5000);
        for chance in [1, 977, 123_456_789, u32::MAX] {
            assert!((75 * HOUR_MS..=91 * HOUR_MS).contains(&last(chance)), "{chance}");
        }
        assert_eq!(due_ms(ATTEMPTS_MAX, 0, 0, Some(1)), None);
        assert_eq!(due_ms(ATTEMPTS_MAX + 1, 0, 0, None), None);
        assert_eq!(due_ms(0, 0, 0, None), None);
    }

    #[test]
    fn pauses_differ_by_chance_within_a_fifth() {
        let first = |chance| due_ms(1, 100, chance, None).unwrap();
        assert_eq!((first(0), first(1000), first(1001)), (5100, 6100, 5100));
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_but_not_for_ever() {
        assert_eq!(due_ms(1, 0, 0, Some(120)), Some(120_000));
        assert_eq!(due_ms(2, 0, 0, Some(120)), Some(300_000));
        assert_eq!(due_ms(1, 0, 0, Some(i64::MAX)), Some(86_400_000));
        assert_eq!(due_ms(1, 0, 0, Some(-1)), Some(5_000));
    }

    #[test]
    fn only_an_endpoint_that_is_down_is_held() {
        assert_eq!(hold_until_ms(FAILURES_DOWN - 1, 7, 0), 0);
        assert_eq!(hold_until_ms(FAILURES_DOWN, 7, 0), 60_007);
    }
}
