"""Every data set, faked in its published layout with real files, is read completely, recognised, and decoded."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from tests.training.data.media import picture, sound, video
from training.data import cacd, fer2013, ffhq, folder, ravdess, voxceleb
from training.data.decode import read_audio, read_image
from training.data.faults import NOTED, SKIPPED, DataError, Fault
from training.data.readers import READERS, detect, records
from training.data.record import FEMALE, MALE, Record, VideoFrame

# --- FFHQ

SCORES = dict.fromkeys(
    ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"), 0.0
)  # fmt: skip


def face(age: float = 30.0, gender: str = "female", side: int = 100, **scores: float) -> dict:
    """One entry of a label file as ffhq-features-dataset has them."""
    return {
        "faceId": "x",
        "faceRectangle": {"top": 1, "left": 1, "width": side, "height": side},
        "faceAttributes": {"age": age, "gender": gender, "smile": 0.5, "emotion": {**SCORES, **scores}},
    }


@pytest.fixture(scope="module")
def ffhq_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ffhq")
    for i in (0, 1, 2, 999, 1000, 59_999, 60_000, 69_999):
        picture(root / f"images1024x1024/{i // 1000 * 1000:05d}/{i:05d}.png", i)
        picture(root / f"thumbnails128x128/{i // 1000 * 1000:05d}/{i:05d}.png", i)
    picture(root / "thumbnails128x128/00000/00003.png", 3)  # not in the large pictures
    picture(root / "in-the-wild-images/00000/00004.png", 4)
    labels = {
        0: [face(23.0, "female", happiness=0.99)],
        1: [],
        2: [face(70.0, "male", side=10, anger=1.0), face(41.0, "male", side=90, surprise=0.7, fear=0.3)],
        999: [face(5.0, "male", contempt=0.9)],
        1000: [face(33.0, "female", sadness=0.4, neutral=0.35, fear=0.25)],
    }
    (root / "json").mkdir()
    for i, faces in labels.items():
        (root / f"json/{i:05d}.json").write_text(json.dumps(faces))
    (root / "LICENSE.txt").write_text("Creative Commons BY-NC-SA 4.0")
    return root


def test_ffhq_is_read_completely_with_the_largest_pictures(ffhq_tree: Path) -> None:
    found = {r.key: r for r in ffhq.read(ffhq_tree)}
    assert list(found) == ["00000", "00001", "00002", "00003", "00999", "01000", "59999", "60000", "69999"]
    assert found["00000"].image == ffhq_tree / "images1024x1024/00000/00000.png"
    assert found["01000"].image == ffhq_tree / "images1024x1024/01000/01000.png"
    assert found["00003"].image == ffhq_tree / "thumbnails128x128/00000/00003.png"
    assert [r.split for r in found.values()] == ["train"] * 7 + ["test"] * 2
    assert all(r.identity is None for r in found.values())


def test_ffhq_labels_are_mapped_and_an_empty_list_is_none(ffhq_tree: Path) -> None:
    told: list[Fault] = []
    found = {int(r.key): r for r in ffhq.read(ffhq_tree, told.append)}
    assert (found[0].age, found[0].sex, found[0].emotion) == (23.0, FEMALE, "happy")
    assert (found[1].age, found[1].sex, found[1].emotion) == (None, None, None)
    assert (found[2].age, found[2].emotion) == (41.0, "surprised"), "the largest face is the portrait's"
    assert (found[999].sex, found[999].emotion) == (MALE, None), "contempt is none of ours"
    assert (found[1000].age, found[1000].emotion) == (33.0, None), "the recogniser was torn"
    assert Counter(f.reason for f in told) == {"no label file": 4}


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"faceAttributes": 1}', '[{"faceAttributes": {"age": "old"}}]', '[{"faceAttributes": {"age": 999}}]',
     '[{"faceAttributes": {"gender": 3}}]', '[{"faceAttributes": {"emotion": {"joy": 1.0}}}]', '[{"faceAttributes": {"emotion": {}}}]',
     '[{"faceAttributes": {"age": NaN}}]', "[" * 5000],
)  # fmt: skip
def test_ffhq_label_that_cannot_be_read_costs_the_label_only(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "00007.png")
    (tmp_path / "json").mkdir()
    (tmp_path / "json/00007.json").write_text(text)
    told: list[Fault] = []
    (record,) = ffhq.read(tmp_path, told.append)
    assert (record.age, record.sex, record.emotion) == (None, None, None)
    assert [f.reason for f in told] == ["bad label"]


def test_flat_copy_of_ffhq_is_read_and_preferred_to_thumbnails(tmp_path: Path) -> None:
    for i in (5, 12_345):
        picture(tmp_path / f"{i:05d}.jpg", i)
    picture(tmp_path / "thumbnails128x128/00000/00005.png")
    told: list[Fault] = []
    found = list(ffhq.read(tmp_path, told.append))
    assert [r.image for r in found] == [tmp_path / "00005.jpg", tmp_path / "12345.jpg"]
    assert told == []


def test_two_flat_copies_of_one_number_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "00005.jpg")
    picture(tmp_path / "00005.png")
    told: list[Fault] = []
    assert len(list(ffhq.read(tmp_path, told.append))) == 1
    assert [f.reason for f in told] == ["same name"]


# --- CACD


@pytest.fixture(scope="module")
def cacd_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cacd")
    for n, name in enumerate(
        ["53_Robin_Williams_0001", "16_Robin_Williams_0010", "62_Aaron_Johnson_0001", "30_Jean-Luc_O'Neill_Jr._0002"]
    ):
        picture(root / f"CACD2000/{name}.jpg", n)
    return root


def test_cacd_is_read_completely(cacd_tree: Path) -> None:
    found = {r.key: (r.identity, r.age) for r in cacd.read(cacd_tree)}
    assert found == {
        "16_Robin_Williams_0010": ("Robin_Williams", 16.0),
        "30_Jean-Luc_O'Neill_Jr._0002": ("Jean-Luc_O'Neill_Jr.", 30.0),
        "53_Robin_Williams_0001": ("Robin_Williams", 53.0),
        "62_Aaron_Johnson_0001": ("Aaron_Johnson", 62.0),
    }


def test_cacd_names_that_break_the_rule_are_told(tmp_path: Path) -> None:
    for name in ("a/20_Ann_0001", "b/20_Ann_0001", "999_Ann_0002", "Ann_0003", "20_Ann_3"):
        picture(tmp_path / f"{name}.jpg")
    (tmp_path / "celebrity2000.mat").touch()
    told: list[Fault] = []
    assert {r.key: r.age for r in cacd.read(tmp_path, told.append)} == {"20_Ann_0001": 20.0, "999_Ann_0002": None}
    assert Counter(f.reason for f in told) == {"same name": 1, "bad label": 1, "unknown name": 2}


# --- RAVDESS


@pytest.fixture(scope="module")
def ravdess_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Actors 1 and 2 as published: speech in all emotions, song in six of them; the videos of actor 2 only."""
    root = tmp_path_factory.mktemp("ravdess")
    for actor in (1, 2):
        for channel, emotion, intensity in itertools.product((1, 2), range(1, 9), (1, 2)):
            if (emotion, intensity) == (1, 2) or (channel == 2 and emotion > 6):
                continue  # neutral is never strong; nobody sings disgust or surprise
            fields = f"{channel:02d}-{emotion:02d}-{intensity:02d}-01-02-{actor:02d}"
            folder = root / f"Actor_{actor:02d}"
            sound(folder / f"03-{fields}.wav", hz=100 * emotion)
            if actor == 2 and intensity == 2:
                video(folder / f"01-{fields}.mp4", with_sound=True)
                video(folder / f"02-{fields}.mp4")
    return root


