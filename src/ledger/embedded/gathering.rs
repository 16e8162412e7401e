//! How many appends a commit waits for.
//!
//! A commit costs the processors nearly the same for one append as for fifty. While they have
//! nothing else to do, that is no reason to let anybody wait. Once they are busy it is: the time of a
//! commit is taken from the threads that prepare the next appends. So then as many are gathered as
//! there are writers, which is found out: now and then a commit waits for whoever comes, and what it
//! got is waited for afterwards. A writer that is alone never waits.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What the commits so far tell about the next one.
pub(super) struct Gathering {
    writers: usize,
    commits: usize,
    busy: bool,
}

impl Gathering {
    pub(super) fn new() -> Self {
        Self { writers: 1, commits: 0, busy: false }
    }

    fn finds_out(&self) -> bool {
        self.writers > 1 && self.commits.is_multiple_of(FIND_OUT_EVERY)
    }

    /// How many appends to wait for.
    pub(super) fn wanted(&self) -> usize {
        match self.busy {
            false => 1,
            true if self.finds_out() => usize::MAX,
            true => self.writers,
        }
    }

    /// Takes in how many appends the commit at hand has, and whether the processors are busy.
    pub(super) fn took(&mut self, appends: usize, busy: bool) {
        let anew = !self.busy || self.finds_out();
        self.writers = if anew { appends } else { self.writers.max(appends) };
        self.commits = self.commits.wrapping_add(1);
        self.busy = busy;
    }
}

/// Tells whether the processors are busy: with this process, as far as it may use them, or with all
/// that runs on the machine.
pub(super) struct Processors {
    count: u32,
    seen: Instant,
    used: Duration,
    machine: Option<Ticks>,
    busy: bool,
}

impl Processors {
    pub(super) fn new() -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let (seen, used, machine) = (Instant::now(), processor_time(), Ticks::of_machine());
        Self { count, seen, used, machine, busy: false }
    }

    /// Whether they were busy during the last span that was long enough to tell.
    pub(super) fn are_busy(&mut self) -> bool {
        let passed = self.seen.elapsed();
        if passed >= SPAN {
            let (used, machine) = (processor_time(), Ticks::of_machine());
            let by_all = self.machine.zip(machine).is_some_and(|(then, now)| now.busy_since(then));
            self.busy = by_all || are_busy(self.count, passed, used.saturating_sub(self.used));
            (self.seen, self.used, self.machine) = (self.seen + passed, used, machine);
        }
        self.busy
    }
}

/// Whether so many processors, of whose time in `passed` this process took `used`, were busy.
fn are_busy(count: u32, passed: Duration, used: Duration) -> bool {
    used.saturating_mul(4) >= passed.saturating_mul(count).saturating_mul(3)
}

/// The processor time that all threads of this process have used.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or_default())
}

/// What the processors of the machine did since it was started, in ticks of 10 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    /// `None` where the system does not tell.
    fn of_machine() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// Reads the first line of `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, and
    /// more that is not idle. Guests are counted as user already.
    fn read(stat: &str) -> Option<Self> {
        let ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let ticks: Vec<u64> = ticks.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let &[_, _, _, idle, iowait, ..] = ticks.as_slice() else { return None };
        Some(Self { all: ticks.iter().sum(), idle: idle + iowait })
    }

    /// Whether less than a quarter of the time since was idle.
    fn busy_since(self, then: Self) -> bool {
        let (all, idle) = (self.all.saturating_sub(then.all), self.idle.saturating_sub(then.idle));
        all > 0 && idle.saturating_mul(4) < all
    }
}

const FIND_OUT_EVERY: usize = 16;
/// Ten ticks of each processor.
const SPAN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_is_alone_is_not_kept_waiting_for_others() {
        let mut gathering = Gathering::new();
        for _ in 0..40 {
            assert_eq!(gathering.wanted(), 1);
            gathering.took(1, true);
        }
    }

    #[test]
    fn nobody_waits_while_the_processors_have_time() {
        let mut gathering = Gathering::new();
        for _ in 0..40 {
            gathering.took(8, false);
            assert_eq!(gathering.wanted(), 1);
        }
        // What came when nobody was waited for says little of how many there are.
        gathering.took(3, true);
        assert!(matches!(gathering.wanted(), 3 | usize::MAX));
    }

    #[test]
    fn as_many_are_waited_for_as_there_are_writers() {
        let mut gathering = Gathering::new();
        gathering.took(2, true);
        let mut found_out = 0;
        for _ in 0..40 {
            let wanted = gathering.wanted();
            assert!(matches!(wanted, 2 | 8 | usize::MAX), "{wanted}");
            found_out += usize::from(wanted == usize::MAX);
            gathering.took(if wanted == usize::MAX { 8 } else { wanted }, true);
        }
        assert_eq!(found_out, 2);
        assert_eq!(gathering.wanted(), 8);
        // They leave.
        for _ in 0..FIND_OUT_EVERY {
            gathering.took(1, true);
        }
        assert_eq!(gathering.wanted(), 1);
    }

    #[test]
    fn processors_are_busy_from_three_quarters_of_their_time_on() {
        let second = Duration::from_secs(1);
        assert!(are_busy(2, second, Duration::from_millis(1_500)));
        assert!(!are_busy(2, second, Duration::from_millis(1_490)));
        assert!(!are_busy(8, second, 5 * second));
    }

    #[test]
    fn a_machine_is_busy_while_less_than_a_quarter_of_its_time_is_idle() {
        let stat = "cpu  100 5 20 300 10 1 2 3 40 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        let then = Ticks::read(stat).unwrap();
        assert_eq!(then, Ticks { all: 441, idle: 310 });
        let later = |busy, idle| Ticks { all: then.all + busy + idle, idle: then.idle + idle };
        assert!(!later(15, 5).busy_since(then));
        assert!(later(16, 4).busy_since(then));
        assert!(!then.busy_since(then));
        for other in ["", "cpu", "cpu  1 2 3", "cpu  1 2 3 x 5 6 7 8", "intr 1 2 3 4 5 6 7 8"] {
            assert_eq!(Ticks::read(other), None, "{other}");
        }
        assert!(Ticks::of_machine().is_some() || !std::path::Path::new("/proc/stat").exists());
    }

    #[test]
    fn processor_time_passes_when_something_is_worked_on() {
        let before = processor_time();
        let started = Instant::now();
        while processor_time() == before {
            assert!(started.elapsed() < Duration::from_secs(30), "no time is counted");
        }
    }
}
