//! `AcquirePackagingData`: how a PlayReady packager asks for keys (section 13 of the license
//! protocol page, which says what of it is published and what is ours).
//!
//! Nothing in it is signed or encrypted, and it hands out content keys. It is answered on a listener
//! of its own, to callers with an API key for packaging. `ProgramIdentifier`, the page's content
//! id, is the KID as GUID text.

use std::collections::HashMap;

use data_encoding::BASE64;
use uuid::Uuid;

use super::signaling::{Scheme, Signaling, System};
use crate::keys::ContentKey;
use crate::playready::kid::Kid;
use crate::playready::policy;
use crate::playready::soap::{self, Fault, FaultCode, Refusal};
use crate::playready::xml::{Document, Element, PROTOCOLS, Writer};

/// The namespace of `challenge` and what is below it.
const VERSION_1: &str =
    "http://schemas.microsoft.com/DRM/2007/03/protocols/AcquirePackagingData/v1.0";
/// Programs of one request.
const PROGRAMS_MAX: usize = 1_000;

/// What a packager asks for.
#[derive(Debug)]
pub struct PackagingRequest {
    programs: Vec<Program>,
}

#[derive(Debug)]
struct Program {
    /// As the packager wrote it.
    identifier: String,
    key_id: Uuid,
}

/// A fault to answer with.
#[derive(Debug)]
pub struct PackagingFault(Fault);

impl PackagingFault {
    /// A KID has no key.
    pub fn unknown_key(key_id: Uuid) -> Self {
        Self(Fault::refused(Refusal::KeyUnknown { kids: vec![Kid::from(key_id)] }))
    }

    /// A KID's key is that of root licenses, which is never used for content.
    pub fn root_key() -> Self {
        let refusal = policy::Refusal::from(policy::Conflict::RootKidReserved);
        Self(Fault::refused(refusal.into()))
    }

    /// The service failed.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self(Fault::new(FaultCode::Internal, detail))
    }

    /// The SOAP document.
    pub fn render(&self) -> Vec<u8> {
        self.0.render()
    }
}

impl std::fmt::Display for PackagingFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: Into<Fault>> From<E> for PackagingFault {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl PackagingRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// 8004C601 for what is no such request, 8004C604 for a program identifier that is no KID.
    pub fn read(body: &[u8]) -> Result<Self, PackagingFault> {
        let document = Document::parse(body).map_err(Fault::invalid_message)?;
        let body = soap::body(&document)?;
        let challenge = body
            .only_child(PROTOCOLS, "AcquirePackagingData")
            .and_then(|operation| operation.only_child(VERSION_1, "challenge"))
            .ok_or_else(|| body.problem("does not hold exactly one AcquirePackagingData"))?;
        let systems = challenge.required(VERSION_1, "ProtectionSystems")?;
        if !systems.children().any(is_playready) {
            return Err(systems.problem("does not name PlayReady").into());
        }
        let streams = challenge.required(VERSION_1, "StreamProtectionRequests")?;
        let programs = streams.children().map(program).collect::<Result<Vec<_>, _>>()?;
        if programs.is_empty() || programs.len() > PROGRAMS_MAX {
            return Err(streams.problem("does not hold 1 to 1000 programs").into());
        }
        Ok(Self { programs })
    }

    /// The KIDs asked for, each once.
    pub fn key_ids(&self) -> Vec<Uuid> {
        let mut key_ids: Vec<_> = self.programs.iter().map(|program| program.key_id).collect();
        key_ids.sort_unstable();
        key_ids.dedup();
        key_ids
    }

    /// The answer. `keys` has the key of each KID asked for, and the scheme that it is for.
    ///
    /// # Errors
    /// A fault if a key is not there or its header too large.
    pub fn answer(
        &self,
        keys: &HashMap<Uuid, (ContentKey, Scheme)>,
        license_url: Option<&str>,
    ) -> Result<Vec<u8>, PackagingFault> {
        let mut streams = Vec::with_capacity(self.programs.len());
        for program in &self.programs {
            let key = keys.get(&program.key_id);
            let (key, scheme) = key.ok_or_else(|| PackagingFault::unknown_key(program.key_id))?;
            let keyed = (program.key_id, Some(key));
            let signaling = Signaling::new(System::PlayReady, keyed, *scheme, license_url);
            let signaling = signaling.map_err(PackagingFault::internal)?;
            streams.push((program, key, signaling));
        }
        Ok(soap::answer(|w| {
            w.element("AcquirePackagingDataResponse", &[("xmlns", PROTOCOLS)], |w| {
                w.element("AcquirePackagingDataResult", &[], |w| {
                    for (program, key, signaling) in &streams {
                        write_stream(w, program, key, signaling);
                    }
                });
            });
        }))
    }
}

fn is_playready(element: Element<'_, '_>) -> bool {
    let id = element.is(VERSION_1, "ProtectionSystemId").then(|| element.guid().ok()).flatten();
    id.and_then(System::from_id) == Some(System::PlayReady)
}

fn program(element: Element<'_, '_>) -> Result<Program, PackagingFault> {
    if !element.is(VERSION_1, "StreamInformation") {
        return Err(element.problem("is not a StreamInformation").into());
    }
    let identifier = element.required(VERSION_1, "ProgramIdentifier")?;
    let text = identifier.trimmed()?.into_owned();
    match identifier.guid() {
        Ok(key_id) => Ok(Program { identifier: text, key_id }),
        // A content id that this server has not: as one whose key is not known.
        Err(_) => Err(PackagingFault(Fault::refused(Refusal::KeyUnknown { kids: Vec::new() }))),
    }
}

fn write_stream(w: &mut Writer, program: &Program, key: &ContentKey, signaling: &Signaling) {
    let object = signaling.playready.as_ref().map(|playready| &playready.smooth_streaming);
    w.element("StreamInformation", &[], |w| {
        w.leaf("ProgramIdentifier", &program.identifier);
        w.leaf("KeyId", &program.key_id.to_string());
        w.leaf("KeyData", &zeroize::Zeroizing::new(BASE64.encode(key.as_slice())));
        w.element("ProtectionSystems", &[], |w| {
            w.element("ProtectionSystem", &[], |w| {
                let id = Uuid::from_bytes(crate::playready::header::SYSTEM_ID);
                w.leaf("ProtectionSystemId", &id.to_string());
                w.leaf("Data", object.map(String::as_str).unwrap_or_default());
            });
        });
    });
}

#[cfg(test)]
mod tests;
