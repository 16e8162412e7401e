//! The table of keys of section 10: what each one takes and sets.

use data_encoding::HEXLOWER_PERMISSIVE;
use time::{Date, Month, Time, UtcDateTime};
use uuid::Uuid;

use super::syntax::{Item, Value};
use super::{ExtendedRight, Group, KeyTypeChoice, KidChoice, LENIENT_BASE64};
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;
use crate::playready::policy::published::{
    AGC_AND_COLOR_STRIPE, CONSTRAINED_OUTPUT, MAXIMUM_RESOLUTION, UNKNOWN_OUTPUT,
};
use crate::playready::policy::{BinaryId, Data, ExtendedRestriction, OutOfRange, OutputProtection};

/// Why an entry is not accepted.
pub(super) enum BadEntry {
    /// No such key.
    UnknownKey,
    /// Not a value of this key.
    BadValue,
}

/// A value that its key does not take.
struct BadValue;

impl From<BadValue> for BadEntry {
    fn from(_: BadValue) -> Self {
        Self::BadValue
    }
}

impl From<OutOfRange> for BadEntry {
    fn from(_: OutOfRange) -> Self {
        Self::BadValue
    }
}

/// The one name of a key that has two; keys come in any case.
pub(super) fn canonical(key: &str) -> String {
    let key = key.to_ascii_lowercase();
    match key.as_str() {
        "contentkey" => "ck".to_owned(),
        "expiration" => "enddate".to_owned(),
        "firstexp" => "firstplayexpiration".to_owned(),
        _ => key,
    }
}

/// Whether a key may come again and add up.
pub(super) fn may_repeat(canonical_key: &str) -> bool {
    let lists = ["extendedright", "dvop", "daop", "avop", "extendedrestrictions", "playenablers"];
    lists.contains(&canonical_key)
}

/// Sets what one key of a group says.
pub(super) fn set(group: &mut Group, canonical_key: &str, value: &Value) -> Result<(), BadEntry> {
    let to = &mut group.conditions;
    match canonical_key {
        "kid" => group.kid = kid(text(value)?)?,
        "keyseed" => group.key_seed = Some(key_seed(text(value)?)?),
        "ck" => group.content_key = Some(ContentKey::new(sixteen(text(value)?)?)),
        "ckt" => group.content_key_type = Some(key_type(text(value)?)?),
        "tid" => group.transaction_id = Some(guid(text(value)?)?),
        "playright" => group.play = boolean(value)?,
        "readright" => group.read = boolean(value)?,
        "executeright" => group.execute = boolean(value)?,
        "extendedright" => group.extended_rights.push(extended_right(value)?),
        "simple" => group.simple = boolean(value)?,
        "isroot" => group.root = boolean(value)?,
        "rootid" => group.root_kid = Some(guid(text(value)?)?.into()),
        "msg" => group.client_info = keyword(text(value)?, "clientinfo")?,
        "errorcode" => group.error_code = Some(error_code(text(value)?)?),
        "revoked" => group.revoked = boolean(value)?,
        "accountid" => group.account_id = Some(BinaryId(sixteen(text(value)?)?)),
        "securestop" => group.secure_stop = boolean(value)?,
        "sl" => {
            to.sl = number::<u16>(text(value)?)?.try_into().map_err(|_| BadEntry::BadValue)?;
        }
        "persist" => to.persist = boolean(value)?,
        "begindate" => to.begin = Some(date(text(value)?)?),
        "enddate" => to.end = Some(date(text(value)?)?),
        "firstplayexpiration" => to.first_play_seconds = Some(number(text(value)?)?),
        "realtime" => to.real_time = boolean(value)?,
        "removaldate" => to.removal = Some(date(text(value)?)?),
        "graceperiod" => to.grace_seconds = Some(number(text(value)?)?),
        "sourceid" => to.source_id = Some(number(text(value)?)?),
        "caopl" => to.caopl = number(text(value)?)?,
        "ucaopl" => to.ucaopl = number(text(value)?)?,
        "cvopl" => to.cvopl = number(text(value)?)?,
        "ucvopl" => to.ucvopl = number(text(value)?)?,
        "avopl" => to.avopl = number(text(value)?)?,
        "dvop" => to.dvop.extend(one_or_list(value, protection)?),
        "daop" => to.daop.extend(one_or_list(value, protection)?),
        "avop" => to.avop.extend(one_or_list(value, protection)?),
        "maxres" => to.dvop.push(maximum_resolution(text(value)?)?),
        "explicitacp" => to.avop.push(analog_copy_protection(text(value)?)?),
        "extendedrestrictions" => {
            to.extended_restrictions.extend(one_or_list(value, restriction)?);
        }
        "playenablers" => to.play_enablers.extend(enablers(value)?),
        "allowunknownsd" if boolean(value)? => to.play_enablers.push(CONSTRAINED_OUTPUT),
        "allowunknownhd" if boolean(value)? => to.play_enablers.push(UNKNOWN_OUTPUT),
        "allowunknownsd" | "allowunknownhd" => {}
        _ => return Err(BadEntry::UnknownKey),
    }
    // The conditions were in their ranges before: it is this key that is not.
    Ok(to.check_ranges()?)
}

