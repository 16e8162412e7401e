//! `device`
/// Simulate a device
#[derive(Debug, clap::Subcommand)]
pub enum DeviceCommand {}
/// Runs
pub fn run(_: DeviceCommand) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not here yet")
}
