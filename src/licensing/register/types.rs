//! Settles how keys are used, on the word of those who register them or encrypt with them.

use super::keys::KEYS_AT_ONCE;
use super::{ATTEMPTS, RegisterError, Registry, is_race};
use crate::domain::event::{ContentKeyTyped, TypeStatedBy};
use crate::domain::{Event, KeyId, KeyRole, KeyType};
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
        Ok(settled.and_then(|settled| settled.key_use.key_type))
    }

    /// Settles these types, and the role if there is one. A type that was settled by a license only is
    /// replaced. Nothing is written if any of them is settled otherwise.
    ///
    /// # Errors
    /// [`RegisterError::TypeDiffers`], [`RegisterError::Root`].
    pub(super) async fn settle_types(
        &self,
        types: &[(KeyId, KeyType)],
        role: Option<KeyRole>,
        actor: &str,
    ) -> Result<(), RegisterError> {
        self.unsettled(types, role, actor).await?;
        for chunk in types.chunks(KEYS_AT_ONCE) {
            self.settle_chunk(chunk, role, actor).await?;
        }
        Ok(())
    }

    async fn settle_chunk(
        &self,
        chunk: &[(KeyId, KeyType)],
        role: Option<KeyRole>,
        actor: &str,
    ) -> Result<(), RegisterError> {
        for _ in 0..ATTEMPTS {
            let unsettled = self.unsettled(chunk, role, actor).await?;
            if unsettled.is_empty() {
                return Ok(());
            }
            let (mut events, mut checks) = (Vec::new(), Vec::new());
            for (typed, expected) in &unsettled {
                let stream = key_types::stream_of(typed.key_id).map_err(LicensingError::from)?;
                events.push((stream.clone(), Event::ContentKeyTyped(typed.clone())));
                checks.push((stream, *expected));
            }
            match self.append(&events, checks).await {
                Ok(()) => {
                    for (typed, _) in unsettled {
                        self.keys.remember_use(typed.key_id, typed.settles());
                    }
                    return Ok(());
                }
                Err(LicensingError::Append(error)) if is_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LicensingError::Contended.into())
    }

    /// What settles those of these types, and the role, that are not settled yet, and where their
    /// streams stand.
    async fn unsettled(
        &self,
        types: &[(KeyId, KeyType)],
        role: Option<KeyRole>,
        actor: &str,
    ) -> Result<Vec<(ContentKeyTyped, Expected)>, RegisterError> {
        let mut unsettled = Vec::new();
        for &(key_id, key_type) in types {
            let settled = key_types::find(&self.ledger, key_id).await?;
            let known = settled.as_ref().map(|settled| settled.key_use).unwrap_or_default();
            if role.is_some_and(|role| !known.allows(None, role)) {
                return Err(RegisterError::Root(key_id));
            }
            let stated_by = match (known.key_type, settled.as_ref()) {
                (Some(same), Some(settled)) if same == key_type => settled.stated_by.clone(),
                (Some(key_type), _) if known.is_final => {
                    return Err(RegisterError::TypeDiffers { key_id, key_type });
                }
                _ => None,
            };
            if stated_by.is_some() && (role.is_none() || known.role.is_some()) {
                continue;
            }
            let operator = || TypeStatedBy::Operator { actor: actor.to_owned() };
            let typed = ContentKeyTyped {
                key_id,
                key_type,
                stated_by: stated_by.unwrap_or_else(operator),
                role: known.role.or(role),
                at_ms: self.clock.now().0,
            };
            unsettled.push((typed, Settled::expected(settled.as_ref())));
        }
        Ok(unsettled)
    }
}
