//! What operators may ask about webhooks, and do; also while the service runs in another process.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::store::{DeadLetter, State, Store, StoreError};
use super::{Card, Endpoint};
use crate::clock::Clock;
use crate::domain::event::WebhookChange;

/// Answers questions about endpoints, and changes how they are told.
pub struct Desk {
    store: Arc<Store>,
    clock: Clock,
    cards: Vec<Card>,
}

/// An endpoint and how delivery to it stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub struct View {
    /// Its configuration.
    #[serde(flatten)]
    pub card: Card,
    /// How delivery stands.
    #[serde(flatten)]
    pub state: State,
}

/// What was asked for cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The configuration has no such endpoint, or it was never served.
    #[error("there is no webhook endpoint `{0}`")]
    NoEndpoint(String),
    /// The range holds nothing, or what has not happened yet.
    #[error(
        "a replay goes from a position up to a later one, at most {end}, up to where messages are made"
    )]
    Range {
        /// The place up to which messages are made.
        end: u64,
    },
    /// There is no dead letter of this id.
    #[error("the endpoint has no dead letter with this message id")]
    NoLetter,
    /// The file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Desk {
    pub(super) fn new(store: Arc<Store>, clock: Clock, endpoints: &[Endpoint]) -> Self {
        let cards = endpoints.iter().map(|endpoint| endpoint.card.clone()).collect();
        Self { store, clock, cards }
    }

    /// Opens the desk of the service whose data is in `dir`, whether it runs or not.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] if no webhook was ever sent from there.
    pub fn open(dir: &Path, clock: Clock, endpoints: &[Endpoint]) -> Result<Self, StoreError> {
        Ok(Self::new(Arc::new(Store::open_existing(dir)?), clock, endpoints))
    }

    /// All endpoints that are served, in the order of the configuration.
    pub fn list(&self) -> Result<Vec<View>, DeskError> {
        let views = self.cards.iter().filter_map(|card| match self.store.state(&card.id) {
            Ok(state) => state.map(|state| Ok(View { card: card.clone(), state })),
            Err(error) => Some(Err(error.into())),
        });
        views.collect()
    }

    /// One endpoint.
    pub fn show(&self, id: &str) -> Result<View, DeskError> {
        let unknown = || DeskError::NoEndpoint(id.to_owned());
        let card = self.cards.iter().find(|card| card.id == id).ok_or_else(unknown)?;
        let state = self.store.state(id)?.ok_or_else(unknown)?;
        Ok(View { card: card.clone(), state })
    }

    /// The place of the ledger up to which messages are made.
    pub fn position(&self) -> Result<u64, DeskError> {
        Ok(self.store.folded()?)
    }

    /// Up to `limit` dead letters behind the place `after`, in the order of the ledger.
    pub fn dead_letters(
        &self,
        id: &str,
        after: Option<(u64, u8)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DeskError> {
        self.show(id)?;
        Ok(self.store.dead_letters(id, after, limit)?)
    }

    /// Changes how an endpoint is told.
    pub fn change(&self, id: &str, change: &WebhookChange) -> Result<View, DeskError> {
        match change {
            WebhookChange::Enabled => self.enable(id),
            WebhookChange::Disabled => self.disable(id),
            WebhookChange::RangeReplayed { from, to } => self.replay_range(id, *from, *to),
            WebhookChange::DeadLettersReplayed { message_id } => {
                self.replay_dead_letters(id, *message_id)
            }
        }
    }

    /// Has everything from one position up to another sent again, delivered or not.
    fn replay_range(&self, id: &str, from: u64, to: u64) -> Result<View, DeskError> {
        self.show(id)?;
        // What was told is not taken back while another version of the service counts again.
        let end = self.store.folded()?.max(self.store.standing(id)?.next_sequence);
        if from >= to || to > end {
            return Err(DeskError::Range { end });
        }
        self.store.replay_range(id, from, to)?;
        self.show(id)
    }

    /// Has a dead letter sent again, with all its attempts before it; all of them if none is named.
    fn replay_dead_letters(&self, id: &str, message_id: Option<Uuid>) -> Result<View, DeskError> {
        self.show(id)?;
        let revived = self.store.revive(id, message_id, self.clock.now().0)?;
        if revived == 0 && message_id.is_some() {
            return Err(DeskError::NoLetter);
        }
        self.show(id)
    }

    /// Tells the endpoint again, from where it stopped. What failed is tried at once.
    fn enable(&self, id: &str) -> Result<View, DeskError> {
        self.show(id)?;
        self.store.enable(id, self.clock.now().0)?;
        self.show(id)
    }

    /// Tells the endpoint nothing any more. What happens meanwhile waits in the ledger.
    fn disable(&self, id: &str) -> Result<View, DeskError> {
        self.show(id)?;
        self.store.disable(id, self.clock.now().0, "operator")?;
        self.show(id)
    }
}
