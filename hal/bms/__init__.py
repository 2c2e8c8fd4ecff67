"""Battery management systems: what a pack says of itself."""
