"""The command line: what it refuses, and with which exit status."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from training import __main__ as command
from training import recipe
from training.config import TrainConfig
from training.recipe import Start


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainConfig, dict[str, object]]]:
    """What `recipe.run` was asked for; nothing is trained."""
    calls: list[tuple[TrainConfig, dict[str, object]]] = []
    monkeypatch.setattr(recipe, "run", lambda config, name, out, **rest: calls.append((config, rest)))
    return calls


def test_every_flag_reaches_the_recipe(asked: list[tuple[TrainConfig, dict[str, object]]]) -> None:
    flags = (
        "--preset micro --out run --resume --stages clip voice --data world folder=mine --from base --published unet=u"
    )
    more = "--splits s.json t.json --vgg v.safetensors --face-pack pack --workers 3 --set clip.steps=5 mixture.folder=2"
    assert command.main([*flags.split(), *more.split()]) == 0
    (config, rest) = asked[0]
    assert config.stages["clip"].steps == 5 and config.mixture["folder"] == 2.0
    assert rest["stages"] == ["clip", "voice"] and rest["resume"] is True
    assert rest["start"] == Start(
        data={"world": None, "folder": Path("mine")},
        splits=(Path("s.json"), Path("t.json")),
        base=Path("base"),
        published={"unet": Path("u")},
        vgg=Path("v.safetensors"),
        face_pack=Path("pack"),
        workers=3,
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--preset micro", "--out is needed"),
        ("--preset micro --out run --from base", "say with --stages which to train"),
        ("--preset micro --out run --data folder", "'folder' must look like NAME=DIR"),
        ("--preset micro --out run --published unet", "'unet' must look like NAME=DIR"),
        ("--preset small --out run", "invalid choice: 'small'"),
        ("--preset micro --out run --stages painting", "invalid choice: 'painting'"),
    ],
)
def test_a_wrong_command_line_is_status_2(
    asked: list[object], flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(flags.split())
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not asked


def test_what_cannot_be_done_is_status_1_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--preset", "paper", "--out", "run"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: the mixture is of ffhq, cacd, ravdess, voxceleb; give --data ffhq=DIR"
    )
    assert command.main(["--preset", "micro", "--out", "run", "--set", "clip.stepz=5"]) == 1
    assert "there is no 'stepz'" in capsys.readouterr().err


def test_the_first_word_may_name_another_command_which_gets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in command.COMMANDS.items():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(main=lambda argv: len(argv)))
        assert command.main([name, "a", "--b"]) == 2
