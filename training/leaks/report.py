"""The probes' findings on paper: JSON for machines, Markdown for readers, one plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.leaks.claims import CHANCE, MEASURED, NOTHING, NOTHING_R2, SIGNAL, SIGNAL_R2, Finding, holds
from training.leaks.independence import Independence
from training.leaks.words import HeldOut

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "leak-probes.json", "leak-probes.md", "leak-probes.png"
_COLOURS = {NOTHING: "tab:blue", CHANCE: "tab:purple", SIGNAL: "tab:green", MEASURED: "tab:gray"}


@dataclass(frozen=True)
class Report:
    """What was probed and what was found. `checkpoint` None: the world alone."""

    command: str
    world_seed: int
    people: int
    checkpoint: str | None
    seconds: float
    findings: tuple[Finding, ...]
    held_out: tuple[HeldOut, ...]
    independence: Independence

    @property
    def holds(self) -> bool:
        """Whether the world keeps every promise."""
        return holds(self.findings) and all(item.holds for item in self.held_out) and self.independence.holds

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            **{name: getattr(self, name) for name in ("command", "world_seed", "people", "checkpoint", "holds")},
            "seconds": round(self.seconds, 1),
            "findings": [
                {
                    "source": finding.source,
                    "truth": finding.truth,
                    "expected": finding.expected,
                    "bar": finding.bar,
                    "holds": finding.holds,
                    **asdict(finding.score),
                }
                for finding in self.findings
            ],
            "held_out": [{**asdict(item), "holds": item.holds} for item in self.held_out],
            "independence": {**asdict(self.independence), "holds": self.independence.holds},
        }


def write(report: Report, folder: Path) -> None:
    """Write the three files into `folder`, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_FILE).write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    (folder / MARKDOWN_FILE).write_text(markdown(report))
    plot(report, folder / PLOT_FILE)


def markdown(report: Report) -> str:
    """The report as tables: a line per source and expectation, then every truth."""
    of = f", features of `{report.checkpoint}`" if report.checkpoint else ""
    lines = [
        f"`{report.command}`: {report.people} people of world {report.world_seed}{of}; {report.seconds:.0f} s. "
        f"**{'Every promise holds' if report.holds else 'Promises are broken'}.**",
        "",
        "| from | expected | truths | R² of the worst | that truth | bar | luck reaches | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = dict.fromkeys((finding.source, finding.expected) for finding in report.findings)
    for source, expected in groups:
        findings = [finding for finding in report.findings if (finding.source, finding.expected) == (source, expected)]
        worst = min(findings, key=_margin)
        lines.append(
            f"| {source} | {_promise(expected)} | {len(findings)} | {worst.score.r2:.3f} | {worst.truth} | "
            f"{_number(worst.bar)} | {worst.score.floor:.3f} | {_verdict(all(f.holds is not False for f in findings), expected)} |"
        )
    free = report.independence
    lines += [
        "",
        "| held out, and looked for in training | checked | found | |",
        "|---|---|---|---|",
        *(
            f"| {item.what} | {item.checked} | {item.found}{f', e.g. {item.example}' if item.found else ''} | {'holds' if item.holds else '**BROKEN**'} |"
            for item in report.held_out
        ),
        "",
        f"Correlations of all {free.pairs} pairs of variables that should be independent, over {free.people} people: at most {free.largest:.3f} "
        f"({' and '.join(free.largest_pair)}); luck reaches {free.floor:.3f}: {'holds' if free.holds else '**BROKEN**'}. "
        f"Among pairs that depend on each other on purpose: at most {free.meant:.3f} ({' and '.join(free.meant_pair)}).",
        "",
        "| from | truth | expected | R² | 95 % interval | luck reaches | p | accuracy (chance) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for finding in report.findings:
        found = finding.score
        accuracy = "" if found.accuracy is None else f"{found.accuracy:.3f} ({found.chance:.3f})"
        mark = " **BROKEN**" if finding.holds is False else ""
        lines.append(
            f"| {finding.source} | {finding.truth} | {_promise(finding.expected)}{mark} | {found.r2:.3f} | "
            f"{found.low:.3f} … {found.high:.3f} | {found.floor:.3f} | {found.p:.3f} | {accuracy} |"
        )
    return "\n".join(lines) + "\n"


def plot(report: Report, path: Path) -> None:
    """R² of every truth by source, with intervals: a square-root axis, because what matters lies near zero."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    sources = list(dict.fromkeys(finding.source for finding in report.findings))
    figure, axes = pyplot.subplots(figsize=(9, 0.75 * len(sources) + 1.6), layout="constrained")
    for row, source in enumerate(sources):
        findings = sorted((f for f in report.findings if f.source == source), key=lambda f: f.expected == SIGNAL)
        for n, finding in enumerate(findings):
            height = row + 0.76 * (n / max(1, len(findings) - 1) - 0.5)
            found, colour = finding.score, "red" if finding.holds is False else _COLOURS[finding.expected]
            axes.plot([found.low, found.high], [height, height], color=colour, linewidth=0.8)
            axes.plot(found.r2, height, "o", color=colour, markersize=3)
        found_here = "\n".join(finding.truth for finding in findings if finding.expected == SIGNAL)
        axes.annotate(found_here, (1.15, row + 0.2), fontsize=6, color=_COLOURS[SIGNAL], verticalalignment="center")
    axes.axvline(NOTHING_R2, color="tab:blue", linestyle="--", linewidth=0.8)
    axes.axvline(SIGNAL_R2, color="tab:green", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(sources)), sources)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=NOTHING_R2, linscale=1.5)
    axes.set_xlim(-0.03, 8)
    axes.set_xticks([0, 0.02, 0.1, 0.5, 1], ["0", "0.02", "0.1", "0.5", "1"])
    axes.set_xlabel("R² on people the probe has not met (linear up to 0.02, then logarithmic)")
    handles = [pyplot.Line2D([], [], marker="o", linestyle="", color=c, label=_promise(e)) for e, c in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    axes.set_title(f"Leak probes: {report.people} people of world {report.world_seed}", fontsize=10)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _margin(finding: Finding) -> float:
    """How far a promise is from being broken; of what is only measured, the largest R² comes first."""
    if finding.bar is None:
        return -finding.score.r2
    return (finding.score.r2 - finding.bar) * (1 if finding.expected == SIGNAL else -1)


def _promise(expected: str) -> str:
    return {
        NOTHING: f"nothing (R² ≤ {NOTHING_R2:g})",
        CHANCE: "chance",
        SIGNAL: f"signal (R² ≥ {SIGNAL_R2:g})",
        MEASURED: "measured",
    }[expected]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _verdict(kept: bool, expected: str) -> str:
    if expected == MEASURED:
        return ""
    return "holds" if kept else "**BROKEN**"
