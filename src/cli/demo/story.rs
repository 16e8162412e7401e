//! The story of the demo: each step says what it found, or fails if it is not what was promised.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use data_encoding::{BASE64, HEXLOWER};
use zeroize::Zeroizing;

use super::api::{Api, Inventory};
use super::screen::Screen;
use super::titles::Title;
use crate::cli::admin::Command;
use crate::cli::{control, pki};
use crate::clock::{Clock, UnixMillis};
use crate::playready::challenge::Message;
use crate::playready::delete::DeleteRequest;
use crate::playready::policy::SecurityLevel;
use crate::playready::soap::{FaultCode, FaultReply, Refusal};
use crate::simulator::store::Which;
use crate::simulator::{
    AcknowledgementOutcome, Acquired, Challenge, Deletion, Device, Endpoint, SimulatorError,
    send_deletion,
};

/// Steps of [`Story::tell`].
pub const STEPS: usize = 11;
const LAST_EVENTS: usize = 8;
/// How many of the held KIDs a refusal names (section 7 of the license protocol page).
const HELD_KIDS_NAMED_MAX: usize = 50;
/// Titles that each of the other devices stores.
const TITLES_OF_OTHERS: usize = 2;

/// The service that the story plays on.
pub struct Stage {
    /// Base URL.
    pub url: String,
    /// Key for the JSON API.
    pub api_key: Zeroizing<String>,
    /// Data directory.
    pub data: PathBuf,
    /// Public key infrastructure.
    pub pki: PathBuf,
    /// Persistent licenses a device.
    pub quota: u32,
}

/// A device in the story.
struct Player {
    name: String,
    device: Device,
}

/// Who and what takes part.
pub struct Story {
    endpoint: Endpoint,
    api: Api,
    quota: u32,
    /// The one that fills up.
    tv: Player,
    /// The one that attacks.
    tablet: Player,
    others: Vec<Player>,
    /// What the TV stores at first: as many as the quota allows.
    titles: Vec<Title>,
    /// What is too much.
    one_more: Title,
}

impl Story {
    /// Makes devices and titles, and registers the content keys.
    pub fn begin(stage: &Stage, devices: u32) -> anyhow::Result<Self> {
        let quota = usize::try_from(stage.quota)?;
        let titles = (0..quota).map(Title::package).collect::<Result<Vec<_>, _>>()?;
        let one_more = Title::package(quota)?;
        let keys = titles.iter().chain([&one_more]).map(|title| title.registration().into());
        let keys = keys.collect();
        control::ask(&stage.data, &Command::ImportKeys { keys })?
            .context("the service does not take commands")?;
        let player = |name: &str, level| -> anyhow::Result<Player> {
            let clock = Clock::System;
            let dir = pki::device(&stage.pki, name, level, &clock)?;
            Ok(Player { name: name.to_owned(), device: Device::open(&dir, None, clock)? })
        };
        let others =
            (3..=devices).map(|number| player(&format!("phone-{number}"), SecurityLevel::Software));
        Ok(Self {
            endpoint: Endpoint::new(&stage.url, None)?,
            api: Api::new(&stage.url, &stage.api_key),
            quota: stage.quota,
            tv: player("tv", SecurityLevel::Hardware)?,
            tablet: player("tablet", SecurityLevel::Software)?,
            others: others.collect::<Result<_, _>>()?,
            titles,
            one_more,
        })
    }

    /// Tells the story.
    ///
    /// # Errors
    ///
    /// The first thing that is not as promised.
    pub fn tell(mut self, screen: &mut Screen) -> anyhow::Result<()> {
        screen.step(&format!("the TV stores {} titles", self.quota));
        self.fill(screen)?;
        screen.step("one more is over the quota");
        self.over_quota(screen)?;
        screen.step("watching without storing is not counted");
        self.stream(screen)?;
        screen.step("the TV deletes one title securely");
        self.delete_first(screen)?;
        screen.step("a slot is free: the refused title is stored");
        let challenge = self.store_one_more(screen)?;
        screen.step("the same challenge again gets the same license, and nothing new is recorded");
        self.repeat(screen, &challenge)?;
        screen.step("attack: a challenge changed on its way");
        self.tampered(screen)?;
        screen.step("attack: the tablet deletes what the TV holds");
        self.foreign_delete(screen)?;
        screen.step("attack: an old deletion sent again after the title was stored again");
        self.replayed_delete(screen)?;
        screen.step("the other devices store titles of their own");
        self.others(screen)?;
        screen.step("the ledger's inventory is what the devices hold");
        self.compare(screen)
    }

