//! What the devices of the demo want to play.

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::domain::KeyId;
use crate::keys;
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::header::HeaderVersion;
use crate::playready::kid::Kid;
use crate::simulator::{Sample, SimulatorError, Wanted, WantedKey, with_os_random};

const FILMS: [&str; 8] = [
    "A Trip to the Moon",
    "Nosferatu",
    "The General",
    "Metropolis",
    "Safety Last!",
    "The Kid",
    "Sherlock Jr.",
    "Wings",
];

/// A title as its packager has it: with the key.
pub struct Title {
    /// What people call it.
    pub name: String,
    /// Its key id.
    pub kid: Kid,
    key: ContentKey,
    /// What its first pictures look like.
    pub media: Vec<u8>,
    /// The same, encrypted.
    pub sample: Sample,
}

impl Title {
    /// Packages a title with a fresh key.
    pub fn package(number: usize) -> Result<Self, SimulatorError> {
        let name = match FILMS.get(number) {
            Some(film) => (*film).to_owned(),
            None => format!("Title {}", number.saturating_add(1)),
        };
        let random = with_os_random(|random| {
            let [mut kid, mut counter] = [[0; 16]; 2];
            let mut key = Zeroizing::new([0; 16]);
            random(&mut kid);
            random(&mut counter);
            random(&mut *key);
            (uuid::Builder::from_random_bytes(kid).into_uuid(), ContentKey::new(*key), counter)
        });
        let (kid, key, counter) = random?;
        let media = format!("the first pictures of {name}; ").repeat(40).into_bytes();
        let sample = Sample::encrypt(&key, KeyType::AesCtr, counter, &media);
        Ok(Self { name, kid: Kid::from(kid), key, media, sample })
    }

    /// What a service registers.
    pub fn registration(&self) -> (KeyId, keys::ContentKey) {
        (KeyId(self.id()), Zeroizing::new(*self.key.expose()))
    }

    /// The KID as the API writes it.
    pub fn id(&self) -> Uuid {
        self.kid.guid()
    }

    /// Asks for a license, with the checksum that the title's header states.
    pub fn wanted(&self) -> Wanted {
        let key = WantedKey { kid: self.kid, checksum: Some(self.key.checksum(self.kid)) };
        Wanted { keys: vec![key], header_version: HeaderVersion::V4_2, ..Wanted::one(self.kid) }
    }
}
