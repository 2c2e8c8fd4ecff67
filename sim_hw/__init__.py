"""Simulated hardware of a station: plant, nodes and wires. It knows nothing of the controller, nor of the drivers."""
