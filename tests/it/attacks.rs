//! One test, at least, for each threat: hostile devices, hostile networks.

mod clocks;
mod deletions;
mod floods;
mod forgeries;
