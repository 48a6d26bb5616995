//! Manifests, configs, indexes and history from layers. Pure.