def test_ravdess_is_read_completely_and_paired_by_fields_two_to_seven(ravdess_tree: Path) -> None:
    found = list(ravdess.read(ravdess_tree))
    assert len(found) == 2 * (15 + 11)
    assert len({r.key for r in found}) == len(found)
    with_picture = [r for r in found if r.image is not None]
    assert len(with_picture) == 7 + 5
    for r in with_picture:
        assert isinstance(r.image, VideoFrame) and r.audio is not None
        assert r.image.path.name == f"02-{r.key}.mp4" and r.audio.name == f"03-{r.key}.wav"


def test_ravdess_fields_become_labels(ravdess_tree: Path) -> None:
    found = {r.key: r for r in ravdess.read(ravdess_tree)}
    strong = found["01-05-02-01-02-01"]
    assert (strong.identity, strong.sex, strong.emotion, strong.intensity) == ("Actor_01", MALE, "angry", 1.0)
    song = found["02-02-01-01-02-02"]
    assert (song.identity, song.sex, song.emotion, song.intensity) == ("Actor_02", FEMALE, "calm", 0.5)
    assert found["01-01-01-01-02-01"].intensity is None, "neutral has no strength"
    assert [found[f"01-{n + 1:02d}-01-01-02-01"].emotion for n in range(8)] == list(EMOTIONS)
    assert all(r.text == () and r.age is None and r.split is None for r in found.values())


