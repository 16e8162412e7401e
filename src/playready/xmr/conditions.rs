//! Policies as objects of GLOBAL_POLICY and PLAYBACK (section 5.3), in the order of its table.

use uuid::Uuid;

use super::kind;
use super::open::OpenError;
use super::tree::Node;
use crate::playready::policy::{
    BinaryId, Data, DomainBinding, EXTENDED_RESTRICTION_TYPES, ExtendedRestriction, LicensePolicy,
    OutputProtection, SecurityLevel,
};
use crate::playready::reader::{MUST_UNDERSTAND, Malformed, Reader, put_object};

/// Flags of a container that must be understood.
const CONTAINER: u16 = 3;
/// Flag bit 2 of an extended restriction.
const BEST_EFFORT: u16 = 4;
/// "No end" in object 0012.
const NO_END: u32 = u32::MAX;

/// What GLOBAL_POLICY holds besides the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Issue {
    /// Unix seconds.
    pub(super) issue_date: u32,
    /// Sequence of the issuer's RevInfo, 0 for none.
    pub(super) revinfo_version: u32,
}

/// The body of GLOBAL_POLICY.
pub(super) fn encode_global(policy: &LicensePolicy, issue: Issue) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    let mut put = |flags, kind, body: &[u8]| put_object(&mut out, flags, kind, body);
    if !policy.persist {
        put(MUST_UNDERSTAND, kind::CANNOT_PERSIST, &1u16.to_be_bytes());
    }
    if policy.begin.is_some() || policy.end.is_some() {
        let begin = policy.begin.unwrap_or(0).to_be_bytes();
        let end = policy.end.unwrap_or(NO_END).to_be_bytes();
        put(MUST_UNDERSTAND, kind::EXPIRATION, &[begin, end].concat());
    }
    if let Some(seconds) = policy.first_play_seconds {
        put(MUST_UNDERSTAND, kind::FIRST_PLAY, &seconds.to_be_bytes());
    }
    put(0, kind::ISSUE_DATE, &issue.issue_date.to_be_bytes());
    if let Some(seconds) = policy.grace_seconds {
        put(0, kind::GRACE_PERIOD, &seconds.to_be_bytes());
    }
    if let Some(date) = policy.removal {
        put(0, kind::REMOVAL_DATE, &date.to_be_bytes());
    }
    if let Some(id) = policy.source_id {
        put(MUST_UNDERSTAND, kind::SOURCE_ID, &id.to_be_bytes());
    }
    if let Some(BinaryId(id)) = policy.metering_id {
        put(MUST_UNDERSTAND, kind::METERING, &id);
    }
    if let Some(BinaryId(id)) = policy.secure_stop_id {
        put(MUST_UNDERSTAND, kind::SECURE_STOP, &id);
    }
    if let Some(DomainBinding { account_id: BinaryId(id), revision }) = policy.domain {
        let body = [&id[..], &revision.to_be_bytes()].concat();
        put(MUST_UNDERSTAND, kind::DOMAIN, &body);
    }
    // Never last: one client swallows the object after it (section 5.4).
    if policy.real_time {
        put(MUST_UNDERSTAND, kind::REAL_TIME, &[]);
    }
    put(0, kind::EMBEDDING, &1u16.to_be_bytes());
    put(MUST_UNDERSTAND, kind::REVINFO_VERSION, &issue.revinfo_version.to_be_bytes());
    put(MUST_UNDERSTAND, kind::SECURITY_LEVEL, &u16::from(policy.sl).to_be_bytes());
    out
}

