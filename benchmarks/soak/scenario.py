"""What every scenario of a soak run gets, and what it gives back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.faults import Service
from benchmarks.soak.ledger import Ledger, gained, never_answered, server_counts


@dataclass(frozen=True)
class Plan:
    """What to soak and how long; `minutes` are those of the mix, and the other scenarios have fixed sizes times `scale`."""

    bundle: Path
    minutes: float = 30.0
    seed: int = 0
    callers: int = 6
    steps: int = 10
    scale: float = 1.0
    perf_analyzer: Path | None = None  # None: fetched

    def sized(self, count: int) -> int:
        """A fixed size of a scenario, scaled; at least 1."""
        return max(1, round(count * self.scale))


@dataclass
class Finding:
    """What a scenario saw. It has passed if there are no `problems`."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; of many problems the first ones."""
        return {"scenario": self.name, "passed": not self.problems, **self.facts, "problems": self.problems[:20]}


@contextmanager
def audited(plan: Plan, finding: Finding, *flags: str) -> Iterator[tuple[Service, Ledger]]:
    """A ready service and an empty ledger. At the end the two sets of books are compared, and what differs is a problem.

    Only for scenarios in which every request reaches a model of ours, and no process of the server dies: its log and its counters
    then know each of them.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        log = Path(folder, "log")
        with Service(plan.bundle, "--log-file", str(log), *flags).wait_until_ready() as service:
            ledger = Ledger()
            before = server_counts(service.metrics_url)
            yield service, ledger
            if live := never_answered(service.metrics_url):
                finding.problems.append(f"{live} requests were taken by the server and never answered")
            after = server_counts(service.metrics_url)
            failures = restarts(service)
        finding.facts |= {
            "requests": ledger.counts(),
            "server_counted": gained(before, after),
            "restarts": len(failures),
        }
        finding.problems += ledger.problems() + ledger.against_log(log.read_text(errors="replace").splitlines())
        finding.problems += failures
        told = sum(finding.facts["server_counted"].values())
        killed = finding.facts["requests"].get("killed", 0)
        if not len(ledger.records) - killed <= told <= len(ledger.records):
            finding.problems.append(f"{told} requests counted by the server, {len(ledger.records)} sent")
        if (
            not killed
            and "cancelled" not in finding.facts["requests"]
            and ledger.counts() != finding.facts["server_counted"]
        ):
            finding.problems.append("the server's counters differ from the ledger")


def restarts(service: Service) -> list[str]:
    """What its supervisor says of the times that it had to restart the server."""
    return [
        f"restarted: {json.dumps(event)}" for event in service.events if event["event"] not in ("starting", "ready")
    ]
