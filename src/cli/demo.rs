//! `demo`
/// Arguments
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}
/// Runs
pub fn run(_: DemoArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not here yet")
}