/// The body of PLAYBACK.
pub(super) fn encode_play(policy: &LicensePolicy) -> Vec<u8> {
    let mut out = Vec::new();
    let levels = [policy.cvopl, policy.ucvopl, policy.avopl, policy.caopl, policy.ucaopl];
    if levels != [0; 5] {
        let body: Vec<u8> = levels.into_iter().flat_map(u16::to_be_bytes).collect();
        put_object(&mut out, MUST_UNDERSTAND, kind::OUTPUT_LEVELS, &body);
    }
    for (container, entry, protections) in [
        (kind::ANALOG_VIDEO, kind::ANALOG_VIDEO_ENTRY, &policy.avop),
        (kind::DIGITAL_AUDIO, kind::DIGITAL_AUDIO_ENTRY, &policy.daop),
        (kind::DIGITAL_VIDEO, kind::DIGITAL_VIDEO_ENTRY, &policy.dvop),
    ] {
        let entries = protections.iter().map(|each| (each.id, &each.data.0[..]));
        put_entries(&mut out, container, entry, entries);
    }
    let enablers = policy.play_enablers.iter().map(|&id| (id, &[][..]));
    put_entries(&mut out, kind::PLAY_ENABLERS, kind::PLAY_ENABLER_ENTRY, enablers);
    for restriction in &policy.extended_restrictions {
        let mut flags = 0;
        if restriction.must_understand {
            flags |= MUST_UNDERSTAND;
        }
        if restriction.best_effort {
            flags |= BEST_EFFORT;
        }
        put_object(&mut out, flags, restriction.kind, &restriction.data.0);
    }
    out
}

/// A container of entries `GUID-LE[16]` and data, or nothing if there are no entries.
fn put_entries<'a>(
    out: &mut Vec<u8>,
    container: u16,
    entry: u16,
    entries: impl Iterator<Item = (Uuid, &'a [u8])>,
) {
    let mut body = Vec::new();
    for (id, data) in entries {
        put_object(&mut body, MUST_UNDERSTAND, entry, &[&id.to_bytes_le()[..], data].concat());
    }
    if !body.is_empty() {
        put_object(out, CONTAINER, container, &body);
    }
}

