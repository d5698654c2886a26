"""What every stage trains on: pictures, labels, captions and voices as plain arrays on disk, one folder per data source.

Drawing or decoding is the slow part of an epoch; a cache makes it a memory map. A folder is valid only with its `cache.json`.
A label that is not known is -1 where it is an index and NaN where it is a number. This module knows no networks.
Letters: N pictures, S picture size, V voices, T samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime.spec import MAX_AUDIO_SAMPLES, SAMPLING_RATE_HZ
from training.data.cache_writer import FORMAT, CacheWriter, Truth, description
from training.data.faults import DataError
from training.data.parallel import each
from training.data.synthetic.expression import valence_arousal
from training.data.synthetic.world import SPLITS, World, people

WORLD = "world"  # the synthetic source
CAPTIONS = 3  # wordings per picture of the world


@dataclass(frozen=True)
class CacheKey:
    """A part of the synthetic world: `people` persons of `split` with `shots` pictures each, `voices` clips of shots (i, 0)."""

    seed: int
    people: int
    shots: int
    voices: int
    image_size: int
    split: str = "train"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r}, allowed {', '.join(SPLITS)}")


class DataCache:
    """The arrays of one or several cache folders, memory-mapped, as one.

    `images` (N, S, S, 3) uint8 · `sources` names, `source` (N,) index into them · `person` (N,) int64 over all sources, pictures
    of one person are neighbours · `sex` (N,) int64, 0 female, 1 male · `age` (N,) float32 years · `emotion` (N,) int64 index ·
    `intensity` (N,) float32 in [0, 1] · `valence_arousal` (N, 2) float32 in [-1, 1] · `captions` N lists of str, any may be empty ·
    `audio` (V, T) int16 zero-padded at the end, `audio_length` (V,), and what a clip says of its speaker: `audio_person` (V,) -1
    for a stranger, `audio_sex`, `audio_age`, `audio_emotion`, `audio_intensity`, `audio_picture` (V,) the row whose truth it
    speaks or -1.

    `contents` maps a source to the sha256 of what is in it. `shares` maps it to its part of what `draw` draws of all rows, which
    sum to 1: 0 for a source without pictures (VoxCeleb without video), whose share the others take.

    `mixture` gives each source's share of what `draw` draws; without it every picture is equally likely. A source that it gives
    nothing is never drawn, which `drawable` (N,) bool says of its rows: its labels are there for the stages that learn from labels (FER2013). Raises DataError for folders
    that are no cache, of unlike picture sizes or of one source, and when no source has a share.
    """

    def __init__(self, *folders: Path, mixture: Mapping[str, float] | None = None) -> None:
        # The world comes first, so that its persons keep the numbers by which the world can be asked about them.
        parts = sorted((_Part(Path(folder)) for folder in folders), key=lambda part: part.source != WORLD)
        self.sources = tuple(part.source for part in parts)
        if not parts or len(set(self.sources)) < len(parts):
            raise DataError(f"data cache: sources {self.sources}; give at least one folder, and one per source")
        sizes = {part.source: part.images.shape[1] for part in parts}
        if len(set(sizes.values())) > 1:
            raise DataError(f"data cache: picture sizes differ: {sizes}; build every source at the model's size")
        described = [[part.source, part.key] for part in parts]
        self.contents = {part.source: content_sha256(part.source, part.key) for part in parts}
        self.sha256 = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()  # of all that is in it
        self._seed = parts[0].key.get("seed") if self.sources[0] == WORLD else None
        self.images, self.audio = _joined([part.images for part in parts]), _joined([part.audio for part in parts])
        self.captions: list[list[str]] = [wordings for part in parts for wordings in part.captions]
        self.source = np.repeat(np.arange(len(parts)), [len(part.captions) for part in parts])
        labels, first_row, first_person = [], 0, 0
        for part in parts:
            labels.append(part.labels(first_row, first_person))
            first_row += len(part.captions)
            first_person = max(
                first_person, *(int(labels[-1][name].max(initial=-1)) + 1 for name in ("person", "audio_person"))
            )
        label = {name: np.concatenate([part[name] for part in labels]) for name in labels[0]}
        self.person, self.sex, self.age, self.emotion = (label[name] for name in ("person", "sex", "age", "emotion"))
        self.intensity, self.valence_arousal = label["intensity"], label["valence_arousal"]
        self.audio_person, self.audio_picture = label["audio_person"], label["audio_picture"]
        self.audio_sex, self.audio_age, self.audio_emotion = (
            label[f"audio_{name}"] for name in ("sex", "age", "emotion")
        )
        self.audio_intensity, self.audio_length = label["audio_intensity"], label["audio_length"]
        # Per row: where the person's pictures start, and how many there are.
        starts = np.flatnonzero(np.diff(self.person, prepend=-1))
        counts = np.diff(starts, append=len(self.person))
        self.first_picture, self.pictures = np.repeat(starts, counts), np.repeat(counts, counts)
        shares = dict.fromkeys(self.sources, 1.0) if mixture is None else mixture
        self._shares = np.array([float(shares.get(source, 0)) for source in self.sources])
        if not self._shares.any():
            raise DataError(f"mixture {dict(shares)} gives no share to any of the sources {', '.join(self.sources)}")
        self.drawable: np.ndarray = self._shares[self.source] > 0
        pictures = np.bincount(self.source, minlength=len(parts))
        if mixture is None:
            self._shares *= pictures
        drawn = self._shares * (pictures > 0)
        self.shares = dict(zip(self.sources, (drawn / (drawn.sum() or 1)).tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.person)

    @property
    def seed(self) -> int:
        """The seed of the synthetic world in it. Raises ValueError if there is none."""
        if self._seed is None:
            raise ValueError(f"sources {', '.join(self.sources)} have no seed; only the synthetic world does")
        return self._seed

    def draw(self, rng: np.random.Generator, count: int, usable: np.ndarray | None = None) -> np.ndarray:
        """(count,) rows, with replacement: sources by their shares, then any row of the source where `usable` (N,) bool holds.

        Shares are renormalised over the sources that have such a row. Raises DataError if none has.
        """
        rows = np.arange(len(self)) if usable is None else np.flatnonzero(usable)
        # Rows of a source are neighbours: the pool of a source is a range of `rows`.
        bounds = np.searchsorted(self.source[rows], np.arange(len(self.sources) + 1))
        sizes = np.diff(bounds)
        shares = self._shares * (sizes > 0)
        if not shares.sum():
            raise DataError(f"no picture of {', '.join(self.sources)} with a share of the mixture can be used here")
        source = rng.choice(len(self.sources), count, p=shares / shares.sum())
        return rows[bounds[source] + rng.integers(0, sizes[source])]

    def another(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows of another picture of the same person each, and whether there is one: where not, the row itself."""
        first, count = self.first_picture[rows], self.pictures[rows]
        step = rng.integers(1, np.maximum(count, 2))
        return first + (rows - first + step) % count, count > 1


