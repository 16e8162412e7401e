//! From bytes to a [`Request`].

use uuid::Uuid;

use super::{
    Attributes, CPIX, CPIX_VERSION, Copied, DS, Delivery, ExchangeError, KeyRequest, Playlist,
    REQUEST_BYTES_MAX, Request, SPEKE_VERSION, SystemRequest, Wanted,
};
use crate::packaging::signaling::{Scheme, System};
use crate::playready::xml::{Document, Element};

impl Request {
    /// Reads a request. `speke_version` is what the header `X-Speke-Version` says.
    ///
    /// # Errors
    /// [`ExchangeError`], with the part of the request that is to blame.
    pub fn read(speke_version: Option<&str>, body: &[u8]) -> Result<Self, ExchangeError> {
        if speke_version.map(str::trim) != Some(SPEKE_VERSION) {
            return Err(ExchangeError::SpekeVersion);
        }
        let document = Document::parse_up_to(body, REQUEST_BYTES_MAX);
        let document = document.map_err(ExchangeError::Xml)?;
        let root = document.root();
        if !root.is(CPIX, "CPIX") {
            return Err(ExchangeError::NotCpix);
        }
        let version = required(root, "version", "CPIX@version")?;
        if version.trim() != CPIX_VERSION {
            return Err(ExchangeError::CpixVersion(version.to_owned()));
        }
        required(root, "contentId", "CPIX@contentId")?;
        let mut attributes = attributes(root);
        // Replaced by contentId in this profile.
        attributes.retain(|(name, _)| name != "id");
        refuse_others(root, |child| {
            matches!(
                child.local_name(),
                "DeliveryDataList"
                    | "ContentKeyList"
                    | "DRMSystemList"
                    | "ContentKeyPeriodList"
                    | "ContentKeyUsageRuleList"
                    | "UpdateHistoryItemList"
            )
        })?;
        let (scheme, keys) = keys(root)?;
        let listed = |field, key_id: Uuid| match keys.iter().any(|key| key.key_id == key_id) {
            true => Ok(key_id),
            false => Err(ExchangeError::KeyNotListed { field, key_id }),
        };
        let systems = items(root, "DRMSystemList", "DRMSystem")?;
        let systems = systems.into_iter().map(|element| system(element, &listed));
        let systems = systems.collect::<Result<_, _>>()?;
        for rule in items(root, "ContentKeyUsageRuleList", "ContentKeyUsageRule")? {
            listed("ContentKeyUsageRule@kid", guid(rule, "kid", "ContentKeyUsageRule@kid")?)?;
            required(rule, "intendedTrackType", "ContentKeyUsageRule@intendedTrackType")?;
        }
        let mut parts = Vec::new();
        for name in ["ContentKeyPeriodList", "ContentKeyUsageRuleList"] {
            parts.extend(root.optional(CPIX, name)?.map(copied).transpose()?);
        }
        let recipients = recipients(root)?;
        Ok(Self { attributes, recipients, scheme, keys, systems, copied: parts })
    }
}

fn keys(root: Element<'_, '_>) -> Result<(Scheme, Vec<KeyRequest>), ExchangeError> {
    let (mut schemes, mut keys) = (Vec::new(), Vec::<KeyRequest>::new());
    for element in items(root, "ContentKeyList", "ContentKey")? {
        let key_id = guid(element, "kid", "ContentKey@kid")?;
        let scheme = element.attribute("commonEncryptionScheme").ok_or_else(|| {
            let missing = format!("ContentKey@commonEncryptionScheme for KID {key_id}");
            ExchangeError::Missing(missing)
        })?;
        let unsupported = || ExchangeError::Scheme(scheme.to_owned());
        let scheme = Scheme::from_name(scheme).ok_or_else(unsupported)?;
        if let Some(first) = keys.iter().position(|key| key.key_id == key_id) {
            return Err(match schemes.get(first) {
                Some(other) if *other != scheme => ExchangeError::KeyOfBothSchemes(key_id),
                _ => ExchangeError::KeyTwice(key_id),
            });
        }
        schemes.push(scheme);
        let iv = element.attribute("explicitIV").map(|iv| {
            data_encoding::BASE64.decode(iv.trim().as_bytes()).is_ok_and(|iv| iv.len() == 16)
        });
        if iv == Some(false) {
            return Err(ExchangeError::ExplicitIv);
        }
        if element.attribute("dependsOnKey").is_some() {
            return Err(ExchangeError::Unsupported("ContentKey@dependsOnKey".to_owned()));
        }
        // Keys are made here, so a request brings none.
        refuse_others(element, |_| false)?;
        keys.push(KeyRequest { key_id, attributes: attributes(element) });
    }
    match schemes.first() {
        Some(first) if schemes.iter().all(|scheme| scheme == first) => Ok((*first, keys)),
        _ => Err(ExchangeError::MixedSchemes),
    }
}

