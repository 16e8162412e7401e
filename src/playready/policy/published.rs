//! Output protections and enablers whose GUIDs Microsoft published (section 5.3).

use uuid::{Uuid, uuid};

/// HDCP of a type: u32, 1 for type 1.
pub const HDCP_TYPE: Uuid = uuid!("abb2c6f1-e663-4625-a945-972d17b231e7");
/// Maximum resolution: u32 height, u32 width.
pub const MAXIMUM_RESOLUTION: Uuid = uuid!("9645e831-e01d-4fff-8342-0a720e3e028f");
/// Automatic gain control and color stripe: u32 from 0 to 3, little-endian.
pub const AGC_AND_COLOR_STRIPE: Uuid = uuid!("c3fd11c6-f8b7-4d20-b008-1db17d61f2da");
/// Enabler: outputs that are not known, with constrained resolution.
pub const CONSTRAINED_OUTPUT: Uuid = uuid!("b621d91f-edcc-4035-8d4b-dc71760d43e9");
/// Enabler: outputs that are not known.
pub const UNKNOWN_OUTPUT: Uuid = uuid!("786627d8-c2a6-44be-8f88-08ae255b01a7");

const NAMES: [(Uuid, &str); 12] = [
    (HDCP_TYPE, "HDCP type"),
    (MAXIMUM_RESOLUTION, "maximum resolution"),
    (uuid!("6d5cfa59-c250-4426-930e-fac72c8fcfa6"), "SCMS"),
    (AGC_AND_COLOR_STRIPE, "AGC and color stripe"),
    (uuid!("2098de8d-7ddd-4bab-96c6-32ebb6fabea3"), "CGMS-A"),
    (uuid!("225cd36f-f132-49ef-ba8c-c91ea28e4369"), "CGMS-A as far as possible"),
    (uuid!("d783a191-e083-4baf-b2da-e69f910b3772"), "VGA"),
    (uuid!("811c5110-46c8-4c6e-8163-c0482a15d47e"), "component video"),
    (uuid!("760ae755-682a-41e0-b1b3-dcdf836a7306"), "digital outputs only"),
    (UNKNOWN_OUTPUT, "unknown outputs"),
    (CONSTRAINED_OUTPUT, "unknown outputs with constrained resolution"),
    (uuid!("5abf0f0d-dc29-4b82-9982-fd8e57525bfc"), "AirPlay"),
];

/// What people call an output protection or enabler, if it is a published one.
pub fn name(id: Uuid) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}