fn text(value: &Value) -> Result<&str, BadValue> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Items(_) => Err(BadValue),
    }
}

fn boolean(value: &Value) -> Result<bool, BadValue> {
    match text(value)?.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(BadValue),
    }
}

fn keyword(text: &str, only: &str) -> Result<bool, BadValue> {
    if text.eq_ignore_ascii_case(only) { Ok(true) } else { Err(BadValue) }
}

/// Decimal digits and nothing else.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, BadValue> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadValue);
    }
    text.parse().map_err(|_| BadValue)
}

/// GUID text with hyphens, any case.
fn guid(text: &str) -> Result<Uuid, BadValue> {
    if text.len() != 36 {
        return Err(BadValue);
    }
    Uuid::try_parse(text).map_err(|_| BadValue)
}

fn binary(text: &str) -> Result<Vec<u8>, BadValue> {
    LENIENT_BASE64.decode(text.as_bytes()).map_err(|_| BadValue)
}

fn sixteen(text: &str) -> Result<[u8; 16], BadValue> {
    binary(text)?.try_into().map_err(|_| BadValue)
}

fn kid(text: &str) -> Result<KidChoice, BadValue> {
    if text.eq_ignore_ascii_case("header") {
        return Ok(KidChoice::Header);
    }
    let kid = guid(text).map(Kid::from);
    kid.or_else(|_| sixteen(text).map(Kid::from_wire)).map(KidChoice::Kid)
}

fn key_seed(text: &str) -> Result<KeySeed, BadValue> {
    KeySeed::new(&binary(text)?).map_err(|_| BadValue)
}

fn key_type(text: &str) -> Result<KeyTypeChoice, BadValue> {
    match text.to_ascii_lowercase().as_str() {
        "aes128bitctr" | "aesctr" => Ok(KeyTypeChoice::Content(KeyType::AesCtr)),
        "aes128bitcbc" | "aescbc" => Ok(KeyTypeChoice::Content(KeyType::AesCbc)),
        "keyexchange" => Ok(KeyTypeChoice::KeyExchange),
        _ => Err(BadValue),
    }
}

/// `[0x]` and eight hex digits.
fn error_code(text: &str) -> Result<u32, BadValue> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| BadValue)?;
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| BadValue)
}

/// `yyyymmdd` or `yyyymmddhhmmss`, UTC, as Unix seconds. A license holds times up to 2106.
fn date(text: &str) -> Result<u32, BadValue> {
    let part = |from: usize, to: usize| text.get(from..to).ok_or(BadValue);
    let time = match text.len() {
        8 => Time::MIDNIGHT,
        14 => Time::from_hms(number(part(8, 10)?)?, number(part(10, 12)?)?, number(part(12, 14)?)?)
            .map_err(|_| BadValue)?,
        _ => return Err(BadValue),
    };
    let month = Month::try_from(number::<u8>(part(4, 6)?)?).map_err(|_| BadValue)?;
    let date = Date::from_calendar_date(number(part(0, 4)?)?, month, number(part(6, 8)?)?)
        .map_err(|_| BadValue)?;
    let seconds = UtcDateTime::new(date, time).unix_timestamp();
    u32::try_from(seconds).map_err(|_| BadValue)
}

