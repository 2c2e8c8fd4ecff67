"""A station file that names no wrong thing and yet makes no station: refused with what would mend it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from controller.cli.__main__ import main
from tests.support.config_files import DEMO

BAD_CONFIG = 78


def smaller(folder: Path, slots: int, *, one_table: bool) -> Path:
    """Return the demo station's file with its first slots only, and with one table where asked."""
    dropped = [f"slot{number:02}" for number in range(slots + 1, 9)]
    if one_table:
        dropped += ["dock1.table_2", "table_2"]
    text = DEMO.read_text(encoding="utf-8")
    for name in dropped:
        quoted = re.escape(name)
        text = re.sub(rf'^"?{quoted}(?:\.\w+)?"?\s*=\s*{{.*}}.*\n', "", text, flags=re.MULTILINE)  # its rows
        text = re.sub(rf',?\s*(?:"{quoted}"|(?<![\w.]){quoted})\s*=\s*[\d.]+', "", text)  # its inputs, its position
        text = re.sub(rf',?\s*"{quoted}"(?=[,\]\s])', "", text)  # in lists
    text = text.replace("[, ", "[").replace("[,", "[").replace(", []", "")
    path = folder / "smaller.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_one_table_and_no_slot_to_spare_is_refused_with_what_would_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one table and one slot the old pack has nowhere to go: 78, the swap it cannot do, and what to add."""
    file = smaller(tmp_path, 1, one_table=True)
    assert main(["config", "check", str(file)]) == BAD_CONFIG
    text = capsys.readouterr().err
    assert "1 mistake" in text
    assert "one slot more or one table more per dock would mend it" in text
    assert main(["config", "check", str(file), "--json"]) == BAD_CONFIG
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["problems"], len(document["unreachable"])) == (False, [], 1)


@pytest.mark.parametrize(("slots", "one_table"), [(2, True), (1, False)])
def test_what_was_named_does_mend_it(tmp_path: Path, slots: int, one_table: bool) -> None:
    """The same station with that one slot, or that one table, more is proven to finish its swaps."""
    assert main(["config", "check", str(smaller(tmp_path, slots, one_table=one_table))]) == 0