fn system(
    element: Element<'_, '_>,
    listed: &impl Fn(&'static str, Uuid) -> Result<Uuid, ExchangeError>,
) -> Result<SystemRequest, ExchangeError> {
    let key_id = listed("DRMSystem@kid", guid(element, "kid", "DRMSystem@kid")?)?;
    let id = guid(element, "systemId", "DRMSystem@systemId")?;
    let system = System::from_id(id).ok_or(ExchangeError::System(id))?;
    let mut parts = Vec::new();
    for child in element.children() {
        let part = wanted(child)?;
        let only_playready = !matches!(part, Wanted::Pssh | Wanted::ContentProtection);
        if only_playready && system != System::PlayReady {
            return Err(ExchangeError::NoSignaling(part.name()));
        }
        if parts.contains(&part) {
            return Err(child.problem("appears more than once").into());
        }
        parts.push(part);
    }
    Ok(SystemRequest { key_id, system, attributes: attributes(element), wanted: parts })
}

fn wanted(element: Element<'_, '_>) -> Result<Wanted, ExchangeError> {
    let parts = [
        Wanted::Pssh,
        Wanted::ContentProtection,
        Wanted::UriExtXKey,
        Wanted::Hls(None),
        Wanted::SmoothStreaming,
    ];
    let part = parts.into_iter().find(|part| element.is(CPIX, part.name()));
    let part = part.ok_or_else(|| unsupported(element))?;
    refuse_others(element, |_| false)?;
    if part != Wanted::Hls(None) {
        return Ok(part);
    }
    Ok(Wanted::Hls(match element.attribute("playlist") {
        None => None,
        Some("media") => Some(Playlist::Media),
        Some("master") => Some(Playlist::Master),
        Some(_) => {
            return Err(element.problem("has a playlist other than media and master").into());
        }
    }))
}

fn recipients(root: Element<'_, '_>) -> Result<Vec<Delivery>, ExchangeError> {
    if root.optional(CPIX, "DeliveryDataList")?.is_none() {
        return Ok(Vec::new());
    }
    let recipients = items(root, "DeliveryDataList", "DeliveryData")?.into_iter().map(|element| {
        refuse_others(element, |child| child.is(CPIX, "DeliveryKey"))?;
        let key = element.required(CPIX, "DeliveryKey")?.required(DS, "X509Data")?;
        let certificate = key.required(DS, "X509Certificate")?.base64()?;
        Ok(Delivery { attributes: attributes(element), certificate })
    });
    recipients.collect()
}

/// A part and all below it, which must be of CPIX and hold no text.
fn copied(element: Element<'_, '_>) -> Result<Copied, ExchangeError> {
    let name = element.local_name().to_owned();
    if !element.is(CPIX, &name) || element.text().is_some_and(|text| !text.trim().is_empty()) {
        return Err(unsupported(element));
    }
    let children = element.children().map(copied).collect::<Result<_, _>>()?;
    Ok(Copied { name, attributes: attributes(element), children })
}

/// The items of a list that must be there and hold at least one, and nothing else.
fn items<'d, 'a>(
    root: Element<'d, 'a>,
    list: &'static str,
    item: &'static str,
) -> Result<Vec<Element<'d, 'a>>, ExchangeError> {
    let missing = |what: &str| ExchangeError::Missing(what.to_owned());
    let list_element = root.optional(CPIX, list)?.ok_or_else(|| missing(list))?;
    refuse_others(list_element, |child| child.is(CPIX, item))?;
    let items: Vec<_> = list_element.children().collect();
    if items.is_empty() { Err(missing(item)) } else { Ok(items) }
}

/// Refuses children of other namespaces, and of CPIX those that are not `known`.
fn refuse_others(
    element: Element<'_, '_>,
    known: impl Fn(Element<'_, '_>) -> bool,
) -> Result<(), ExchangeError> {
    let is_known = |child: &Element<'_, '_>| child.is(CPIX, child.local_name()) && known(*child);
    match element.children().find(|child| !is_known(child)) {
        Some(child) => {
            let place = format!("{}/{}", element.local_name(), child.local_name());
            Err(ExchangeError::Unsupported(place))
        }
        None => Ok(()),
    }
}

fn unsupported(element: Element<'_, '_>) -> ExchangeError {
    ExchangeError::Unsupported(element.local_name().to_owned())
}

fn attributes(element: Element<'_, '_>) -> Attributes {
    let own = element.attributes().filter(|attribute| attribute.namespace.is_empty());
    own.map(|attribute| (attribute.local.to_owned(), attribute.value.clone().into_owned()))
        .collect()
}

fn required<'d>(
    element: Element<'d, '_>,
    attribute: &str,
    field: &'static str,
) -> Result<&'d str, ExchangeError> {
    let value = element.attribute(attribute).filter(|value| !value.trim().is_empty());
    value.ok_or_else(|| ExchangeError::Missing(field.to_owned()))
}

/// A GUID with hyphens, as text has it.
fn guid(
    element: Element<'_, '_>,
    attribute: &str,
    field: &'static str,
) -> Result<Uuid, ExchangeError> {
    let text = required(element, attribute, field)?;
    let hyphenated = (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten();
    hyphenated.ok_or(ExchangeError::NotGuid(field))
}