    fn fill(&mut self, screen: &Screen) -> anyhow::Result<()> {
        for title in &self.titles {
            self.tv.store(&self.endpoint, title)?;
            screen.found(&format!("{}: stored, acknowledged, and it plays", title.name));
        }
        self.expect_live(&self.tv, self.titles.len())
    }

    fn over_quota(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let wanted = self.one_more.wanted().persistent();
        let fault = refused(self.tv.device.acquire(&self.endpoint, &wanted))?;
        let refusal = fault.refusal();
        let Some(Refusal::PersistentLicenseLimit { limit, held, requested, held_kids, .. }) =
            refusal
        else {
            bail!("refused for another reason: {fault}");
        };
        ensure!(
            (limit, held, requested) == (self.quota, self.quota, 1),
            "the refusal counts {held} of {limit} held and {requested} requested"
        );
        let named = self.titles.iter().filter(|title| held_kids.contains(&title.kid)).count();
        ensure!(
            named == held_kids.len() && named == self.titles.len().min(HELD_KIDS_NAMED_MAX),
            "the refusal does not name the titles that are held"
        );
        screen.found(&format!("refused with {}: {held} of {limit} slots are taken", fault.code));
        self.expect_live(&self.tv, self.titles.len())
    }

    fn stream(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let title = &self.one_more;
        let acquired = self.tv.device.acquire(&self.endpoint, &title.wanted())?;
        let persistent = acquired.answer.licenses.iter().any(|l| l.opened.policy.persist);
        ensure!(!persistent, "a license that may be stored was given");
        self.tv.plays(title)?;
        screen.found(&format!("{}: licensed for now, and it plays", title.name));
        self.expect_live(&self.tv, self.titles.len())
    }

    fn delete_first(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let title = self.titles.first().context("there is no title")?;
        let (session, _) = self.tv.delete(&self.endpoint, title)?;
        let held = |tv: &Player| tv.device.store().licenses().iter().any(|l| l.kid == title.id());
        ensure!(!held(&self.tv), "the license is still in the device's store");
        screen.found(&format!(
            "{}: removed; the answer names session {}, as sent",
            title.name,
            BASE64.encode(&session)
        ));
        self.expect_live(&self.tv, self.titles.len() - 1)
    }

    fn store_one_more(&mut self, screen: &Screen) -> anyhow::Result<Challenge> {
        let challenge = self.tv.store(&self.endpoint, &self.one_more)?;
        screen.found(&format!("{}: stored, acknowledged, and it plays", self.one_more.name));
        self.expect_live(&self.tv, self.titles.len())?;
        Ok(challenge)
    }

    fn repeat(&mut self, screen: &Screen, challenge: &Challenge) -> anyhow::Result<()> {
        let rights_ids = |tv: &Player| {
            tv.device.store().licenses().iter().map(|l| l.rights_id).collect::<Vec<_>>()
        };
        let (held, position) = (rights_ids(&self.tv), self.api.position()?);
        let repeated = self.tv.device.exchange(&self.endpoint, challenge)?;
        ensure!(rights_ids(&self.tv) == held, "the repeat gave another license");
        acknowledged(&repeated)?;
        self.tv.plays(&self.one_more)?;
        self.expect_position(position)?;
        screen.found(&format!(
            "same license, freshly wrapped; the ledger still has {position} events"
        ));
        Ok(())
    }

    fn tampered(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let position = self.api.position()?;
        let mut challenge = self.tv.device.challenge(&self.one_more.wanted().persistent())?;
        change_client_time(&mut challenge.bytes)?;
        let fault = refused(self.tv.device.exchange(&self.endpoint, &challenge))?;
        ensure!(fault.code == FaultCode::InvalidMessage, "refused for another reason: {fault}");
        self.expect_position(position)?;
        screen.found(&format!("refused with {}; nothing was recorded", fault.code));
        Ok(())
    }

    fn foreign_delete(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let position = self.api.position()?;
        let of_the_tv = self.tv.device.store().licenses().last().context("the TV holds nothing")?;
        let session = of_the_tv.session.0;
        let request = DeleteRequest { session, kids: vec![of_the_tv.kid.into()] };
        let challenge = self.tablet.device.sign(&Message::Delete(request))?;
        let fault = refused(send_deletion(&self.endpoint, &session, &challenge))?;
        let refusal = fault.refusal();
        ensure!(refusal == Some(Refusal::UnknownSession), "refused for another reason: {fault}");
        self.expect_position(position)?;
        self.expect_live(&self.tv, self.titles.len())?;
        screen.found(&format!("refused with {}: unknown session; nothing was freed", fault.code));
        Ok(())
    }

