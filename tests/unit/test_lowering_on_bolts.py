"""A table is lowered only from bolts of one mind, and locked ones must be proven."""

from __future__ import annotations

from dataclasses import replace

from controller.model.intent import StepKind
from tests.support.scene import CLOSED, scene_for


def test_table_is_not_lowered_from_bolts_that_are_locked_but_not_proven() -> None:
    """Locked by their end sensors with too little torque, the bolts of an occupied mount keep the table up."""
    weak = replace(CLOSED, torque_nm=1.0)
    aligned = scene_for(StepKind.LOWER_TABLE)
    assert aligned.requires() == ()
    assert aligned.bolts(*(CLOSED,) * 9, weak).names() == {"bolts_of_one_mind"}