/// The items of `(…)`, all with keys, in any order: the values of these keys, each at most once.
fn fields<'a, const N: usize>(
    value: &'a Value,
    keys: [&str; N],
) -> Result<[Option<&'a Value>; N], BadValue> {
    let Value::Items(items) = value else {
        return Err(BadValue);
    };
    let mut found = [None; N];
    for Item { key, value } in items {
        let key = key.as_deref().ok_or(BadValue)?;
        let place = keys.iter().position(|known| known.eq_ignore_ascii_case(key));
        let place = place.and_then(|index| found.get_mut(index)).ok_or(BadValue)?;
        if place.replace(value).is_some() {
            return Err(BadValue);
        }
    }
    Ok(found)
}

/// One `(key:…)`, or a list of them.
fn one_or_list<T>(
    value: &Value,
    read: impl Fn(&Value) -> Result<T, BadValue>,
) -> Result<Vec<T>, BadValue> {
    match value {
        Value::Items(items) if items.iter().all(|item| item.key.is_none()) => {
            items.iter().map(|item| read(&item.value)).collect()
        }
        one => Ok(vec![read(one)?]),
    }
}

fn data(value: Option<&Value>) -> Result<Data, BadValue> {
    value.map(text).transpose()?.map_or(Ok(Data::default()), |text| Ok(Data(binary(text)?)))
}

fn protection(value: &Value) -> Result<OutputProtection, BadValue> {
    let [id, configuration] = fields(value, ["guid", "data"])?;
    Ok(OutputProtection { id: guid(text(id.ok_or(BadValue)?)?)?, data: data(configuration)? })
}

fn restriction(value: &Value) -> Result<ExtendedRestriction, BadValue> {
    let [kind, must_understand, best_effort, payload] =
        fields(value, ["type", "mustunderstand", "besteffort", "data"])?;
    let restriction = ExtendedRestriction {
        kind: number(text(kind.ok_or(BadValue)?)?)?,
        must_understand: must_understand.map_or(Ok(true), boolean)?,
        best_effort: best_effort.map_or(Ok(false), boolean)?,
        data: data(payload)?,
    };
    if restriction.is_in_range() { Ok(restriction) } else { Err(BadValue) }
}

fn extended_right(value: &Value) -> Result<ExtendedRight, BadValue> {
    let [kind, extended] = fields(value, ["type", "extended"])?;
    let restrictions = extended.map(|value| one_or_list(value, restriction)).transpose()?;
    Ok(ExtendedRight {
        kind: number(text(kind.ok_or(BadValue)?)?)?,
        restrictions: restrictions.unwrap_or_default(),
    })
}

/// A GUID, or a list of them.
fn enablers(value: &Value) -> Result<Vec<Uuid>, BadValue> {
    match value {
        Value::Text(one) => Ok(vec![guid(one)?]),
        Value::Items(_) => one_or_list(value, |item| guid(text(item)?)),
    }
}

/// `WxH` as height, then width, each u32.
fn maximum_resolution(text: &str) -> Result<OutputProtection, BadValue> {
    let (width, height) = text.split_once(['x', 'X']).ok_or(BadValue)?;
    let [width, height] = [number::<u32>(width)?, number::<u32>(height)?];
    let data = Data([height.to_be_bytes(), width.to_be_bytes()].concat());
    Ok(OutputProtection { id: MAXIMUM_RESOLUTION, data })
}

/// 0 to 3, as a little-endian u32.
fn analog_copy_protection(text: &str) -> Result<OutputProtection, BadValue> {
    let mode = number::<u32>(text)?;
    if mode > 3 {
        return Err(BadValue);
    }
    Ok(OutputProtection { id: AGC_AND_COLOR_STRIPE, data: Data(mode.to_le_bytes().into()) })
}