/// Reads what [`encode_global`] and [`encode_play`] write.
///
/// # Errors
/// Malformed or repeated objects, unknown ones that must be understood, no security level.
pub(super) fn decode(
    global: &[Node<'_>],
    play: &[Node<'_>],
) -> Result<(LicensePolicy, Issue), OpenError> {
    // The level is a required object; 3000 stands only until it is read.
    let mut policy = LicensePolicy::new(SecurityLevel::Hardware);
    policy.persist = true;
    let mut issue = Issue::default();
    for (index, node) in global.iter().enumerate() {
        refuse_repeat(global, index)?;
        decode_global(&mut policy, &mut issue, node)?;
    }
    if !global.iter().any(|node| node.kind == kind::SECURITY_LEVEL) {
        return Err(Malformed("license has no minimum security level").into());
    }
    for (index, node) in play.iter().enumerate() {
        if !EXTENDED_RESTRICTION_TYPES.contains(&node.kind) {
            refuse_repeat(play, index)?;
        }
        decode_play(&mut policy, node)?;
    }
    Ok((policy, issue))
}

fn refuse_repeat(nodes: &[Node<'_>], index: usize) -> Result<(), Malformed> {
    let (before, from) = nodes.split_at(index);
    let repeated =
        from.first().is_some_and(|node| before.iter().any(|other| other.kind == node.kind));
    if repeated { Err(Malformed("license has an object twice")) } else { Ok(()) }
}

fn decode_global(
    policy: &mut LicensePolicy,
    issue: &mut Issue,
    node: &Node<'_>,
) -> Result<(), OpenError> {
    match node.kind {
        kind::CANNOT_PERSIST => policy.persist = node.u16()? & 1 == 0,
        kind::EXPIRATION => {
            let mut body = Reader::new(node.body);
            policy.begin = Some(body.u32()?).filter(|&begin| begin != 0);
            policy.end = Some(body.u32()?).filter(|&end| end != NO_END);
            body.finish()?;
        }
        kind::FIRST_PLAY => policy.first_play_seconds = Some(node.u32()?),
        kind::ISSUE_DATE => issue.issue_date = node.u32()?,
        kind::GRACE_PERIOD => policy.grace_seconds = Some(node.u32()?),
        kind::REMOVAL_DATE => policy.removal = Some(node.u32()?),
        kind::SOURCE_ID => policy.source_id = Some(node.u32()?),
        kind::METERING => policy.metering_id = Some(BinaryId(node.only()?)),
        kind::SECURE_STOP => policy.secure_stop_id = Some(BinaryId(node.only()?)),
        kind::DOMAIN => {
            let mut body = Reader::new(node.body);
            let account_id = BinaryId(body.array()?);
            policy.domain = Some(DomainBinding { account_id, revision: body.u32()? });
            body.finish()?;
        }
        kind::REAL_TIME => {
            node.only::<0>()?;
            policy.real_time = true;
        }
        kind::EMBEDDING => drop(node.u16()?),
        kind::REVINFO_VERSION => issue.revinfo_version = node.u32()?,
        kind::SECURITY_LEVEL => {
            policy.sl = node
                .u16()?
                .try_into()
                .map_err(|_| Malformed("license has an unknown minimum security level"))?;
        }
        _ => refuse_unknown(node)?,
    }
    Ok(())
}

fn decode_play(policy: &mut LicensePolicy, node: &Node<'_>) -> Result<(), OpenError> {
    match node.kind {
        kind::OUTPUT_LEVELS => {
            let mut body = Reader::new(node.body);
            policy.cvopl = body.u16()?;
            policy.ucvopl = body.u16()?;
            policy.avopl = body.u16()?;
            policy.caopl = body.u16()?;
            policy.ucaopl = body.u16()?;
            body.finish()?;
        }
        kind::ANALOG_VIDEO => policy.avop = protections(node, kind::ANALOG_VIDEO_ENTRY)?,
        kind::DIGITAL_AUDIO => policy.daop = protections(node, kind::DIGITAL_AUDIO_ENTRY)?,
        kind::DIGITAL_VIDEO => policy.dvop = protections(node, kind::DIGITAL_VIDEO_ENTRY)?,
        kind::PLAY_ENABLERS => {
            for (id, data) in entries(node, kind::PLAY_ENABLER_ENTRY)? {
                if !data.is_empty() {
                    return Err(Malformed("play enabler has data").into());
                }
                policy.play_enablers.push(id);
            }
        }
        kind if EXTENDED_RESTRICTION_TYPES.contains(&kind) => {
            policy.extended_restrictions.push(ExtendedRestriction {
                kind,
                must_understand: node.flags & MUST_UNDERSTAND != 0,
                best_effort: node.flags & BEST_EFFORT != 0,
                data: Data(node.body.to_vec()),
            });
        }
        _ => refuse_unknown(node)?,
    }
    Ok(())
}

fn protections(container: &Node<'_>, kind: u16) -> Result<Vec<OutputProtection>, OpenError> {
    let entries = entries(container, kind)?.into_iter();
    Ok(entries.map(|(id, data)| OutputProtection { id, data: Data(data.to_vec()) }).collect())
}

fn entries<'a>(container: &Node<'a>, kind: u16) -> Result<Vec<(Uuid, &'a [u8])>, OpenError> {
    let mut entries = Vec::new();
    for node in container.container()? {
        if node.kind == kind {
            let mut body = Reader::new(node.body);
            let id = Uuid::from_bytes_le(body.array()?);
            entries.push((id, body.bytes(body.remaining())?));
        } else {
            refuse_unknown(node)?;
        }
    }
    Ok(entries)
}

/// Objects that are not known here are skipped, unless they must be understood.
pub(super) fn refuse_unknown(node: &Node<'_>) -> Result<(), OpenError> {
    if node.flags & MUST_UNDERSTAND == 0 {
        Ok(())
    } else {
        Err(OpenError::NotUnderstood(node.kind))
    }
}