class _Part:
    """One folder: one source with its own numbers of persons and rows."""

    def __init__(self, folder: Path) -> None:
        described = _description(folder)
        if described is None or described.get("format") != FORMAT:
            raise DataError(f"{folder} is not a finished data cache of format {FORMAT}; build it again")
        self.source: str = described["source"]
        self.key: dict[str, Any] = described["key"]
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.audio = np.load(folder / "audio.npy", mmap_mode="r")
        self.captions: list[list[str]] = json.loads((folder / "captions.json").read_text())
        with np.load(folder / "truth.npz") as truth:
            self.truth = {name: truth[name] for name in truth}

    def labels(self, first_row: int, first_person: int) -> dict[str, np.ndarray]:
        """The labels, renumbered to follow the rows and persons of the parts before; -1 stays -1."""
        moved = dict(self.truth)
        for name, first in (("person", first_person), ("audio_person", first_person), ("audio_picture", first_row)):
            moved[name] = np.where(moved[name] < 0, -1, moved[name] + first)
        return moved


class _Joined:
    """Several arrays of the same row shape, read by row as if they were one; what is read is a copy."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays
        self.starts = np.cumsum([0, *(len(array) for array in arrays)])
        self.shape = (int(self.starts[-1]), *arrays[0].shape[1:])
        self.dtype = arrays[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows by number, slice or array, and after them anything that numpy takes for the other axes."""
        rows, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(rows, (int, np.integer)):
            part = int(np.searchsorted(self.starts, rows, side="right")) - 1
            return self.arrays[part][(rows - self.starts[part], *rest)]
        wanted = np.arange(len(self))[rows]
        which = np.searchsorted(self.starts, wanted, side="right") - 1
        shape = self.arrays[0][(slice(0, 0), *rest)].shape[1:]
        out = np.empty((len(wanted), *shape), self.dtype)
        for part in np.unique(which):
            here = which == part
            out[here] = self.arrays[part][(wanted[here] - self.starts[part], *rest)]
        return out


