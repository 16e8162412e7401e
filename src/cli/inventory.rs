//! `inventory`: what a device holds.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::{Place, open, print_json, runtime};
use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::Embedded;
use crate::projections::Inventory;
use crate::projections::inventory::{ChainPart, DeviceInventory, LicenseStatus};

/// How long to wait for the serving process to bring the inventory up to date.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show what a device holds
#[derive(Debug, Args)]
pub struct InventoryArgs {
    #[command(flatten)]
    place: Place,
    /// The device: its reference (26 characters) or a certificate's identity (64 hex digits)
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows what a device holds. Exit code 1 if the ledger does not know it.
pub fn run(args: InventoryArgs) -> anyhow::Result<ExitCode> {
    let config = args.place.config(Vec::new())?;
    let data = config.data()?;
    let runtime = runtime()?;
    let inventory = runtime.block_on(up_to_date(&config))?;
    let found = match inventory.resolve(&args.device)? {
        Some(device) => inventory.inventory(&device, Clock::System.now())?,
        None => None,
    };
    let Some(found) = found else {
        eprintln!(
            "error: the ledger in {} does not know device `{}`; `license-ledger events` shows \
             those it knows",
            data.display(),
            args.device
        );
        return Ok(ExitCode::from(1));
    };
    if args.json {
        print_json(&found)?;
    } else {
        print(&found);
    }
    Ok(ExitCode::SUCCESS)
}

/// The inventory in `data`, with everything the ledger holds at present: kept by the process that
/// serves it, or brought up to date here if none does.
async fn up_to_date(config: &Config) -> anyhow::Result<Inventory> {
    let data = config.data()?;
    let ledger = match open::existing_ledger(config, data).await {
        Ok(ledger) => Arc::new(ledger),
        Err(error) if !open::is_in_use(&error) => return Err(error),
        // As far as the process that serves has followed the cluster.
        Err(_) if config.ledger.is_some() => return Ok(Inventory::open_read_only(data)?),
        Err(_) => return kept_by_another(data).await,
    };
    let inventory = Inventory::open(data, Arc::clone(&ledger)).await?;
    if let Some(last) = ledger.last_sequence().await? {
        inventory.wait_for(last).await?;
    }
    Ok(inventory)
}

async fn kept_by_another(data: &Path) -> anyhow::Result<Inventory> {
    let ledger = Embedded::open_read_only(data)?;
    let inventory = Inventory::open_read_only(data)?;
    let Some(last) = ledger.last_sequence()? else { return Ok(inventory) };
    let started = Instant::now();
    while inventory.progress()?.next_sequence <= last {
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "the serving process does not keep the inventory up to date; see its log"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(inventory)
}

fn print(inventory: &DeviceInventory) {
    println!("device {}", inventory.device);
    println!(
        "live {}  confirmed {}  possible {}  as of {}",
        inventory.live, inventory.confirmed, inventory.possible, inventory.as_of
    );
    print_reservations(inventory);
    print_voided(inventory);
    if inventory.licenses.is_empty() {
        println!("holds no persistent license");
        return;
    }
    println!("{:<38}{:<38}{:<20}{:<26}SESSION", "KID", "LICENSE", "STATUS", "ACQUIRED");
    for license in &inventory.licenses {
        let status = match license.status {
            LicenseStatus::Issued => "issued",
            LicenseStatus::Stored => "stored",
            LicenseStatus::StoreFailed => "store failed",
            LicenseStatus::DeletedUnreleased => "deleted, unreleased",
            LicenseStatus::WrittenOff => "written off",
            LicenseStatus::Deleted => "deleted",
            LicenseStatus::Voided => "voided",
        };
        let chain = match license.chain {
            None => String::new(),
            Some(ChainPart::Root) => "  root".to_owned(),
            Some(ChainPart::Leaf { root_key_id }) => format!("  leaf of {root_key_id}"),
        };
        let ended_by = match (&license.session, &license.license_reference) {
            (Some(session), _) => session.clone(),
            (None, reference) => {
                format!("{} {}", license.drm_system, reference.as_deref().unwrap_or_default())
            }
        };
        println!(
            "{:<38}{:<38}{status:<20}{:<26}{ended_by}{chain}",
            license.key_id.to_string(),
            license.license_id.to_string(),
            license.acquired_at.to_rfc3339(),
        );
    }
}

fn print_reservations(inventory: &DeviceInventory) {
    if inventory.reserved > 0 {
        println!("reserved {}, counted as well:", inventory.reserved);
    }
    for reservation in &inventory.reservations {
        for key_id in &reservation.key_ids {
            println!(
                "  {key_id}  until {}  reservation {}",
                reservation.expires_at.to_rfc3339(),
                reservation.reservation_id
            );
        }
    }
}

fn print_voided(inventory: &DeviceInventory) {
    if inventory.voided > 0 {
        println!("voided {}, no longer counted; the newest of them:", inventory.voided);
    }
    for license in &inventory.voided_licenses {
        let why = match license.reason.as_str() {
            "store_failed" => "store failed",
            _ => "not confirmed in time",
        };
        println!(
            "  {}  {}  {why}, voided {}",
            license.key_id,
            license.license_id,
            license.voided_at.to_rfc3339()
        );
    }
}