    fn replayed_delete(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let title = &self.one_more;
        let (session, challenge) = self.tv.delete(&self.endpoint, title)?;
        self.tv.store(&self.endpoint, title)?;
        let position = self.api.position()?;
        send_deletion(&self.endpoint, &session, &challenge)
            .context("the repeated deletion is not answered like the first")?;
        self.expect_position(position)?;
        self.expect_live(&self.tv, self.titles.len())?;
        screen.found("same answer as the first time; nothing was freed");
        Ok(())
    }

    fn others(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let titles = || self.titles.iter().take(TITLES_OF_OTHERS);
        for player in [&mut self.tablet].into_iter().chain(&mut self.others) {
            for title in titles() {
                player.store(&self.endpoint, title)?;
            }
            let names = titles().map(|title| title.name.as_str()).collect::<Vec<_>>().join(", ");
            screen.found(&format!("{}: {names}", player.name));
        }
        Ok(())
    }

    fn compare(&self, screen: &Screen) -> anyhow::Result<()> {
        screen.found(&format!(
            "{:<12}{:<18}{:>6}{:>11}{:>10}",
            "DEVICE", "IDENTITY", "LIVE", "CONFIRMED", "POSSIBLE"
        ));
        let mut licenses = Vec::new();
        for player in [&self.tv, &self.tablet].into_iter().chain(&self.others) {
            let Inventory { device, live, confirmed, possible, licenses: held } =
                self.inventory(player)?;
            ensure!(live == confirmed, "{}: {confirmed} of {live} are confirmed", player.name);
            let identity = HEXLOWER.encode(player.device.identity());
            let identity = identity.get(..16).unwrap_or_default();
            screen.found(&format!(
                "{:<12}{identity:<18}{live:>6}{confirmed:>11}{possible:>10}",
                player.name
            ));
            licenses.push(format!("{} is {device} in the ledger and holds", player.name));
            let name = |id: uuid::Uuid| {
                let title = self.titles.iter().chain([&self.one_more]).find(|t| t.id() == id);
                title.map_or_else(|| id.to_string(), |title| title.name.clone())
            };
            licenses.extend(held.iter().map(|license| {
                let name = name(license.key_id);
                format!("  {}  {:<8}{name}", license.license_id, license.status)
            }));
        }
        licenses.iter().for_each(|line| screen.found(line));
        self.last_events(screen)
    }

    fn last_events(&self, screen: &Screen) -> anyhow::Result<()> {
        let last = u64::try_from(LAST_EVENTS)?;
        let events = self.api.events(self.api.position()?.saturating_sub(last))?;
        ensure!(events.len() == LAST_EVENTS, "the ledger shows {} events", events.len());
        screen.print("\nthe last events");
        for event in events {
            let at = event.data.get("at_ms").and_then(serde_json::Value::as_i64);
            let at = UnixMillis(at.context("an event does not say when")?);
            screen
                .found(&format!("{:>4}  {at}  {:<24}{}", event.sequence, event.kind, event.stream));
        }
        Ok(())
    }

    /// The inventory of a device, which must be what is in the device's store.
    fn inventory(&self, player: &Player) -> anyhow::Result<Inventory> {
        let inventory = self.api.inventory(player.device.identity())?;
        let mut known: Vec<_> = inventory.licenses.iter().map(|held| held.license_id).collect();
        let store = player.device.store();
        let mut held: Vec<_> = store.licenses().iter().map(|license| license.rights_id).collect();
        known.sort_unstable();
        held.sort_unstable();
        ensure!(
            known == held,
            "the ledger knows {} licenses of the {} and it holds {}, or others",
            known.len(),
            player.name,
            held.len()
        );
        Ok(inventory)
    }

    fn expect_live(&self, player: &Player, titles: usize) -> anyhow::Result<()> {
        let live = self.inventory(player)?.live;
        ensure!(live == titles, "the ledger counts {live} titles of the {}", player.name);
        Ok(())
    }

    fn expect_position(&self, before: u64) -> anyhow::Result<()> {
        let after = self.api.position()?;
        ensure!(after == before, "the ledger had {before} events and has {after}");
        Ok(())
    }
}