def _joined(arrays: Sequence[np.ndarray]) -> Any:
    return arrays[0] if len(arrays) == 1 else _Joined(arrays)


def _description(folder: Path) -> dict[str, Any] | None:
    path = folder / "cache.json"
    return json.loads(path.read_text()) if path.is_file() else None


def content_sha256(source: str, key: Mapping[str, Any]) -> str:
    """One hash of what a cache of this source and key holds."""
    return hashlib.sha256(json.dumps([source, key], sort_keys=True).encode()).hexdigest()


def is_finished(folder: Path, source: str, key: Mapping[str, Any]) -> bool:
    """Whether `folder` holds exactly this."""
    return _description(folder) == description(source, key)


def build(folder: Path, key: CacheKey, processes: int) -> DataCache:
    """Open the cache of the world's part `key` in `folder`, drawing it first if it is not there or is of another key."""
    if is_finished(folder, WORLD, asdict(key)):
        return DataCache(folder)
    world = World(key.seed)
    places = [(i, j) for i in people(key.split, key.people) for j in range(key.shots)]
    spoken = [n * key.shots for n in range(key.people)][: key.voices]
    if len(spoken) < key.voices:
        spoken = [n % len(places) for n in range(key.voices)]
    with CacheWriter(folder, key.image_size) as writer:
        images = each(partial(_portrait, key), places, processes, _crashed)
        for place, image in zip(places, tqdm(images, "portraits", len(places), unit="", mininterval=5), strict=True):
            captions = [world.caption(*place, k) for k in range(CAPTIONS)]
            writer.add_picture(image, _truth(world, *place), captions)
        clips = each(partial(_voice, key), [places[n] for n in spoken], processes, _crashed)
        for n, clip in zip(spoken, tqdm(clips, "voices", len(spoken), unit="", mininterval=5), strict=True):
            # The world's voices belong to strangers, who share sex, age and emotion with the picture and nothing else.
            writer.add_clip(clip, replace(_truth(world, *places[n]), person=None), picture=n)
        writer.publish(WORLD, asdict(key))
    return DataCache(folder)


def _truth(world: World, i: int, j: int) -> Truth:
    shot = world.shot(i, j)
    sex, values = world.person(i).sex, valence_arousal(shot.emotion, shot.intensity)
    return Truth(i, sex, shot.age, shot.emotion, shot.intensity, values)


def _portrait(key: CacheKey, place: tuple[int, int]) -> np.ndarray:
    return World(key.seed).portrait(*place, key.image_size)


def _voice(key: CacheKey, place: tuple[int, int]) -> np.ndarray:
    """(T,) int16, at most the five seconds that a model hears."""
    clip = World(key.seed).voice(*place)[:MAX_AUDIO_SAMPLES]
    assert len(clip) >= SAMPLING_RATE_HZ
    return np.round(clip * 32767).astype(np.int16)


def _crashed(place: tuple[int, int]) -> np.ndarray:
    raise RuntimeError(
        f"drawing shot {place} of the world ended its process; is the memory used up? Try fewer processes"
    )
