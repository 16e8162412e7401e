//! A license's objects as a tree, with the limits of section 5.4.

use crate::playready::reader::{Malformed, Reader};

/// Containers within containers, at most.
const DEPTH_MAX: usize = 8;
/// Objects in a license, at most.
const OBJECTS_MAX: usize = 256;
/// Flag bit 1: the body is objects.
const CONTAINER: u16 = 2;

/// An object whose length has been checked against its parent's.
pub(super) struct Node<'a> {
    pub(super) flags: u16,
    pub(super) kind: u16,
    pub(super) body: &'a [u8],
    /// The objects within, if this is a container.
    pub(super) children: Option<Vec<Node<'a>>>,
}

impl<'a> Node<'a> {
    /// Reads one object that spans all of `bytes`, with everything in it.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut budget = OBJECTS_MAX;
        let mut reader = Reader::new(bytes);
        let node = Self::read(&mut reader, &mut budget, DEPTH_MAX)?;
        reader.finish()?;
        Ok(node)
    }

    /// The objects within.
    pub(super) fn container(&self) -> Result<&[Self], Malformed> {
        self.children.as_deref().ok_or(Malformed("license object is not flagged as a container"))
    }

    /// The body as its only field.
    pub(super) fn only<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.body.try_into().map_err(|_| Malformed("license object has the wrong length"))
    }

    pub(super) fn u32(&self) -> Result<u32, Malformed> {
        self.only().map(u32::from_be_bytes)
    }

    pub(super) fn u16(&self) -> Result<u16, Malformed> {
        self.only().map(u16::from_be_bytes)
    }

    fn read(
        reader: &mut Reader<'a>,
        budget: &mut usize,
        depth_left: usize,
    ) -> Result<Self, Malformed> {
        let too_many = Malformed("license has too many objects");
        *budget = budget.checked_sub(1).ok_or(too_many)?;
        let object = reader.object()?;
        let children = if object.flags & CONTAINER == 0 {
            None
        } else {
            let too_deep = Malformed("license objects are nested too deep");
            let depth_left = depth_left.checked_sub(1).ok_or(too_deep)?;
            let mut within = Reader::new(object.body);
            let mut children = Vec::new();
            while !within.is_empty() {
                children.push(Self::read(&mut within, budget, depth_left)?);
            }
            Some(children)
        };
        Ok(Self { flags: object.flags, kind: object.kind, body: object.body, children })
    }
}
