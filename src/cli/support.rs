//! `support`: what became of a device: lost, blocked, another's identity, one with another.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::admin::{Command, Outcome};
use super::{Place, print_json, service};
use crate::domain::support::WriteOff;
use crate::domain::{DeviceRef, Digest, Identity, LicenseId, Name, Reason};
use crate::licensing::{
    CommandAnswer, CommandError, Fate, Licensing, Once, Succession, SupportRefused,
};

/// Longest cooldown: 366 days.
const COOLDOWN_SECONDS_MAX: i64 = 366 * 24 * 60 * 60;

/// Say what became of a device, with a reason; also while serving
///
/// A device is called by its reference, by a certificate's identity, or by the id by which the
/// service's tokens name it.
#[derive(Debug, Subcommand)]
pub enum SupportCommand {
    /// Write off licenses that a device lost, or all of a lost device
    WriteOff(WriteOffArgs),
    /// Give a device no more licenses; it may still acknowledge and delete
    Block(DeviceArgs),
    /// Give a device licenses again that is blocked, or was replaced
    Unblock(DeviceArgs),
    /// Have a certificate, seen or not, belong to a device
    Link(LinkArgs),
    /// Say that two devices are one: the other goes on with all that this one has
    Merge(MergeArgs),
    /// Say that another device takes the place of this one
    Replace(ReplaceArgs),
}

/// Arguments of whatever concerns a device.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    #[command(flatten)]
    place: Place,
    /// The device
    device: Name,
    /// Why, in 1 to 200 characters; it stays in the ledger for good, so name no person
    #[arg(long, value_name = "TEXT")]
    reason: Reason,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `support write-off`.
#[derive(Debug, Args)]
pub struct WriteOffArgs {
    #[command(flatten)]
    of: DeviceArgs,
    /// A license to write off; repeat for more [default: all that are live on the device]
    #[arg(long = "license", value_name = "ID")]
    licenses: Vec<Uuid>,
    #[command(flatten)]
    cooldown: Cooldown,
}

#[derive(Clone, Copy, Debug, Args)]
struct Cooldown {
    /// For how long the slots of licenses written off stay taken [default: not at all]
    #[arg(
        long = "cooldown-seconds", value_name = "SECONDS",
        value_parser = clap::value_parser!(i64).range(1..=COOLDOWN_SECONDS_MAX),
    )]
    seconds: Option<i64>,
}

/// Arguments of `support link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    #[command(flatten)]
    of: DeviceArgs,
    /// The certificate: SHA-256 of its SIGN key, 64 hexadecimal digits
    #[arg(long)]
    identity: Identity,
}

/// Arguments of `support merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    #[command(flatten)]
    of: DeviceArgs,
    /// The device that goes on
    #[arg(long, value_name = "DEVICE")]
    into: Name,
}

/// Arguments of `support replace`.
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    #[command(flatten)]
    of: DeviceArgs,
    /// The device that takes its place
    #[arg(long, value_name = "DEVICE")]
    by: Name,
    /// What becomes of the licenses of the one that is replaced
    #[arg(long)]
    licenses: LicensesOfReplaced,
    #[command(flatten)]
    cooldown: Cooldown,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum LicensesOfReplaced {
    /// They count for the new one
    Move,
    /// They are written off
    WriteOff,
}

/// An act of support, as it goes to the process that serves the ledger.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    device: Name,
    reason: Reason,
    act: Act,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Act {
    WriteOff { license_ids: Option<Vec<LicenseId>>, cooldown_ms: Option<i64> },
    Block,
    Unblock,
    Link { identity: Identity },
    Merge { into: Name },
    ReplaceAndMove { by: Name },
    ReplaceAndWriteOff { by: Name, cooldown_ms: Option<i64> },
}

impl Cooldown {
    fn ms(self) -> Option<i64> {
        self.seconds.map(|seconds| seconds * 1000)
    }
}

impl SupportCommand {
    fn parts(self) -> anyhow::Result<(DeviceArgs, Act)> {
        Ok(match self {
            Self::WriteOff(WriteOffArgs { of, licenses, cooldown }) => {
                let license_ids = (!licenses.is_empty())
                    .then(|| licenses.into_iter().map(LicenseId).collect::<Vec<_>>());
                (of, Act::WriteOff { license_ids, cooldown_ms: cooldown.ms() })
            }
            Self::Block(of) => (of, Act::Block),
            Self::Unblock(of) => (of, Act::Unblock),
            Self::Link(LinkArgs { of, identity }) => (of, Act::Link { identity }),
            Self::Merge(MergeArgs { of, into }) => (of, Act::Merge { into }),
            Self::Replace(ReplaceArgs { of, by, licenses, cooldown }) => match licenses {
                LicensesOfReplaced::Move => {
                    anyhow::ensure!(
                        cooldown.seconds.is_none(),
                        "--cooldown-seconds is for licenses that are written off; leave it out"
                    );
                    (of, Act::ReplaceAndMove { by })
                }
                LicensesOfReplaced::WriteOff => {
                    (of, Act::ReplaceAndWriteOff { by, cooldown_ms: cooldown.ms() })
                }
            },
        })
    }
}

