//! `explain`: may a device store one more license, and why (not)?

use std::process::ExitCode;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::admin::{Command, Outcome};
use super::{Place, print_json, service};
use crate::domain::usage::Wanted;
use crate::domain::{KeyId, Name};
use crate::licensing::{Decision, Licensing, LicensingError, Question};

/// Explain whether a device may store a license for a KID; also while serving
#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    asked: Asked,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is asked.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct Asked {
    /// The device: its reference, a certificate's identity, or the id by which the service's tokens
    /// name it
    device: Name,
    /// The KID, a GUID
    key_id: Uuid,
    /// The account that would pay, by reference or by the id that the service has for it
    #[arg(long)]
    account: Option<Name>,
    /// The title, as the service names it
    #[arg(long)]
    title: Option<Name>,
    /// The content group, as the service names it
    #[arg(long, value_name = "GROUP")]
    content_group: Option<Name>,
}

impl Asked {
    /// Decides, and records nothing.
    pub(super) async fn decide(&self, licensing: &Licensing) -> Result<Decision, LicensingError> {
        let device = licensing.device_named(self.device.as_str()).await?;
        let named = |name: &str| name.parse().unwrap_or_else(|_| licensing.account_of(name));
        let account = self.account.as_ref().map(Name::as_str).map(named);
        let wanted = Wanted {
            key_id: KeyId(self.key_id),
            title: self.title.as_ref().map(Name::as_str),
            content_group: self.content_group.as_ref().map(Name::as_str),
        };
        let question = Question {
            device: &device,
            account: account.as_ref(),
            wanted: vec![wanted],
            security_level: None,
            model: None,
        };
        licensing.decide(&question).await
    }
}

/// Explains. Exit code 1 if the license would be refused.
pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let command = Command::Explain(args.asked);
    let Outcome::Decision(decision) = service::execute(&args.place, command)? else {
        anyhow::bail!("the serving process is of another version");
    };
    if args.json {
        print_json(&decision)?;
    } else {
        print(&decision);
    }
    let denied = decision.get("decision").is_some_and(|said| said == "deny");
    Ok(ExitCode::from(u8::from(denied)))
}

fn print(decision: &Value) {
    let text = |member: &str| decision[member].as_str().unwrap_or("-").to_owned();
    let known =
        if decision["device_known"] == true { "" } else { ", which the ledger does not know" };
    println!("{} for device {}{known}", text("decision"), text("device"));
    println!("  policy     version {}, as of {}", decision["policy_version"], text("as_of"));
    if let Some(account) = decision["account"].as_str() {
        println!("  account    {account}");
    }
    let Some(rule) = decision["rule"].as_str() else {
        println!("  rule       none applies");
        return;
    };
    println!("  rule       {rule}, limit {}", decision["limit"]);
    println!("  in use     {}, and {} more asked for", in_use(decision), decision["requested"]);
    println!("  next free  {}", decision["next_free_at"].as_str().unwrap_or("not by itself"));
    let list = |member: &str| decision[member].as_array().cloned().unwrap_or_default();
    let remedies = list("remedies");
    if !remedies.is_empty() {
        let words: Vec<_> = remedies.iter().filter_map(Value::as_str).map(remedy).collect();
        println!("  remedies   {}", words.join("; "));
    }
    for license in list("counted") {
        print_counted(&license);
    }
    for other in list("rules").iter().filter(|other| other["rule"] != rule) {
        println!(
            "  also       {}: {}, limit {}, in use {}",
            other["rule"].as_str().unwrap_or_default(),
            other["decision"].as_str().unwrap_or_default(),
            other["limit"],
            in_use(other),
        );
    }
}

fn in_use(rule: &Value) -> String {
    let in_use = &rule["in_use"];
    let (confirmed, possible) = (&in_use["confirmed"], &in_use["possible"]);
    format!("{} (confirmed {confirmed}, possible {possible})", in_use["live"])
}

fn print_counted(license: &Value) {
    let text = |member: &str| license[member].as_str().unwrap_or_default();
    let what = match (license["reserved"] == true, license["confirmed"] == true) {
        (true, _) => "reserved",
        (_, true) => "confirmed",
        _ => "not confirmed",
    };
    let until = license["counted_until"].as_str();
    let until = until.map(|until| format!(", until {until}")).unwrap_or_default();
    println!(
        "  counted    {} license {} on {}, {what}{until}",
        text("key_id"),
        text("license_id"),
        text("device"),
    );
}

/// A remedy in words.
fn remedy(word: &str) -> &str {
    match word {
        "delete_license" => "delete one of the licenses counted",
        "wait" => "wait until the next one frees",
        "write_off" => "write off a license that its device lost",
        "override" => "set a limit of its own for the device or account",
        "unblock" => "unblock the device",
        other => other,
    }
}
