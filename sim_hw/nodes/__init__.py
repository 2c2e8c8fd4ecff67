"""Nodes: each shows one kind of the plant's devices on its wire, and obeys what comes from there.

A node holds what a device's controller holds (command ids, counters, its own timers) and nothing of the physics.
Modbus nodes fill a unit's image; CAN nodes send on a tap.
"""
