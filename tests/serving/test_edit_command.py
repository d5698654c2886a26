"""The command `edit` over a real server: a whole sheet from one inversion, the same pictures as in process."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from runtime.__main__ import main


def test_a_sheet_from_a_server_is_the_sheet_made_in_process(server, micro_bundle, tmp_path, jpeg, capsys):
    (tmp_path / "photo.jpg").write_bytes(jpeg)
    flags = ["--reference", str(tmp_path / "photo.jpg"), "--sweep", "age=20:70:4", "--steps", "3", "--seed", "1"]
    reports, sheets = {}, {}
    for where, target in (("served", ["--url", server.url]), ("in process", [str(micro_bundle)])):
        assert main(["edit", *target, *flags, "--out", str(tmp_path / "sheet.png")]) == 0
        reports[where] = json.loads(capsys.readouterr().out)["reports"]
        sheets[where] = np.asarray(Image.open(tmp_path / "sheet.png"))
    # Whoever asked this server before may have left this very inversion.
    assert [report["edit"]["inversion_cached"] for report in reports["served"][1:]] == [True] * 3
    assert [report["edit"]["inversion_cached"] for report in reports["in process"]] == [False, True, True, True]
    np.testing.assert_array_equal(sheets["served"], sheets["in process"])
