//! Read models: what is convenient to ask for, derived from the ledger.
//!
//! Local to every node, apart from the state for deciding, and never consulted by a decision.
//! A tail applies events and moves the checkpoint in one transaction; deleting the file rebuilds
//! it. Every answer says up to which position of the ledger it is true.

pub mod history;
pub mod inventory;

pub use history::History;
pub use inventory::Inventory;
