//! Which values the members of a policy may have (section 10), wherever the policy comes from.

use super::{
    EXTENDED_RESTRICTION_TYPES, ExtendedRestriction, LISTED_DATA_BYTES_MAX, LISTED_MAX,
    LicensePolicy, OUTPUT_LEVEL_MAX,
};

/// A member has a value that no license has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {must}")]
pub struct OutOfRange {
    /// The member, or the first of those that have to fit together.
    pub member: &'static str,
    /// What it has to be.
    pub must: &'static str,
}

impl LicensePolicy {
    /// Checks each member by itself, and that a client can read all of them together.
    ///
    /// # Errors
    /// The first member that is out of its range.
    pub fn check_ranges(&self) -> Result<(), OutOfRange> {
        let level = |member, level: u16| Rule {
            member,
            must: "must be 0 to 999",
            holds: level <= OUTPUT_LEVEL_MAX,
        };
        let restrictions = &self.extended_restrictions;
        let listed = self.dvop.len()
            + self.daop.len()
            + self.avop.len()
            + restrictions.len()
            + self.play_enablers.len();
        let rules = [
            // On the wire these two numbers mean that there is none.
            Rule { member: "begin", must: "must be 1 or more", holds: self.begin != Some(0) },
            Rule {
                member: "end",
                must: "must be at most 4294967294",
                holds: self.end != Some(u32::MAX),
            },
            Rule {
                member: "first_play_seconds",
                must: "must be 1 or more",
                holds: self.first_play_seconds != Some(0),
            },
            level("caopl", self.caopl),
            level("ucaopl", self.ucaopl),
            level("cvopl", self.cvopl),
            level("ucvopl", self.ucvopl),
            level("avopl", self.avopl),
            Rule {
                member: "extended_restrictions",
                must: "each type must be 256 to 65532",
                holds: restrictions.iter().all(ExtendedRestriction::is_in_range),
            },
            Rule {
                member: "dvop",
                must: "dvop, daop, avop, extended_restrictions and play_enablers must have at \
                       most 224 members together",
                holds: listed <= LISTED_MAX,
            },
            Rule {
                member: "dvop",
                must: "the data of dvop, daop, avop and extended_restrictions must have at most \
                       4096 bytes together",
                holds: self.listed_data_bytes() <= LISTED_DATA_BYTES_MAX,
            },
        ];
        match rules.into_iter().find(|rule| !rule.holds) {
            Some(Rule { member, must, .. }) => Err(OutOfRange { member, must }),
            None => Ok(()),
        }
    }

    fn listed_data_bytes(&self) -> usize {
        let protections = self.dvop.iter().chain(&self.daop).chain(&self.avop);
        let data = protections.map(|protection| &protection.data);
        let data = data.chain(self.extended_restrictions.iter().map(|each| &each.data));
        data.map(|data| data.0.len()).sum()
    }
}

struct Rule {
    member: &'static str,
    must: &'static str,
    holds: bool,
}

impl ExtendedRestriction {
    /// Whether its type is one of extended restrictions, and not of an object with a meaning of its
    /// own.
    pub(super) fn is_in_range(&self) -> bool {
        EXTENDED_RESTRICTION_TYPES.contains(&self.kind)
    }
}