def test_ravdess_full_video_alone_gives_picture_and_sound(tmp_path: Path) -> None:
    video(tmp_path / "Actor_09/01-01-03-01-01-01-09.mp4", with_sound=True)
    (record,) = ravdess.read(tmp_path)
    assert isinstance(record.image, VideoFrame) and record.image.path == record.audio
    assert read_image(record.image).shape == (48, 64, 3)
    assert len(read_audio(record.audio)) > 7_000


def test_ravdess_copy_within_a_copy_is_read_once(tmp_path: Path) -> None:
    for folder_name in ("Actor_01", "audio_speech_actors_01-24/Actor_01"):  # as one popular mirror has it
        sound(tmp_path / folder_name / "03-01-01-01-01-01-01.wav")
    sound(tmp_path / "Actor_01/03-01-09-01-01-01-01.wav")
    video(tmp_path / "Actor_01/03-01-08-01-01-01-01.mp4")
    told: list[Fault] = []
    assert len(list(ravdess.read(tmp_path, told.append))) == 1
    assert Counter(f.reason for f in told) == {"same name": 1, "unknown name": 2}


# --- VoxCeleb


@pytest.fixture(scope="module")
def voxceleb_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voxceleb")
    sound(root / "vox1/wav/id10001/1zcIwhmdeo4/00001.wav", hz=100, rate=16_000)
    sound(root / "vox1/wav/id10001/1zcIwhmdeo4/00002.wav", hz=110, rate=16_000)
    sound(root / "vox1/wav/id10309/-_p9LxRNqR0/00001.wav", hz=120, rate=16_000)
    sound(root / "vox2/dev/aac/id00012/21Uxsk56VDQ/00001.m4a", hz=130, rate=16_000)
    video(root / "vox2/dev/mp4/id00012/21Uxsk56VDQ/00001.mp4")
    (root / "vox1_meta.csv").write_text(
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\nid10309\tSomebody\tf\tUSA\ttest\n"
    )
    (root / "vox2_meta.csv").write_text("VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \n")
    return root


def test_voxceleb_is_read_completely(voxceleb_tree: Path) -> None:
    found = {r.key: r for r in voxceleb.read(voxceleb_tree)}
    assert list(found) == [
        "id00012/21Uxsk56VDQ/00001",
        "id10001/1zcIwhmdeo4/00001",
        "id10001/1zcIwhmdeo4/00002",
        "id10309/-_p9LxRNqR0/00001",
    ]
    assert [r.identity for r in found.values()] == ["id00012", "id10001", "id10001", "id10309"]
    assert [r.sex for r in found.values()] == [MALE, MALE, MALE, FEMALE]
    assert [r.split for r in found.values()] == ["train", "train", "train", "test"]
    first, *others = found.values()
    assert isinstance(first.image, VideoFrame) and first.audio is not None and first.audio.suffix == ".m4a"
    assert all(r.image is None for r in others)


def test_voxceleb_without_tables_has_no_sex_and_names_are_checked(tmp_path: Path) -> None:
    sound(tmp_path / "wav/id10001/1zcIwhmdeo4/00001.wav")
    sound(tmp_path / "wav/id10001/short/00001.wav")
    told: list[Fault] = []
    (record,) = voxceleb.read(tmp_path, told.append)
    assert (record.sex, record.split) == (None, None)
    assert [f.reason for f in told] == ["unknown name"]


# --- FER2013

ROW = " ".join(str(n % 256) for n in range(2304))


