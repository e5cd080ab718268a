//! What several wrappings have in common: tables that map blocks, chains of files, notes, runs of pages.

pub(super) mod chain;
pub(super) mod lacking;
pub(super) mod mapped;
pub(super) mod notes;
pub(super) mod runs;
