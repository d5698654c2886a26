"""`python -m benchmarks editing` as a whole, on an untrained bundle: what it leaves behind, and that it answers with the settings it was given."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.__main__ import main
from benchmarks.editing.figures import BLOCKS
from benchmarks.editing.trials import EDIT, SWEEPS

JUDGES = Path(__file__).parents[3] / "bundles/judges"


def test_a_whole_run_leaves_tables_a_plot_sheets_and_a_document(
    micro_bundle: Path, micro_checkpoint: Path, tmp_path: Path, capsys
):
    flags = ["--checkpoint", str(micro_checkpoint), "--judges", str(JUDGES), "--out", str(tmp_path)]
    asked = ["--people", "1", "--swept", "1", "--steps", "3", "--t0", "400", "--guidance", "2", "--threads", "1"]
    assert main(["editing", str(micro_bundle), *flags, *asked]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["settings"] == {"edit_from_timestep": 400, "num_inference_steps": 3, "guidance_scale": 2.0}
    assert document["edits"].keys() == BLOCKS.keys()
    assert all(EDIT in found for found in document["edits"].values())
    assert document["sweeps"].keys() == SWEEPS.keys()
    names = {
        "ages.jpg",
        "emotions.jpg",
        "ways.jpg",
        "levels.jpg",
        "sweeps.png",
        "editing.md",
        "editing.json",
        "records.jsonl",
    }
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert "python -m benchmarks editing" in (tmp_path / "editing.md").read_text()
    # Kept detail covers what an untrained network does to a picture; without it the round trip is another one.
    round_trip = document["round_trip"]
    assert round_trip["plain"]["psnr_db"]["mean"] < round_trip["detail kept, as by default"]["psnr_db"]["mean"]


def test_records_of_other_settings_are_refused(micro_bundle: Path, micro_checkpoint: Path, tmp_path: Path, capsys):
    (tmp_path / "settings.json").write_text("{}")
    flags = ["--checkpoint", str(micro_checkpoint), "--judges", str(JUDGES), "--out", str(tmp_path)]
    assert main(["editing", str(micro_bundle), *flags, "--people", "1"]) == 1
    assert "choose another --out" in capsys.readouterr().err
