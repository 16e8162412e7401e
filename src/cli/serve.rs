//! `serve`: the service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::service::Service;
use super::{Place, log_to_stderr, path_flag};
use crate::clock::Clock;
use crate::config::Flag;

/// Serve licenses, secure deletes, inventory and quota decisions
///
/// Makes what is missing on an empty data directory: the ledger, the key files, a public key
/// infrastructure of its own, and an admin API key, which is printed once.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    place: Place,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8290]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address to offer the ledger on over the KurrentDB protocol (gRPC), to official clients in any
    /// language; port 0 takes a free one [default: not offered]
    #[arg(long, value_name = "ADDR")]
    grpc: Option<SocketAddr>,
    /// Folder of the public key infrastructure [default: pki in the secrets directory]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// Who may be issued a license: `open` serves every verified device, for tests; `token` whoever
    /// brings a token of the service; `callback` whom the service allows [default: open]
    #[arg(long, value_name = "MODE")]
    authorize: Option<String>,
    /// Begin a ledger in a cluster that holds another one under another kurrentdb.stream_prefix
    #[arg(long)]
    new_ledger: bool,
    /// Confirm `--authorize open` on an address that others can reach
    #[arg(long)]
    i_know: bool,
}

/// Serves until it is told to stop.
pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let flag = |key, flag, value: String| Flag { key, flag, value };
    let mut flags = Vec::new();
    flags.extend(args.listen.map(|listen| flag("listen", "--listen", listen.to_string())));
    flags.extend(args.grpc.map(|grpc| flag("grpc.listen", "--grpc", grpc.to_string())));
    flags.extend(args.pki.as_deref().map(|pki| path_flag("pki", "--pki", pki)));
    flags.extend(args.authorize.map(|mode| flag("authorize", "--authorize", mode)));
    let new_ledger = args.new_ledger.then(|| "true".to_owned());
    flags.extend(new_ledger.map(|yes| flag("kurrentdb.new_ledger", "--new-ledger", yes)));
    flags.extend(args.i_know.then(|| flag("i_know", "--i-know", "true".to_owned())));
    let config = args.place.config(flags)?;
    log_to_stderr(&config.log);
    let service = Service::start(&config, Clock::System)?;
    let signals = service.running.stop_on_signals();
    println!("license-ledger serves on {}", service.url());
    println!("  data     {}", config.data()?.display());
    println!("  secrets  {}", config.secrets()?.display());
    println!("  pki      {}", service.pki.display());
    if let Some(packaging) = &service.packaging {
        println!("  packagers on {}/playready/packaging.asmx", packaging.url());
    }
    if let Some(grpc) = &service.grpc {
        println!("  ledger   {}", grpc.url());
    }
    if let Some(key) = &service.admin_key {
        println!("  admin API key, shown this once: {}", key.expose());
    }
    // Not before the key is shown.
    signals?;
    service.wait()?;
    println!("stopped");
    Ok(ExitCode::SUCCESS)
}
