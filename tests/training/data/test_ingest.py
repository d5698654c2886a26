"""Data sets of a few real files each become caches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from runtime.emotions import EMOTIONS
from runtime.preprocess.image import middle_square
from tests.training.data.media import picture
from tests.training.data.trees import CELEBRITIES, plant
from training.data import ingest
from training.data.cache import DataCache
from training.data.command import main
from training.data.decode import read_audio
from training.data.faults import DataError, FaultyFileError
from training.data.ingest import Source, build
from training.data.readers import records
from training.data.splits import Splits, divide, save

SIZE = 32


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return plant(tmp_path_factory.mktemp("trees"))


@pytest.fixture(scope="module")
def built(trees: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    for name, root in trees.items():
        build(out / name, Source(name, root, SIZE), processes=1)
    return out


def skipped(folder: Path) -> dict[str, int]:
    return {
        reason: entry["count"] for reason, entry in json.loads((folder / "skipped.json").read_text())["skipped"].items()
    }


def all_train(cacd: Path) -> Splits:
    return Splits(0, 0.5, {"cacd": {record.key: "train" for record in records("cacd", cacd)}})


def test_a_damaged_photo_and_a_silent_recording_are_skipped_counted_and_named(
    trees: dict[str, Path], built: Path, tmp_path: Path
) -> None:
    assert skipped(built / "ffhq") == {} and skipped(built / "ravdess") == {}
    assert skipped(built / "voxceleb") == {"silent": 1}
    folder = build(tmp_path / "cacd", Source("cacd", trees["cacd"], SIZE), 1, all_train(trees["cacd"]))
    report = json.loads((folder / "skipped.json").read_text())
    assert report["summary"] == "cacd: 6 pictures and 0 sounds for train; skipped 1 damaged"
    (found,) = report["skipped"]["damaged"]["first"]
    assert found["path"].endswith("50_Ann_Lee_0002.jpg") and found["detail"]
    assert len(DataCache(folder)) == 6


def test_pictures_are_the_middle_squares_and_sounds_the_first_five_seconds(trees: dict[str, Path], built: Path) -> None:
    side = {record.key: record for record in records("ffhq", trees["ffhq"])}
    train_keys = [key for key, record in side.items() if divide(side.values()).side(record) == "train"]
    cache = DataCache(built / "ffhq")
    for row, key in enumerate(train_keys):
        expected = middle_square(np.asarray(Image.open(side[key].image)), SIZE)
        assert (cache.images[row] == expected).all()
    ravdess = DataCache(built / "ravdess")
    first = next(iter(r for r in records("ravdess", trees["ravdess"]) if r.identity is not None))
    assert ravdess.audio_length[0] == len(read_audio(first.audio))


def test_labels_that_a_data_set_has_are_there_and_the_others_are_unknown(built: Path) -> None:
    ffhq, cacd, ravdess = (DataCache(built / name) for name in ("ffhq", "cacd", "ravdess"))
    known = ffhq.sex == 0
    assert known.any() and (ffhq.age[known] == 33).all() and (ffhq.emotion[known] == EMOTIONS.index("happy")).all()
    assert set(cacd.age) <= {20.0, 40.0} and (cacd.sex == -1).all() and (cacd.emotion == -1).all()
    assert set(ravdess.emotion) == {EMOTIONS.index("happy"), EMOTIONS.index("angry")}
    assert np.isnan(ravdess.age).all() and set(ravdess.intensity) == {0.5}


def test_pictures_of_a_person_are_neighbours_and_voices_have_their_speaker(built: Path) -> None:
    cacd, ravdess, voxceleb = (DataCache(built / name) for name in ("cacd", "ravdess", "voxceleb"))
    assert (cacd.pictures == 2).all() and (DataCache(built / "ffhq").pictures == 1).all()
    assert (ravdess.audio_person == ravdess.person).all()
    assert (ravdess.audio_picture == np.arange(len(ravdess))).all()
    assert len(voxceleb) == 0 and len(voxceleb.audio) == 4
    assert np.unique(voxceleb.audio_person, return_counts=True)[1].tolist() == [2, 2]
    assert (voxceleb.audio_picture == -1).all()


def test_captions_are_composed_from_labels_and_a_data_sets_own_come_first(built: Path, tmp_path: Path) -> None:
    assert all(1 <= len(texts) <= 3 for texts in DataCache(built / "cacd").captions)
    for n in range(3):
        picture(tmp_path / "mine" / f"{n}.png", seed=n)
    rows = [{"file_name": "0.png", "text": ["my aunt", "at sea"], "age": 60}, {"file_name": "1.png", "age": 60}]
    (tmp_path / "mine" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    captions = {}
    for split in ("train", "test"):
        cache = DataCache(build(tmp_path / split, Source("folder", tmp_path / "mine", SIZE, split), processes=1))
        captions |= {
            int(round(float(age)) if age == age else -1): t
            for age, t in zip(cache.age, cache.captions, strict=True)
            if t
        }
    texts = [t for split in ("train", "test") for t in DataCache(tmp_path / split).captions]
    assert sorted(map(len, texts)) == [0, 1, 2]
    assert ["my aunt", "at sea"] in texts


def test_the_two_sides_of_the_split_share_nobody(trees: dict[str, Path], built: Path, tmp_path: Path) -> None:
    test = DataCache(build(tmp_path / "test", Source("cacd", trees["cacd"], SIZE, "test"), processes=1))
    train_side = DataCache(built / "cacd")
    assert len(np.unique(test.person)) + len(np.unique(train_side.person)) == len(CELEBRITIES)
    assert not {p.tobytes() for p in test.images} & {p.tobytes() for p in train_side.images}


def test_the_command_builds_the_side_that_evaluation_asks_for(trees: dict[str, Path], tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    save(all_train(trees["cacd"]), split)
    flags = ["build", str(trees["cacd"]), "--size", str(SIZE), "--processes", "1", "--out"]
    assert main([*flags, str(tmp_path / "test")]) == 0
    expected = DataCache(build(tmp_path / "same", Source("cacd", trees["cacd"], SIZE, "test"), processes=1))
    assert DataCache(tmp_path / "test").sha256 == expected.sha256
    assert main([*flags, str(tmp_path / "none"), "--splits", str(split)]) == 1  # it leaves nobody for tests
    assert main([*flags, str(tmp_path / "all"), "--splits", str(split), "--side", "train"]) == 0
    assert len(DataCache(tmp_path / "all")) == 6


def test_what_is_built_is_not_built_again_until_a_file_changes(trees: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(trees["cacd"], tmp_path / "cacd")
    source, everyone = Source("cacd", tmp_path / "cacd", SIZE), all_train(trees["cacd"])
    written = (build(tmp_path / "out", source, 1, everyone) / "cache.json").stat().st_mtime_ns
    assert (build(tmp_path / "out", source, 1, everyone) / "cache.json").stat().st_mtime_ns == written
    assert len(DataCache(tmp_path / "out")) == 6
    picture(tmp_path / "cacd" / "50_Ann_Lee_0002.jpg", seed=7)  # repaired
    assert len(DataCache(build(tmp_path / "out", source, 1, everyone))) == 7
    larger = Source("cacd", tmp_path / "cacd", 40)
    assert DataCache(build(tmp_path / "out", larger, 1, everyone)).images.shape == (7, 40, 40, 3)


def test_a_killed_build_leaves_the_old_cache_and_nothing_half_done(
    trees: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "out", Source("cacd", trees["cacd"], SIZE), 1)
    monkeypatch.setattr(ingest, "read_image", lambda source: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out", Source("cacd", trees["cacd"], 48), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert DataCache(tmp_path / "out").images.shape[1] == SIZE


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(
    trees: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"ffhq: \d pictures and 0 sounds take 0\.0 GB, .* has 0\.0 GB free; free some"):
        build(tmp_path / "out", Source("ffhq", trees["ffhq"], SIZE), 1)
    assert not list(tmp_path.iterdir())


def test_a_data_set_of_which_nothing_can_be_used_is_an_error(tmp_path: Path) -> None:
    for name in CELEBRITIES:
        (tmp_path / "cacd").mkdir(exist_ok=True)
        (tmp_path / "cacd" / f"20_{name}_0001.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"nothing in .* can be used; skipped [12] not an image"):
        build(tmp_path / "out", Source("cacd", tmp_path / "cacd", SIZE), 1)


class Pack:
    """Finds the five points in bright pictures only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def landmarks(self, image: np.ndarray) -> np.ndarray | None:
        height, width = image.shape[:2]
        points = np.array([[0.3, 0.3], [0.5, 0.3], [0.4, 0.4], [0.33, 0.5], [0.47, 0.5]]) * (width, height)
        return points if image.mean() > 128 else None