def fer_table(path: Path, rows: list[str]) -> Path:
    path.write_text("emotion,pixels,Usage\n" + "".join(f"{row}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def fer2013_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fer2013")
    black = " ".join(["0"] * 2304)
    rows = [f"{n},{ROW},Training" for n in range(7)]
    fer_table(root / "fer2013.csv", [*rows, f"3,{black},Training", f"4,{ROW},PublicTest", f"5,{ROW},PrivateTest"])
    return root


def test_fer2013_is_read_completely_without_its_black_rows(fer2013_tree: Path) -> None:
    told: list[Fault] = []
    found = list(fer2013.read(fer2013_tree, told.append))
    assert [r.emotion for r in found[:7]] == ["angry", "disgust", "fearful", "happy", "sad", "surprised", "neutral"]
    assert [r.split for r in found] == ["train"] * 7 + ["test"] * 2
    assert [r.key for r in found[6:]] == ["00006", "00008", "00009"]
    assert [(f.reason, f.detail[:5]) for f in told] == [("blank", "row 7")]
    assert isinstance(found[0].image, np.ndarray)
    assert (found[0].image.reshape(-1) == np.arange(2304) % 256).all()


def test_fer2013_is_streamed_row_by_row(tmp_path: Path) -> None:
    path = fer_table(tmp_path / "fer2013.csv", [f"0,{ROW},Training"] * 50)
    rows = fer2013.read(tmp_path)
    next(rows)
    path.write_bytes(path.read_bytes()[: 20 * len(ROW)])  # what has not been read yet can still change
    assert 15 < len(list(rows)) < 25


@pytest.mark.parametrize(
    "row",
    [f"7,{ROW},Training", f"x,{ROW},Training", f"0,{ROW},Test", "0,1 2 3,Training", f"0,{ROW[:-2]} 256,Training",
     f"0,{ROW[:-3]} x,Training", "0", "0,,Training", f"0,{ROW[:-3]} 99999999999999999999,Training"],
)  # fmt: skip
def test_fer2013_row_that_cannot_be_read_costs_itself_only(tmp_path: Path, row: str) -> None:
    fer_table(tmp_path / "fer2013.csv", [f"0,{ROW},Training", row, f"1,{ROW},Training"])
    told: list[Fault] = []
    assert [r.key for r in fer2013.read(tmp_path, told.append)] == ["00000", "00002"]
    assert [f.reason for f in told] == ["bad row"]


def test_fer2013_without_its_table_or_columns_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no fer2013\.csv"):
        list(fer2013.read(tmp_path))
    (tmp_path / "fer2013.csv").write_text("emotion,Usage\n")
    with pytest.raises(DataError, match="pixels"):
        list(fer2013.read(tmp_path))


# --- a folder of one's own


def rows(path: Path, *entries: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(e) if not isinstance(e, str) else e}\n" for e in entries))


@pytest.fixture(scope="module")
def folder_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    for n, name in enumerate(("a.jpg", "deep/b.png", "train/c.webp", "test/d.png")):
        picture(root / name, n)
    sound(root / "voices/a.wav")
    sound(root / "voices/lone.flac", hz=300)
    rows(
        root / "metadata.jsonl",
        {"file_name": "a.jpg", "text": "a smiling woman", "age": 31, "sex": "female", "emotion": "Happy", "emotion_intensity": 0.7,
         "valence": 0.8, "arousal": -0.25, "audio": "voices/a.wav", "identity": "ann"},
        {"file_name": "deep/b.png", "text": ["a man", "someone with a hat"], "identity": 7, "age": None},
        {"file_name": "voices/lone.flac", "emotion": "sad"},
    )  # fmt: skip
    rows(root / "test/metadata.jsonl", {"file_name": "d.png", "age": 44.5})
    return root


def test_folder_is_read_completely(folder_tree: Path) -> None:
    told: list[Fault] = []
    found = {r.key: r for r in folder.read(folder_tree, told.append)}
    assert list(found) == ["a.jpg", "deep/b.png", "voices/lone.flac", "test/d.png", "train/c.webp"]
    a = found["a.jpg"]
    assert (a.text, a.age, a.sex, a.identity) == (("a smiling woman",), 31.0, FEMALE, "ann")
    assert (a.emotion, a.intensity, a.valence_arousal) == ("happy", 0.7, (0.8, -0.25))
    assert (a.image, a.audio) == (folder_tree / "a.jpg", folder_tree / "voices/a.wav")
    assert found["deep/b.png"].text == ("a man", "someone with a hat")
    assert (found["deep/b.png"].identity, found["deep/b.png"].age) == ("7", None)
    assert (found["voices/lone.flac"].image, found["voices/lone.flac"].emotion) == (None, "sad")
    assert [found[k].split for k in ("a.jpg", "train/c.webp", "test/d.png")] == [None, "train", "test"]
    assert found["test/d.png"].age == 44.5, "a table names files relative to itself"
    assert [f.reason for f in told] == ["unlisted picture"]


def test_folder_without_a_table_is_plain_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.png", ".hidden.png", "._a.png", "__MACOSX/a.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    told: list[Fault] = []
    assert [r.key for r in folder.read(tmp_path, told.append)] == ["a.JPG", "b.png", "sub/c.png"]
    assert told == []


def test_csv_table_says_the_same_as_jsonl(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(
        'file_name,text,age,emotion,valence,arousal,identity\na.png,"a man, old",71,calm,0.5,-0.5,bob\n'
    )
    (record,) = folder.read(tmp_path)
    assert (record.text, record.age, record.emotion) == (("a man, old",), 71.0, "calm")
    assert (record.valence_arousal, record.identity) == ((0.5, -0.5), "bob")


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "a/../../secret.png", "/etc/hostname", "..\\secret.png", "a\0.png", "", ".", 7, None, ["a.png"]],
)
@pytest.mark.parametrize("root", [".", "data", "data/../data"])
def test_row_cannot_name_a_file_outside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: object, root: str
) -> None:
    picture(tmp_path / "data/inside.png")
    picture(tmp_path / "secret.png")
    monkeypatch.chdir(tmp_path / "data" if root == "." else tmp_path)
    rows(Path(root) / "metadata.jsonl", {"file_name": name}, {"file_name": "x/../inside.png"})
    told: list[Fault] = []
    assert [r.key for r in folder.read(Path(root), told.append)] == ["inside.png"]
    assert [f.reason for f in told] == ["bad row" if name is None else "outside"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("age", 130), ("age", -1), ("age", "old"), ("age", float("nan")), ("sex", "x"), ("sex", 1), ("emotion", "joyous"), ("emotion", 3),
     ("emotion_intensity", 1.5), ("valence", 0.5), ("text", ""), ("text", 5), ("text", {"a": 1}), ("text", ["a", 2]), ("identity", [1])],
)  # fmt: skip
def test_bad_value_costs_the_label_only(tmp_path: Path, column: str, value: object) -> None:
    picture(tmp_path / "a.png")
    rows(tmp_path / "metadata.jsonl", {"file_name": "a.png", column: value})
    told: list[Fault] = []
    (record,) = folder.read(tmp_path, told.append)
    assert record == Record(source="folder", key="a.png", image=tmp_path / "a.png")
    assert [(f.reason, column in f.detail and "line 1" in f.detail) for f in told] == [("bad label", True)]


