"""Devices of a battery-swap station. Knows nothing of swaps; see hal/api.py for the contracts."""
