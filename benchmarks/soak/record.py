"""Appends what a soak run found to docs/log.md: date, machine, command, seed, and each scenario's verdict and facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.soak.scenario import Finding


def record(log: Path, command: str, machine: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    """Add one entry at the end of the file, failures like anything else."""
    lines = [
        f"\n## {datetime.now(UTC):%Y-%m-%d} · soak: {', '.join(finding.name for finding in findings)}",
        "",
        f"`{command}`, {machine['cores']} cores of {machine['cpu']}, load {machine['load_1min']} before the start.",
        "",
    ]
    for finding in findings:
        facts = ", ".join(f"{name} {json.dumps(value)}" for name, value in finding.facts.items())
        lines.append(f"- **{finding.name}: {'passed' if not finding.problems else 'FAILED'}.** {facts}.")
        lines += [f"  - {problem}" for problem in finding.problems[:20]]
    with log.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
