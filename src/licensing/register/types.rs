//! Settles how keys encrypt, on the word of those who register them or encrypt with them.

use super::keys::KEYS_AT_ONCE;
use super::{ATTEMPTS, RegisterError, Registry, is_race};
use crate::domain::event::{ContentKeyTyped, TypeStatedBy};
use crate::domain::{Event, KeyId, KeyType};
use crate::ledger::Expected;
use crate::licensing::LicensingError;
use crate::licensing::key_types::{self, Settled};

impl Registry {
    /// How the KID's key encrypts, if that is settled.
    pub async fn key_type(&self, key_id: KeyId) -> Result<Option<KeyType>, LicensingError> {
        if let Some(key_type) = self.keys.key_type(key_id) {
            return Ok(Some(key_type));
        }
        let settled = key_types::find(&self.ledger, key_id).await?;
        Ok(settled.map(|settled| settled.key_type))
    }

    /// Settles these types. What was settled by a license only is replaced. Nothing is written if
    /// any of them is settled otherwise.
    ///
    /// # Errors
    /// [`RegisterError::TypeDiffers`].
    pub(super) async fn settle_types(
        &self,
        types: &[(KeyId, KeyType)],
        actor: &str,
    ) -> Result<(), RegisterError> {
        self.unsettled(types).await?;
        for chunk in types.chunks(KEYS_AT_ONCE) {
            self.settle_chunk(chunk, actor).await?;
        }
        Ok(())
    }

    async fn settle_chunk(
        &self,
        chunk: &[(KeyId, KeyType)],
        actor: &str,
    ) -> Result<(), RegisterError> {
        for _ in 0..ATTEMPTS {
            let unsettled = self.unsettled(chunk).await?;
            if unsettled.is_empty() {
                return Ok(());
            }
            let (mut events, mut checks) = (Vec::new(), Vec::new());
            for &(key_id, key_type, expected) in &unsettled {
                let stream = key_types::stream_of(key_id).map_err(LicensingError::from)?;
                let stated_by = TypeStatedBy::Operator { actor: actor.to_owned() };
                let at_ms = self.clock.now().0;
                let typed = ContentKeyTyped { key_id, key_type, stated_by, at_ms };
                events.push((stream.clone(), Event::ContentKeyTyped(typed)));
                checks.push((stream, expected));
            }
            match self.append(&events, checks).await {
                Ok(()) => {
                    for (key_id, key_type, _) in unsettled {
                        self.keys.remember_type(key_id, key_type, true);
                    }
                    return Ok(());
                }
                Err(LicensingError::Append(error)) if is_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LicensingError::Contended.into())
    }

    /// Those of these types that are not settled yet, and where their streams stand.
    async fn unsettled(
        &self,
        types: &[(KeyId, KeyType)],
    ) -> Result<Vec<(KeyId, KeyType, Expected)>, RegisterError> {
        let mut unsettled = Vec::new();
        for (key_id, key_type) in types {
            let settled = key_types::find(&self.ledger, *key_id).await?;
            match &settled {
                Some(settled) if settled.key_type == *key_type => {}
                Some(Settled { key_type, is_final: true, .. }) => {
                    return Err(RegisterError::TypeDiffers {
                        key_id: *key_id,
                        key_type: *key_type,
                    });
                }
                _ => {
                    let expected = Settled::expected(settled.as_ref());
                    unsettled.push((*key_id, *key_type, expected));
                }
            }
        }
        Ok(unsettled)
    }
}
