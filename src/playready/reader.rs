//! Reading of big-endian binary formats, and the object header that certificates (section 3) and
//! licenses (section 5) share.
//!
//! ```text
//! object  offset  size  field
//!         0       2     flags   u16: bit 0 must-understand, bit 1 container
//!         2       2     kind    u16
//!         4       4     length  u32, counts these 8 bytes too
//!         8       …     body    length − 8 bytes
//! ```

/// The bytes do not have the form that the protocol page gives them; the text says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Flag bit 0: a reader that does not know this kind of object must refuse the whole.
pub(super) const MUST_UNDERSTAND: u16 = 1;

/// Bytes of an object's header.
pub(super) const OBJECT_HEADER_BYTES: usize = 8;

/// A cursor over bytes. Every read is checked; nothing is read twice.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(Malformed("ends before its stated length"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) =
            self.0.split_first_chunk().ok_or(Malformed("ends before its stated length"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A u32 that counts bytes or entries.
    pub(super) fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.u32()?).map_err(|_| Malformed("length does not fit in memory"))
    }

    /// Reads these exact bytes, or refuses with `otherwise`.
    pub(super) fn expect(
        &mut self,
        literal: &[u8],
        otherwise: &'static str,
    ) -> Result<(), Malformed> {
        self.0 = self.0.strip_prefix(literal).ok_or(Malformed(otherwise))?;
        Ok(())
    }

    /// The next object.
    pub(super) fn object(&mut self) -> Result<Object<'a>, Malformed> {
        let flags = self.u16()?;
        let kind = self.u16()?;
        let body_bytes = self
            .length()?
            .checked_sub(OBJECT_HEADER_BYTES)
            .ok_or(Malformed("object is shorter than its header"))?;
        let body = self.bytes(body_bytes)?;
        Ok(Object { flags, kind, body })
    }

    /// Refuses bytes that nobody has read.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("has bytes after its end")) }
    }
}

/// One object of a certificate or a license.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) flags: u16,
    pub(super) kind: u16,
    pub(super) body: &'a [u8],
}

impl Object<'_> {
    pub(super) fn must_be_understood(&self) -> bool {
        self.flags & MUST_UNDERSTAND != 0
    }
}

/// Appends an object. Bodies are built in memory and far below 4 GiB.
pub(super) fn put_object(out: &mut Vec<u8>, flags: u16, kind: u16, body: &[u8]) {
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    put_length(out, OBJECT_HEADER_BYTES + body.len());
    out.extend_from_slice(body);
}

/// Appends a length or a count as a u32.
pub(super) fn put_length(out: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
}
