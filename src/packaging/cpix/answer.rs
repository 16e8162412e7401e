//! From a [`Request`] and the keys to the document that answers it.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Attributes, CPIX, Copied, DS, Delivery, ExchangeError, Playlist, Request, Wanted};
use crate::clock::UnixMillis;
use crate::keys::ContentKey;
use crate::packaging::delivery::{DocumentKeys, Encrypted, Trusted};
use crate::packaging::signaling::Signaling;
use crate::playready::xml::{ENCRYPTION, Writer};

const PSKC: &str = "urn:ietf:params:xml:ns:keyprov:pskc";
const AES_256_CBC: &str = "http://www.w3.org/2001/04/xmlenc#aes256-cbc";
const RSA_OAEP: &str = "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p";
const HMAC_SHA_512: &str = "http://www.w3.org/2001/04/xmldsig-more#hmac-sha512";

/// How keys go out.
pub enum Delivered {
    /// As they are.
    Plain,
    /// Encrypted under the keys of this document.
    Encrypted {
        /// Those keys.
        keys: DocumentKeys,
        /// They, wrapped for each `DeliveryData` of the request.
        wrapped: Vec<[Vec<u8>; 2]>,
    },
}

impl Request {
    /// How this request's keys may go out: encrypted for its certificates, if all of them are
    /// trusted; as they are if it has none and `plain_keys` allows that.
    ///
    /// # Errors
    /// [`ExchangeError::Certificate`], [`ExchangeError::PlainKeys`].
    pub fn delivery(
        &self,
        trusted: &Trusted,
        plain_keys: bool,
        now: UnixMillis,
    ) -> Result<Delivered, ExchangeError> {
        if self.recipients.is_empty() {
            return if plain_keys { Ok(Delivered::Plain) } else { Err(ExchangeError::PlainKeys) };
        }
        let keys = DocumentKeys::random()?;
        let wrapped = (1..).zip(&self.recipients).map(|(number, delivery)| {
            let recipient = trusted.check(&delivery.certificate, now);
            let refused = |source| ExchangeError::Certificate { number, source };
            Ok(keys.wrap(&recipient.map_err(refused)?)?)
        });
        let wrapped = wrapped.collect::<Result<_, ExchangeError>>()?;
        Ok(Delivered::Encrypted { keys, wrapped })
    }

    /// The document that answers the request. `keys` has the key of each of its KIDs.
    ///
    /// # Errors
    /// [`ExchangeError::Signaling`], [`ExchangeError::Missing`] for a KID without a key.
    pub fn answer(
        &self,
        keys: &HashMap<Uuid, ContentKey>,
        delivered: &Delivered,
        license_url: Option<&str>,
    ) -> Result<Vec<u8>, ExchangeError> {
        let key_of = |key_id: Uuid| {
            keys.get(&key_id).ok_or_else(|| ExchangeError::Missing(format!("key of {key_id}")))
        };
        let mut secrets = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let value = key_of(key.key_id)?;
            secrets.push(match delivered {
                Delivered::Plain => Secret::Plain(value),
                Delivered::Encrypted { keys, .. } => Secret::Encrypted(keys.encrypt(value)?),
            });
        }
        let signaled = self.systems.iter().map(|wanted| {
            let key = (wanted.key_id, Some(key_of(wanted.key_id)?));
            Ok(Signaling::new(wanted.system, key, self.scheme, license_url)?)
        });
        let signaled = signaled.collect::<Result<Vec<_>, ExchangeError>>()?;
        let mut w = Writer::with_capacity(4096);
        w.raw("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        let spaces = [
            ("xmlns:cpix", CPIX),
            ("xmlns:ds", DS),
            ("xmlns:enc", ENCRYPTION),
            ("xmlns:pskc", PSKC),
        ];
        let attributes: Vec<_> = spaces.into_iter().chain(borrowed(&self.attributes)).collect();
        w.element("cpix:CPIX", &attributes, |w| {
            if let Delivered::Encrypted { wrapped, .. } = delivered {
                w.element("cpix:DeliveryDataList", &[], |w| {
                    for (delivery, wrapped) in self.recipients.iter().zip(wrapped) {
                        write_delivery(w, delivery, wrapped);
                    }
                });
            }
            w.element("cpix:ContentKeyList", &[], |w| {
                for (key, secret) in self.keys.iter().zip(&secrets) {
                    write_key(w, &key.attributes, secret);
                }
            });
            w.element("cpix:DRMSystemList", &[], |w| {
                for (system, signaling) in self.systems.iter().zip(&signaled) {
                    let attributes: Vec<_> = borrowed(&system.attributes).collect();
                    w.element("cpix:DRMSystem", &attributes, |w| {
                        system.wanted.iter().for_each(|part| write_part(w, *part, signaling));
                    });
                }
            });
            self.copied.iter().for_each(|part| write_copied(w, part));
        });
        Ok(w.finish().into_bytes())
    }
}