def test_points_that_are_no_face_s_are_a_named_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ingest, "_loaded", lambda pack: SimpleNamespace(landmarks=lambda image: np.full((5, 2), 7.0, np.float32))
    )
    with pytest.raises(FaultyFileError) as caught:
        ingest._cut(np.zeros((40, 40, 3), np.uint8), Source("ffhq", tmp_path, SIZE, face_pack=tmp_path))
    assert (caught.value.reason, caught.value.detail) == ("bad landmarks", "the face's points spread over 0 px")


def test_a_face_pack_aligns_faces_and_skips_pictures_without_one(
    trees: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "FacePack", Pack)
    ingest._loaded.cache_clear()
    found = list(records("ffhq", trees["ffhq"]))
    mine = [r for r in found if divide(found).side(r) == "train"]
    bright = sum(np.asarray(Image.open(record.image)).mean() > 128 for record in mine)
    assert 0 < bright < len(mine)
    plain = DataCache(build(tmp_path / "plain", Source("ffhq", trees["ffhq"], SIZE), 1))
    (tmp_path / "pack").mkdir()
    aligned = DataCache(build(tmp_path / "out", Source("ffhq", trees["ffhq"], SIZE, face_pack=tmp_path / "pack"), 1))
    ingest._loaded.cache_clear()
    assert len(aligned) == bright and skipped(tmp_path / "out") == {"no face": len(mine) - bright}
    assert not {p.tobytes() for p in aligned.images} & {p.tobytes() for p in plain.images}
