"""What the gallery asks: one sheet per question that somebody may have about a model, as requests with words for each.

Every input alone and together, what the settings do, and what happens when inputs contradict each other. It knows requests, not who
answers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from runtime.emotions import EMOTIONS
from runtime.preprocess.image import decode_image
from runtime.request import EDIT_GUIDANCE_SCALE, GenerateRequest
from runtime.samples import NOUN, Photo, Samples, Voice
from runtime.sheet import Cell
from runtime.solvers import SOLVERS
from runtime.story import Story
from runtime.sweep import changed

SEED = 5
ADULT = 30  # years, where a sheet is about something else than age
AGES = (5, 10, 18, 25, 35, 50, 65, 80)
FEW_AGES = (8, 25, 45, 65, 80)
MOODS = ("neutral", "happy", "sad", "angry", "fearful", "surprised")
INTENSITIES = (0.4, 0.7, 1.0)
PROMPTS = (
    "an old man with a beard and glasses",
    "a sad girl with long red hair",
    "an angry young man with short black hair",
    "a surprised woman with curly blonde hair",
    "a happy boy with parted blonde hair",
    "an elderly woman with her hair in a bun",
    "a man in his forties with a moustache and brown skin",
    "a woman with dark skin and round glasses, smiling",
    "a frightened teenager with a fringe",
    "a calm man with a shaved head and blue eyes",
    "a disgusted woman in her fifties with auburn hair",
    "a portrait of a little girl with green eyes in front of a blue background",
)
STEP = (
    0.425  # of valence and arousal; (2, 0) steps lie where clear expressions do, (2, 1) close to the edge of the circle
)
T0 = 500  # what `edit` starts from unless it is told otherwise

Asked = tuple[str, GenerateRequest]  # the words under a picture, and its request
Ask = Callable[..., GenerateRequest]


@dataclass(frozen=True, eq=False)
class Sheet:
    """One picture of the gallery. `file` is its name, `asked` what all its faces have in common, `looks` what is read from each
    of them and written below: any of "age" and "emotion"."""

    file: str
    title: str
    asked: str
    stories: tuple[Story, ...]
    looks: tuple[str, ...] = ()

    @property
    def requests(self) -> list[GenerateRequest]:
        return [request for story in self.stories for request in story.requests]


def sheets(samples: Samples, num_inference_steps: int, guidance_scale: float) -> list[Sheet]:
    """All sheets, in the order of their page. `guidance_scale` is what the bundle does where nothing is asked."""
    ask = partial(GenerateRequest, seed=SEED, num_inference_steps=num_inference_steps)
    steps, guided = f"{num_inference_steps} steps", f"guidance {guidance_scale:g}"
    alike = f"seed {SEED}, {steps}, {guided}"
    return [
        _seeds(ask, f"seeds 1 to 16, {steps}, {guided}"),
        _prompts(ask, alike),
        _ages(ask, f"seeds 1 to 3, {steps}, {guided}"),
        _emotions(ask, alike),
        _circle(ask, alike),
        _voices(ask, samples, f"seeds {SEED} and {SEED + 1}, {steps}, {guided}"),
        _moods(ask, samples.photo, alike),
        _people(ask, samples.photos, alike),
        _edits(ask, samples.photo, f"seed {SEED}, {steps}, guidance {EDIT_GUIDANCE_SCALE:g}, t0 {T0}"),
        _together(ask, samples, f"seeds {SEED} and {SEED + 1}, {steps}, {guided}"),
        _conflicts(ask, samples, f"seeds {SEED} to {SEED + 3}, {steps}, {guided}"),
        _guidance(ask, samples, f"seed {SEED}, {steps}, guidance 1 to 6"),
        _steps(ask, f"seed {SEED}, 5 to 50 steps, {guided}"),
    ]


def _seeds(ask: Ask, asked: str) -> Sheet:
    words = "a smiling woman"
    rows = [
        _story(title, note, ((f"seed {seed}", ask(text=words, seed=seed)) for seed in seeds))
        for title, note, seeds in (("Words", f'"{words}"', range(1, 9)), ("", "", range(9, 17)))
    ]
    return Sheet("seeds.jpg", "One prompt, sixteen seeds", asked, tuple(rows))


def _prompts(ask: Ask, asked: str) -> Sheet:
    rows = [
        _story(title, note, ((prompt, ask(text=prompt)) for prompt in prompts))
        for title, note, prompts in (("Words", "and nothing else", PROMPTS[:6]), ("", "", PROMPTS[6:]))
    ]
    return Sheet("prompts.jpg", "Words alone", asked, tuple(rows))


def _ages(ask: Ask, asked: str) -> Sheet:
    rows = [
        _story(f"Seed {seed}", "an age and nothing else", ((_years(age), ask(age=age, seed=seed)) for age in AGES))
        for seed in (1, 2, 3)
    ]
    return Sheet("ages.jpg", "Age alone", asked, tuple(rows), ("age",))


def _emotions(ask: Ask, asked: str) -> Sheet:
    rows = [
        _story(
            f"Intensity {intensity:g}",
            f"a label and {ADULT} years",
            ((label, ask(emotion=label, emotion_intensity=intensity, age=ADULT)) for label in EMOTIONS),
        )
        for intensity in INTENSITIES
    ]
    return Sheet("emotions.jpg", "Eight emotions, three intensities", asked, tuple(rows), ("emotion",))


def _circle(ask: Ask, asked: str) -> Sheet:
    """Valence to the right, arousal upwards; the corners lie outside the circle."""
    rows = []
    for up in (2, 1, 0, -1, -2):
        reach = 1 if abs(up) == 2 else 2
        row = _story(
            f"Arousal {_signed(up * STEP)}",
            f"two numbers and {ADULT} years" if up == 2 else "",
            (
                (f"valence {_signed(right * STEP)}", ask(valence_arousal=(right * STEP, up * STEP), age=ADULT))
                for right in range(-reach, reach + 1)
            ),
            given=(None,) * (2 - reach),
        )
        rows.append(row)
    return Sheet("circle.jpg", "The circle of valence and arousal", asked, tuple(rows), ("emotion",))


def _voices(ask: Ask, samples: Samples, asked: str) -> Sheet:
    by_emotion = sorted(samples.voices, key=lambda voice: EMOTIONS.index(voice.emotion))
    rows = [
        _story(
            f"{NOUN[sex].capitalize()}'s voice" if seed == SEED else "",
            f"a recording and nothing else; seed {seed}",
            ((voice.label, ask(audio=voice.audio, seed=seed)) for voice in by_emotion if voice.sex == sex),
        )
        for sex in NOUN
        for seed in (SEED, SEED + 1)
    ]
    return Sheet("voices.jpg", "A voice alone", asked, tuple(row for row in rows if row.requests), ("age", "emotion"))


def _moods(ask: Ask, photo: Photo, asked: str) -> Sheet:
    rows = [
        _story(
            _years(age),
            "the photo, an age and a label" if age == FEW_AGES[0] else "",
            ((mood, ask(reference=photo.reference, age=age, emotion=mood)) for mood in MOODS),
            given=(_given(photo) if age == FEW_AGES[0] else None,),
        )
        for age in FEW_AGES
    ]
    return Sheet("moods.jpg", "One photo, other ages and moods", asked, tuple(rows), ("age", "emotion"))


def _people(ask: Ask, photos: Iterable[Photo], asked: str) -> Sheet:
    rows = [
        _story(
            NOUN[photo.sex].capitalize() if photo.age >= 18 else "Child",
            "the photo and an age",
            ((_years(age), ask(reference=photo.reference, age=age)) for age in AGES),
            given=(_given(photo),),
        )
        for photo in photos
    ]
    return Sheet("people.jpg", "People at other ages", asked, tuple(rows), ("age",))


def _edits(ask: Ask, photo: Photo, asked: str) -> Sheet:
    edit = partial(ask, reference=photo.reference, edit_from_timestep=T0)
    person = NOUN[photo.sex]
    words = ("with glasses", "with grey hair", "laughing", "with a shaved head", "with long hair", "crying")
    rows = (
        ("Age", "a number", ((_years(age), edit(age=age)) for age in (8, 18, 40, 55, 70, 85))),
        ("Emotion", "a label", ((mood, edit(emotion=mood)) for mood in (*MOODS[1:], "disgust"))),
        ("Words", "and nothing else", ((f"a {person} {word}", edit(text=f"a {person} {word}")) for word in words)),
        (
            "From where",
            "70 years, from a lower or a higher noise level t0",
            ((f"t0 {t0}", edit(age=70, edit_from_timestep=t0)) for t0 in (200, 300, 400, 500, 600, 700)),
        ),
        (
            "How far",
            "happy at 60 years, at a lower or the full strength",
            (
                (f"strength {strength:g}", edit(age=60, emotion="happy", options={"edit_strength": strength}))
                for strength in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
            ),
        ),
    )
    return Sheet(
        "edits.jpg",
        "Edits of a photo",
        asked,
        tuple(_story(title, note, faces, given=(_given(photo),)) for title, note, faces in rows),
        ("age", "emotion"),
    )


def _together(ask: Ask, samples: Samples, asked: str) -> Sheet:
    """Each input alone, then one more at a time, in an order that leaves what is hardest to see for the end."""
    photo, voice = samples.photo, samples.voice("happy")
    inputs: dict[str, dict[str, Any]] = {
        f'"a {NOUN[photo.sex]} with glasses"': {"text": f"a {NOUN[photo.sex]} with glasses"},
        "65 years": {"age": 65},
        "happy": {"emotion": "happy"},
        f"voice: {voice.label}": {"audio": voice.audio},
        f"photo: {photo.label}": {"reference": photo.reference},
    }
    rows = []
    for seed in (SEED, SEED + 1):
        rows.append(
            _story("Each alone", f"seed {seed}", ((label, ask(**given, seed=seed)) for label, given in inputs.items()))
        )
    for seed in (SEED, SEED + 1):
        given: dict[str, Any] = {}
        faces = []
        for label, one in inputs.items():
            faces.append((f"+ {label}" if given else label, ask(**given, **one, seed=seed)))
            given |= one
        rows.append(_story("One more each time", f"seed {seed}", faces))
    return Sheet("together.jpg", "Every input alone, and all together", asked, tuple(rows), ("age", "emotion"))


def _conflicts(ask: Ask, samples: Samples, asked: str) -> Sheet:
    """Two inputs that cannot both be right: each alone, then both, from four seeds."""
    photo = samples.photo
    happy, sad, angry = (samples.voice(emotion) for emotion in ("happy", "sad", "angry"))
    other = next(noun for sex, noun in NOUN.items() if sex != photo.sex)
    pairs: tuple[tuple[Asked, Asked], ...] = (
        (_words(ask, "a sad person"), _said(ask, happy)),
        (_words(ask, "a happy person"), _said(ask, sad)),
        (("label: happy", ask(emotion="happy")), _said(ask, angry)),
        (("label: angry", ask(emotion="angry")), _words(ask, "a smiling person")),
        (
            ("label: happy", ask(emotion="happy")),
            (f"valence {_signed(-2 * STEP)}, arousal 0", ask(valence_arousal=(-2 * STEP, 0.0))),
        ),
        (("age: 70 years", ask(age=70)), _words(ask, "a little girl")),
        (_photo(ask, photo), _words(ask, f"a {other} with long blonde hair")),
    )
    return Sheet(
        "conflicts.jpg",
        "Inputs that contradict each other",
        asked,
        tuple(_conflict(*pair) for pair in pairs),
        ("age", "emotion"),
    )


def _conflict(first: Asked, second: Asked) -> Story:
    (one, asked), (other, contradicting) = first, second
    given = {name: getattr(contradicting, name) for name in contradicting.conditions}
    both = [(f"both, seed {seed}", changed(asked, given | {"seed": seed})) for seed in range(SEED, SEED + 4)]
    return _story(one, f"against {other}", [("the first alone", asked), ("the second alone", contradicting), *both])


def _guidance(ask: Ask, samples: Samples, asked: str) -> Sheet:
    voice = samples.voice("happy")
    inputs: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("Words", f'"{PROMPTS[0]}"', {"text": PROMPTS[0]}),
        ("Age and emotion", "70 years, happy", {"age": 70, "emotion": "happy"}),
        ("Voice", voice.label, {"audio": voice.audio}),
        ("Photo", samples.photo.label, {"reference": samples.photo.reference}),
    )
    rows = [
        _story(title, note, ((f"guidance {scale}", ask(**given, guidance_scale=scale)) for scale in (1, 2, 3, 4, 5, 6)))
        for title, note, given in inputs
    ]
    return Sheet("guidance.jpg", "How strongly inputs are obeyed", asked, tuple(rows), ("age", "emotion"))


def _steps(ask: Ask, asked: str) -> Sheet:
    rows = [
        _story(
            sampler,
            f'"{PROMPTS[3]}"',
            (
                (f"{steps} steps", ask(text=PROMPTS[3], num_inference_steps=steps, options={"sampler": sampler}))
                for steps in (5, 8, 12, 20, 35, 50)
            ),
        )
        for sampler in SOLVERS
    ]
    return Sheet("steps.jpg", "Steps and samplers", asked, tuple(rows))


def _story(title: str, note: str, faces: Iterable[Asked], given: tuple[Cell | None, ...] = ()) -> Story:
    faces = tuple(faces)
    return Story(title, note, tuple(label for label, _ in faces), tuple(request for _, request in faces), given)


def _given(photo: Photo) -> Cell:
    return Cell(decode_image(photo.reference), f"photo: {photo.label}")


def _words(ask: Ask, text: str) -> Asked:
    return f'words: "{text}"', ask(text=text)


def _said(ask: Ask, voice: Voice) -> Asked:
    return f"voice: {voice.label}", ask(audio=voice.audio)


def _photo(ask: Ask, photo: Photo) -> Asked:
    return f"photo: {photo.label}", ask(reference=photo.reference)


def _years(age: float) -> str:
    return f"{age:g} years"


def _signed(number: float) -> str:
    """Two digits with a sign, and no sign for nothing."""
    return f"{round(number, 2) + 0.0:+.2g}" if number else "0"
