"""Every planted fault is named, odd but good files are not, and the command's exit status tells whether anything is left."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.training.data.media import bomb, picture, pixels, sound, video
from training.data.check import check
from training.data.command import main
from training.data.faults import NOTED, SKIPPED
from training.data.splits import load


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, set[str]]]:
    """A folder of one's own with good files, odd files and faults; (folder, fault's reason → paths it must be told of)."""
    root = tmp_path_factory.mktemp("planted")
    lines: list[str] = []
    faults: dict[str, set[str]] = {}
    seeds = iter(range(1000))

    def row(**values: object) -> None:
        lines.append(json.dumps(values))

    def plant(reason: str, path: str = "metadata.jsonl", **values: object) -> Path:
        faults.setdefault(reason, set()).add(path)
        if values:
            row(**values)
        return root / path

    # Good, and odd but good.
    row(file_name=picture(root / "good.jpg", next(seeds)).name, age=30, identity="ann", emotion="happy", text="a woman")
    for mode, suffix in (("L", "png"), ("CMYK", "jpg"), ("P", "png"), ("LA", "png")):
        row(file_name=picture(root / f"odd-{mode}.{suffix}", next(seeds), mode).name, identity="ann")
    Image.fromarray(pixels(next(seeds))[..., 0].astype(np.uint16) * 257).save(root / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    picture(root / "turned.jpg", next(seeds), exif=exif)
    row(file_name="deep.png", audio=sound(root / "stereo.wav", rate=48_000, channels=2).name)
    row(file_name="turned.jpg", audio=sound(root / "apple.m4a", rate=44_100, hz=330).name)

    # Pictures.
    row(file_name=plant("empty", "zero.jpg").name)
    (root / "zero.jpg").touch()
    for suffix in ("jpg", "png", "webp"):
        cut = picture(plant("damaged", f"cut.{suffix}"), next(seeds))
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        row(file_name=cut.name)
    plant("not an image", "page.png", file_name="page.png").write_text("<html>404</html>")
    plant("wrong extension", "really-png.jpg", file_name="really-png.jpg")
    picture(root / "really.png", next(seeds)).rename(root / "really-png.jpg")
    small = plant("too small", "small.png", file_name="small.png")
    Image.fromarray(pixels(next(seeds), 16, 16)).save(small)
    bomb(plant("too large", "bomb.png", file_name="bomb.png"), 9_000)
    Image.new("RGB", (64, 64)).save(plant("blank", "black.png", file_name="black.png"))
    plant("missing", "gone.png", file_name="gone.png")
    plant("missing", "dangling.png", file_name="dangling.png").symlink_to(root / "nowhere.png")
    twin = plant("duplicate", "twin.jpg", file_name="twin.jpg")
    twin.write_bytes((root / "good.jpg").read_bytes())
    picture(plant("unlisted picture", "stray.png"), next(seeds))

    # Sounds; each with a good picture, which stays usable.
    for n, (reason, name) in enumerate(
        [("empty", "zero.wav"), ("damaged", "cut.wav"), ("too short", "short.wav"), ("silent", "still.wav"),
         ("not finite", "nan.wav"), ("not audio", "text.wav"), ("damaged", "cut.m4a"), ("missing", "gone.wav")]
    ):  # fmt: skip
        row(file_name=picture(root / f"speaker-{n}.png", next(seeds)).name, audio=plant(reason, name).name)
    (root / "zero.wav").touch()
    (root / "text.wav").write_text("RIFF raff")
    sound(root / "short.wav", 0.1)
    soundfile.write(root / "still.wav", np.zeros(16_000), 16_000)
    soundfile.write(root / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    for name in ("cut.wav", "cut.m4a"):
        whole = sound(root / name)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    sound(plant("unlisted", "nobody.wav"), hz=500)

    # Rows.
    plant("outside", file_name="../../outside.png")
    plant("outside", file_name="/etc/hostname")
    lines.append("{broken")
    plant("bad row")
    plant("bad row", age=30)
    plant("listed twice", file_name="good.jpg", age=31)
    plant("unknown column", file_name=picture(root / "hair.png", next(seeds)).name, hair="red")
    plant("bad label", file_name=picture(root / "old.png", next(seeds)).name, age=200)
    plant("bad label", file_name=picture(root / "joyous.png", next(seeds)).name, emotion="joyous")
    (root / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return root, faults


def told(report: dict) -> dict[str, set[str]]:
    return {
        reason: {example["path"] for example in entry["examples"]}
        for reason, entry in {**report["skipped"], **report["noted"]}.items()
    }


def test_every_planted_fault_is_named_and_nothing_else(planted: tuple[Path, dict[str, set[str]]]) -> None:
    root, faults = planted
    assert sum(map(len, faults.values())) >= 20 and len(faults) >= 20
    report = check("folder", root, processes=1).to_dict()
    assert told(report) == faults
    counts = {reason: entry["count"] for kind in ("skipped", "noted") for reason, entry in report[kind].items()}
    assert counts == {
        reason: 2 if reason in ("outside", "bad row", "bad label") else len(paths) for reason, paths in faults.items()
    }
    assert set(report["skipped"]) <= set(SKIPPED) and set(report["noted"]) <= set(NOTED)


def test_coverage_counts_what_is_usable(planted: tuple[Path, dict[str, set[str]]]) -> None:
    usable = check("folder", planted[0], processes=1).to_dict()["usable"]
    good = 1 + 4 + 2  # good.jpg, odd modes, deep and turned
    noted = 1 + 1 + 1 + 1 + 2  # wrong extension, twin, stray, unknown column, bad labels
    assert usable["pictures"] == usable["records"] == good + noted + 8  # the speakers
    assert usable["sounds"] == 2 and usable["sound_seconds"] == pytest.approx(1.0, abs=0.1)
    assert usable["pictures_without_sound"] == usable["pictures"] - 2
    assert usable["sounds_without_picture"] == 0
    assert (usable["identities"], usable["records_per_identity"]) == (1, [5, 5, 5])
    assert usable["age"] == {"records": 1, "years": [30.0, 30.0, 30.0]}
    assert usable["emotion"]["happy"] == 1 and sum(usable["emotion"].values()) == 1
    assert usable["captions"] == 1


def test_several_processes_report_the_same(planted: tuple[Path, dict[str, set[str]]]) -> None:
    assert check("folder", planted[0], processes=2).to_dict() == check("folder", planted[0], processes=1).to_dict()


def test_duplicate_pixels_and_videos_of_other_data_sets_are_checked(tmp_path: Path) -> None:
    row = " ".join(str(n % 256) for n in range(2304))
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{row},Training\n3,{row},Training\n")
    assert told(check("fer2013", tmp_path, 1).to_dict()) == {"duplicate": {"fer2013 00001"}}
    whole = video(tmp_path / "Actor_01/02-01-01-01-01-01-01.mp4")
    whole.write_bytes(whole.read_bytes()[:300])
    report = check("ravdess", tmp_path, 1).to_dict()
    assert told(report) == {"damaged": {"Actor_01/02-01-01-01-01-01-01.mp4"}}
    assert (report["records"], report["usable"]["records"]) == (1, 0)


def test_file_whose_name_is_no_text_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems refuse such names")
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    picture(tmp_path / "good.png")
    assert main(["check", str(tmp_path), "--json", str(tmp_path / "r.json"), "--processes", "1"]) == 0
    assert "caf\\udce9.png" in capsys.readouterr().out
    assert told(json.loads((tmp_path / "r.json").read_text())) == {"empty": {"caf\udce9.png"}}


def test_command_reports_and_writes_json(
    planted: tuple[Path, dict[str, set[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, faults = planted
    out = tmp_path / "new" / "report.json"
    assert main(["check", str(root), "--json", str(out), "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{root} as folder" in printed
    for reason, paths in faults.items():
        assert f"{reason}: { {**SKIPPED, **NOTED}[reason] }" in printed
        assert all(path in printed for path in paths)
    assert told(json.loads(out.read_text())) == faults


def test_exit_status_is_one_when_nothing_is_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path), "--processes", "1"]) == 1
    (tmp_path / "a.png").touch()
    assert main(["check", str(tmp_path), "--processes", "1"]) == 1
    assert "empty" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main(["check", str(tmp_path), "--as", "fer2013"]) == 1
    assert "no fer2013.csv" in capsys.readouterr().err
    assert main(["check", str(tmp_path), "--processes", "0"]) == 1
    assert main(["splits", str(tmp_path / "none"), "--out", str(tmp_path / "s.json")]) == 1


def test_as_reads_a_folder_by_another_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "00001.png")
    main(["check", str(tmp_path), "--processes", "1"])
    main(["check", str(tmp_path), "--processes", "1", "--as", "folder"])
    assert [line.split(" as ")[1] for line in capsys.readouterr().out.splitlines() if " as " in line] == [
        "ffhq: 1 records, 1 usable",
        "folder: 1 records, 1 usable",
    ]


def test_splits_command_writes_a_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for actor in range(1, 25):
        sound(tmp_path / f"Actor_{actor:02d}/03-01-01-01-01-01-{actor:02d}.wav", 0.3)
    paths = [tmp_path / f"{n}.json" for n in range(3)]
    assert main(["splits", str(tmp_path), "--out", str(paths[0])]) == 0
    assert "train" in capsys.readouterr().out
    assert main(["splits", str(tmp_path), "--out", str(paths[1]), "--seed", "7"]) == 0
    assert main(["splits", str(tmp_path), "--out", str(paths[2]), "--test-fraction", "0.5"]) == 0
    first, second, third = (load(path) for path in paths)
    assert first.sides != second.sides
    assert third.counts()["ravdess"]["test"] > first.counts()["ravdess"]["test"]
    assert sum(first.counts()["ravdess"].values()) == 24
