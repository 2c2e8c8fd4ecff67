"""What proves that a bolt holds: its own end sensor, and torque and angle of its last turn. Pure."""

from __future__ import annotations

from controller.model.layout import LockBankLayout
from hal.types import BoltResult, BoltState, BoltStatus, LockBankStatus


def proves_closed(bolt: BoltStatus, window: LockBankLayout) -> bool:
    """Whether torque and angle of a bolt's last turn are inside the window that proves it closed."""
    return (
        bolt.state is BoltState.LOCKED
        and bolt.result is BoltResult.OK
        and window.torque_nm_min <= bolt.torque_nm <= window.torque_nm_max
        and window.angle_deg_min <= bolt.angle_deg <= window.angle_deg_max
    )


def all_proven(bank: LockBankStatus, window: LockBankLayout | None) -> bool:
    """Whether every bolt of a bank is proven closed. Without a window nothing is."""
    return window is not None and all(proves_closed(bolt, window) for bolt in bank.bolts)


def all_open(bank: LockBankStatus) -> bool:
    """Whether every bolt of a bank is open by its own end sensor."""
    return all(bolt.state is BoltState.UNLOCKED for bolt in bank.bolts)
