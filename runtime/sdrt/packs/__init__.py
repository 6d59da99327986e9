"""Model packs: manifests and search paths. Needs only the standard library."""
