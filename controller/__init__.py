"""Station logic. Sees devices only through hal.api, hal.types and hal.errors."""