impl Order {
    /// Carries it out on behalf of `actor`; each time it is called it is another command.
    pub(super) async fn carry_out(
        &self,
        licensing: &Licensing,
        actor: &str,
    ) -> anyhow::Result<Outcome> {
        let body = serde_json::to_vec(self)?;
        let key = Uuid::from_bytes(crate::access::secrets::os_random()?).to_string();
        let once = Once::new(actor, &key, Digest::of(&body), actor)?;
        match self.answer(licensing, &once).await {
            Ok(answer) => Ok(Outcome::Support(serde_json::from_str(&answer.body)?)),
            Err(CommandError::Refused(refused)) => Ok(Outcome::SupportRefused(refused.to_string())),
            Err(CommandError::Failed(error)) => Err(error.into()),
            Err(error) => Err(anyhow::anyhow!(error.to_string())),
        }
    }

    async fn answer(
        &self,
        licensing: &Licensing,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<SupportRefused>> {
        let reason = &self.reason;
        let device = &licensing.device_named(self.device.as_str()).await?;
        match &self.act {
            Act::WriteOff { license_ids, cooldown_ms } => {
                let license_ids = license_ids.as_deref();
                let wanted = WriteOff { license_ids, cooldown_ms: *cooldown_ms };
                licensing.write_off(device, wanted, reason, once).await
            }
            Act::Block => licensing.set_blocked(device, true, reason, once).await,
            Act::Unblock => licensing.set_blocked(device, false, reason, once).await,
            Act::Link { identity } => licensing.link(*identity, device, reason, once).await,
            Act::Merge { into } => {
                let into = &licensing.device_named(into.as_str()).await?;
                self.succeed(licensing, (device, into), None, once).await
            }
            Act::ReplaceAndMove { by } => {
                let by = &licensing.device_named(by.as_str()).await?;
                self.succeed(licensing, (device, by), Some(Fate::Move), once).await
            }
            Act::ReplaceAndWriteOff { by, cooldown_ms } => {
                let by = &licensing.device_named(by.as_str()).await?;
                let fate = Fate::WriteOff { cooldown_ms: *cooldown_ms };
                self.succeed(licensing, (device, by), Some(fate), once).await
            }
        }
    }

    async fn succeed(
        &self,
        licensing: &Licensing,
        (from, into): (&DeviceRef, &DeviceRef),
        replaced: Option<Fate>,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<SupportRefused>> {
        licensing.succeed(Succession { from, into, replaced }, &self.reason, once).await
    }
}

/// Carries a command out. Exit code 1 if it is refused.
pub fn run(command: SupportCommand) -> anyhow::Result<ExitCode> {
    let (DeviceArgs { place, device, reason, json }, act) = command.parts()?;
    let order = Order { device, reason, act };
    match service::execute(&place, Command::Support(order))? {
        Outcome::Support(done) if json => print_json(&done)?,
        Outcome::Support(done) => print(&done),
        Outcome::SupportRefused(detail) => {
            eprintln!("error: {detail}");
            return Ok(ExitCode::from(1));
        }
        _ => anyhow::bail!("the serving process is of another version"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what was done, by the members that the answer has.
fn print(done: &Value) {
    let text = |member: &str| done[member].as_str().unwrap_or_default();
    let again = if done["changed"] == false { " already" } else { "" };
    let device = text("device");
    match (done["blocked"].as_bool(), done["identity"].as_str(), done["from"].as_str()) {
        (Some(true), ..) => println!("device {device} is blocked{again}"),
        (Some(false), ..) => println!("device {device} is not blocked{again}"),
        (_, Some(identity), _) => println!("{identity} belongs to device {device}{again}"),
        (.., Some(from)) => {
            let moved = &done["moved"];
            println!("device {device} goes on for {from}: {moved} licenses and reservations moved");
        }
        _ => println!("device {device}"),
    }
    let list = |member: &str| done[member].as_array().cloned().unwrap_or_default();
    for license in list("written_off") {
        let text = |member| license.get(member).and_then(Value::as_str);
        let [license_id, key_id] =
            ["license_id", "key_id"].map(|member| text(member).unwrap_or_default());
        let frees = text("frees_at").map(|at| format!("its slot is free from {at} on"));
        let frees = frees.unwrap_or_else(|| "its slot is free".to_owned());
        println!("  wrote off {license_id} for {key_id}: {frees}");
    }
    for license_id in list("not_live") {
        println!("  not live: {}", license_id.as_str().unwrap_or_default());
    }
}
