//! What every line of a measurement says beside its figures, and settings from the environment.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// A number from the environment, or its default: sizes can be reduced for a quick look.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// How each line ends: machine, durability of its disk, and load.
pub fn surroundings(dir: &Path) -> String {
    format!("machine={} durability={} load={}", machine(), durability(dir), load())
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    format!("{}x{}", cores(), model.trim_start_matches([' ', '\t', ':']).replace(' ', "-"))
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The time of one small `fdatasync` on this disk.
fn durability(dir: &Path) -> String {
    let mut file = File::create(dir.join("sync")).unwrap();
    let mut times: Vec<f64> = (0..200)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&[1; 600]).unwrap();
            file.sync_data().unwrap();
            started.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    format!("fdatasync-{:.2}ms", median(&mut times))
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").into()
}
