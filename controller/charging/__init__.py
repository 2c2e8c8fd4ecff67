"""Charging of stored packs: each slot's charger follows what its pack's own BMS asks for."""