impl Player {
    /// Stores a title, and proves the license by playing it.
    fn store(&mut self, endpoint: &Endpoint, title: &Title) -> anyhow::Result<Challenge> {
        let challenge = self.device.challenge(&title.wanted().persistent())?;
        let failed = || format!("{} on the {}", title.name, self.name);
        let acquired = self.device.exchange(endpoint, &challenge).with_context(failed)?;
        let licenses = &acquired.answer.licenses;
        let persistent = licenses.iter().all(|license| license.opened.policy.persist);
        ensure!(persistent && licenses.len() == 1, "{} is not one license to store", title.name);
        acknowledged(&acquired)?;
        self.plays(title)?;
        Ok(challenge)
    }

    fn plays(&mut self, title: &Title) -> anyhow::Result<()> {
        let media = self.device.play(title.kid, &title.sample)?;
        ensure!(media == title.media, "the sample of {} does not decrypt", title.name);
        Ok(())
    }

    /// Deletes a title. Returns the session that the service answered with, and the challenge.
    fn delete(
        &mut self,
        endpoint: &Endpoint,
        title: &Title,
    ) -> anyhow::Result<([u8; 16], Vec<u8>)> {
        let mut deletions = self.device.delete(endpoint, Which::Kid(title.kid))?;
        ensure!(deletions.len() == 1, "{} deletions were sent", deletions.len());
        let Deletion { record, challenge, outcome } =
            deletions.pop().context("no deletion was sent")?;
        outcome.with_context(|| format!("{} is not deleted", title.name))?;
        ensure!(self.device.store().deletions().is_empty(), "the record of it is still there");
        Ok((record.session.0, challenge))
    }
}

fn acknowledged(acquired: &Acquired) -> anyhow::Result<()> {
    match &acquired.acknowledgement {
        AcknowledgementOutcome::Taken => Ok(()),
        AcknowledgementOutcome::NotAsked => bail!("the service asks for no acknowledgement"),
        AcknowledgementOutcome::Failed(error) => bail!("the acknowledgement failed: {error}"),
    }
}

fn refused<T>(outcome: Result<T, SimulatorError>) -> anyhow::Result<FaultReply> {
    match outcome {
        Err(SimulatorError::Refused(fault)) => Ok(fault),
        Err(other) => Err(other.into()),
        Ok(_) => bail!("it was not refused"),
    }
}

/// Changes one digit of the signed `ClientTime`.
fn change_client_time(challenge: &mut [u8]) -> anyhow::Result<()> {
    const TAG: &[u8] = b"<ClientTime>";
    let tag = challenge.windows(TAG.len()).position(|window| window == TAG);
    let digit = tag.and_then(|at| challenge.get_mut(at + TAG.len()));
    let digit = digit.context("the challenge names no time")?;
    *digit = if *digit == b'1' { b'2' } else { b'1' };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::{Data, config};
    use crate::cli::service::Service;

    /// Tells the story of a service with one quota to somebody who expects another.
    fn told(quota: u32, expected: u32) -> (usize, anyhow::Result<()>) {
        let place = Data::choose(None).unwrap();
        let service = Service::start(&config(place.dir(), quota).unwrap(), Clock::System).unwrap();
        let stage = Stage {
            url: service.url(),
            api_key: service.admin_key.as_ref().unwrap().expose().to_owned().into(),
            data: place.dir().to_owned(),
            pki: service.pki.clone(),
            quota: expected,
        };
        let mut screen = Screen::new(STEPS);
        let told = Story::begin(&stage, 2).unwrap().tell(&mut screen);
        service.stop().unwrap();
        (screen.steps_begun(), told)
    }

    #[test]
    fn everything_is_as_promised_down_to_a_quota_of_one() {
        for quota in [1, 2] {
            let (steps, told) = told(quota, quota);
            told.unwrap();
            assert_eq!(steps, STEPS);
        }
    }

    #[test]
    fn a_service_that_allows_too_much_or_too_little_is_noticed() {
        let (step, told_more) = told(3, 2);
        assert_eq!((step, told_more.unwrap_err().to_string().as_str()), (2, "it was not refused"));
        let (step, told_less) = told(1, 2);
        assert_eq!(step, 1);
        assert!(format!("{:#}", told_less.unwrap_err()).contains("persistent_license_limit"));
    }

    #[test]
    fn a_changed_challenge_differs_in_one_digit_of_its_time() {
        let mut challenge = b"<ClientTime>1700</ClientTime>".to_vec();
        change_client_time(&mut challenge).unwrap();
        assert_eq!(challenge, b"<ClientTime>2700</ClientTime>");
        assert!(change_client_time(&mut b"<LA></LA>".to_vec()).is_err());
    }
}
