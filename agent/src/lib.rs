//! Podlane's agent: see the modules.