def test_rows_that_are_none_are_told_and_the_others_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows(
        tmp_path / "metadata.jsonl", "{broken", "[1]", "", {"age": 3}, {"file_name": "a.png"}, {"file_name": "a.png"},
        {"file_name": "gone.png", "hair": "red", "hat": 1}, {"file_name": "gone2.png", "hair": "red"},
    )  # fmt: skip
    told: list[Fault] = []
    assert [r.key for r in folder.read(tmp_path, told.append)] == ["a.png", "gone.png", "gone2.png"]
    assert Counter(f.reason for f in told) == {"bad row": 3, "listed twice": 1, "unknown column": 2}
    assert all(f.reason in SKIPPED or f.reason in NOTED for f in told)


# --- all of them


@pytest.mark.parametrize("name", READERS)
def test_data_set_is_recognised_from_its_files(name: str, request: pytest.FixtureRequest) -> None:
    assert detect(request.getfixturevalue(f"{name}_tree")) == name


@pytest.mark.parametrize("name", READERS)
def test_reading_twice_gives_the_same_and_everything_decodes(name: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(f"{name}_tree")
    found = list(records(name, root))
    assert found == list(records(name, root))
    assert len({r.key for r in found}) == len(found)
    for record in found:
        assert record.source == name
        if record.image is not None:
            assert read_image(record.image).ndim == 3
        if record.audio is not None:
            assert read_audio(record.audio).ndim == 1


def test_folder_that_follows_no_rule_is_taken_as_ones_own(tmp_path: Path) -> None:
    picture(tmp_path / "holiday.jpg")
    assert detect(tmp_path) == "folder"
    rows(tmp_path / "train/metadata.jsonl", {"file_name": "00001.png"})
    picture(tmp_path / "train/00001.png")
    assert detect(tmp_path) == "folder", "a table in a folder below says so, though the name looks like FFHQ"


def test_links_are_followed_once(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere/a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "data")
    assert [r.key for r in records("folder", tmp_path / "data")] == ["linked/a.png"]


def test_unknown_name_and_missing_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'celeba'.*ffhq"):
        records("celeba", tmp_path)
    for call in (lambda: records("ffhq", tmp_path / "none"), lambda: detect(tmp_path / "none")):
        with pytest.raises(DataError, match="no such folder"):
            call()
