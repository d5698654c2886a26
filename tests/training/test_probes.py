"""The command: three files, an exit status, and nothing else."""

from __future__ import annotations

import json

import pytest

from training import probes
from training.leaks.report import JSON_FILE, MARKDOWN_FILE, PLOT_FILE


def test_a_report_has_a_line_for_every_question_and_its_exit_status_is_its_verdict(tmp_path, micro_checkpoint, capsys):
    arguments = ["--people", "200", "--captions", "400", "--world-seed", "3", "--processes", "1"]
    status = probes.main([*arguments, "--checkpoint", str(micro_checkpoint), "--out", str(tmp_path)])
    report = json.loads((tmp_path / JSON_FILE).read_text())
    assert status == (0 if report["holds"] else 1)
    assert {path.name for path in tmp_path.iterdir()} == {JSON_FILE, MARKDOWN_FILE, PLOT_FILE}
    page = (tmp_path / MARKDOWN_FILE).read_text()
    sources = {finding["source"] for finding in report["findings"]}
    assert {"voice", "identity", "background", "picture", "voice network", "identity network"} <= sources
    assert all(f"| {finding['source']} | {finding['truth']} |" in page for finding in report["findings"])
    assert report["people"] == 200 and str(micro_checkpoint) in page


def test_too_few_people_to_learn_from_are_refused(tmp_path):
    with pytest.raises(SystemExit):
        probes.main(["--people", "50", "--out", str(tmp_path)])
