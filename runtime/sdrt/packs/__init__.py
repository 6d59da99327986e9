"""Model packs: what a manifest says, and where packs lie. Needs the standard library alone."""