enum Secret<'a> {
    Plain(&'a ContentKey),
    Encrypted(Encrypted),
}

fn borrowed(attributes: &Attributes) -> impl Iterator<Item = (&str, &str)> {
    attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

fn write_delivery(w: &mut Writer, delivery: &Delivery, [document, mac]: &[Vec<u8>; 2]) {
    let attributes: Vec<_> = borrowed(&delivery.attributes).collect();
    w.element("cpix:DeliveryData", &attributes, |w| {
        w.element("cpix:DeliveryKey", &[], |w| {
            w.element("ds:X509Data", &[], |w| {
                w.base64("ds:X509Certificate", &delivery.certificate);
            });
        });
        w.element("cpix:DocumentKey", &[("Algorithm", AES_256_CBC)], |w| {
            w.element("cpix:Data", &[], |w| {
                w.element("pskc:Secret", &[], |w| {
                    w.element("pskc:EncryptedValue", &[], |w| write_cipher(w, RSA_OAEP, document));
                });
            });
        });
        w.element("cpix:MACMethod", &[("Algorithm", HMAC_SHA_512)], |w| {
            w.element("cpix:Key", &[], |w| write_cipher(w, RSA_OAEP, mac));
        });
    });
}

fn write_cipher(w: &mut Writer, algorithm: &str, value: &[u8]) {
    w.element("enc:EncryptionMethod", &[("Algorithm", algorithm)], |_| ());
    w.element("enc:CipherData", &[], |w| w.base64("enc:CipherValue", value));
}

fn write_key(w: &mut Writer, attributes: &Attributes, secret: &Secret<'_>) {
    let attributes: Vec<_> = borrowed(attributes).collect();
    w.element("cpix:ContentKey", &attributes, |w| {
        w.element("cpix:Data", &[], |w| {
            w.element("pskc:Secret", &[], |w| match secret {
                Secret::Plain(key) => w.base64("pskc:PlainValue", key.as_slice()),
                Secret::Encrypted(encrypted) => {
                    w.element("pskc:EncryptedValue", &[], |w| {
                        write_cipher(w, AES_256_CBC, &encrypted.cipher_value);
                    });
                    w.base64("pskc:ValueMAC", &encrypted.mac);
                }
            });
        });
    });
}

/// A piece of signaling, as it was asked for.
fn write_part(w: &mut Writer, part: Wanted, signaling: &Signaling) {
    let name = format!("cpix:{}", part.name());
    let playready = |value: fn(&crate::packaging::signaling::PlayReadySignaling) -> &str| {
        signaling.playready.as_ref().map(value).unwrap_or_default()
    };
    match part {
        Wanted::Pssh => w.base64(&name, &signaling.pssh),
        Wanted::ContentProtection => w.base64(&name, signaling.content_protection.as_bytes()),
        Wanted::UriExtXKey => w.base64(&name, playready(|p| &p.hls_uri).as_bytes()),
        Wanted::SmoothStreaming => w.leaf(&name, playready(|p| &p.smooth_streaming)),
        Wanted::Hls(playlist) => {
            let (tag, attribute) = match playlist {
                None => ("#EXT-X-KEY", None),
                Some(Playlist::Media) => ("#EXT-X-KEY", Some(("playlist", "media"))),
                Some(Playlist::Master) => ("#EXT-X-SESSION-KEY", Some(("playlist", "master"))),
            };
            let line = format!("{tag}:{}", playready(|p| &p.hls_attributes));
            w.element(&name, attribute.as_slice(), |w| w.base64_text(line.as_bytes()));
        }
    }
}

fn write_copied(w: &mut Writer, part: &Copied) {
    let attributes: Vec<_> = borrowed(&part.attributes).collect();
    w.element(&format!("cpix:{}", part.name), &attributes, |w| {
        part.children.iter().for_each(|child| write_copied(w, child));
    });
}
