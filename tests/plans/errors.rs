//! Wrong plans.
