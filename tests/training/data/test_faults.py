"""The table of reasons is complete: all of them are used, and the documentation prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.faults import NOTED, SKIPPED, FaultyFileError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("reason", [*SKIPPED, *NOTED])
def test_reason_is_given_by_some_code_and_documented(reason: str) -> None:
    sources = [path for path in (ROOT / "training").rglob("*.py") if path.name != "faults.py"]
    assert any(f'"{reason}"' in path.read_text(encoding="utf-8") for path in sources)
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"| `{reason}` | { {**SKIPPED, **NOTED}[reason] } |" in page


def test_reason_is_either_skipped_or_noted_and_no_other_can_be_raised() -> None:
    assert not set(SKIPPED) & set(NOTED)
    with pytest.raises(AssertionError):
        FaultyFileError("wrong extension", "noted, not skipped")


def test_error_says_reason_and_detail() -> None:
    error = FaultyFileError("too short", "0.1 s")
    assert (error.reason, error.detail, str(error)) == ("too short", "0.1 s", "too short: 0.1 s")
