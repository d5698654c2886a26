"""One table in its forms."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import Table, plot_bars, write_markdown

TABLE = Table("speed", ("engine", "ms"), [("a", 1.0), ("b", "–")])


def test_a_page_has_the_command_the_title_and_a_line_per_row(tmp_path: Path) -> None:
    write_markdown(tmp_path / "new" / "page.md", "python -m benchmarks x", [TABLE])
    assert (tmp_path / "new" / "page.md").read_text().splitlines() == [
        "`python -m benchmarks x`",
        "",
        "**speed**",
        "",
        "| engine | ms |",
        "| --- | --- |",
        "| a | 1.00 |",
        "| b | – |",
    ]


def test_the_terminal_shows_the_title_above_the_columns() -> None:
    assert TABLE.text().splitlines() == ["speed", "engine    ms", "a       1.00", "b          –"]


def test_groups_without_bars_are_left_out_of_the_picture(tmp_path: Path) -> None:
    plot_bars(tmp_path / "bars.png", "ms", {"full": {"a": 1.0, "b": 2.0}, "empty": {}})
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
