"""The loop: exact resume, atomic state, parts, what it shows, divergence. On a stage of a few numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from training.config import StageConfig
from training.divergence import FEWEST, PATIENCE, TrainingDivergedError
from training.loop import states, train

CONFIG = StageConfig(steps=10, batch_size=4, learning_rate=0.1, warmup_steps=2, ema_decay=0.5, checkpoint_every=3)


class Line:
    """Fits y = 3x with dropout and batch statistics, so that any random state that a resume loses would show.

    `poison` changes the loss of a call, counted from 1; `rare` is a figure that only every second call measures.
    """

    name = "line"

    def __init__(self, poison: Mapping[int, float] | None = None) -> None:
        torch.manual_seed(1)
        self.module = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
        self.calls, self.poison = 0, poison or {}

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        self.calls += 1
        x = torch.from_numpy(rng.normal(size=(batch_size, 1)).astype(np.float32))
        shift = float(np.random.random())  # libraries draw from the global generator
        fit = (self.module(x) - 3 * x - shift).square().mean() * self.poison.get(self.calls, 1.0)
        rare = torch.tensor(float(self.calls) if self.calls % 2 else torch.nan)
        return {"loss": fit, "fit": fit, "rare": rare}

    def preview(self, path: Path) -> None:
        self.module(torch.full((4, 1), 100.0))  # in training mode this would move the batch statistics
        Image.new("RGB", (4, 4)).save(path)


def weights(stage: Line) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in stage.module.state_dict().values()]


def run(stage: Line, folder: Path, config: StageConfig = CONFIG, **settings: object) -> list[Tensor]:
    train(stage, config, folder, **{"precision": "fp32", "seed": 5, **settings})  # type: ignore[arg-type]
    return weights(stage)


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("killed_after", [1, 3, 5, 9])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(tmp_path: Path, killed_after: int, precision: str) -> None:
    config = dataclasses.replace(CONFIG, micro_batches=2)
    whole = run(Line(), tmp_path / "whole", config, precision=precision)
    run(Line(), tmp_path / "parts", config, precision=precision, stop_after=killed_after)
    assert equal(whole, run(Line(), tmp_path / "parts", config, precision=precision))


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    assert not equal(run(Line(), tmp_path / "a", seed=6), run(Line(), tmp_path / "b"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_gives_other_weights(tmp_path: Path, precision: str) -> None:
    assert not equal(run(Line(), tmp_path / "a", precision=precision), run(Line(), tmp_path / "b"))


def test_the_finished_stage_holds_the_moving_average(tmp_path: Path) -> None:
    stage = Line()
    averaged = run(stage, tmp_path / "average")
    plain = run(Line(), tmp_path / "plain", dataclasses.replace(CONFIG, ema_decay=0.0))
    assert not equal(averaged, plain)
    assert not stage.module.training


def test_a_look_at_the_result_changes_nothing(tmp_path: Path) -> None:
    seen, unseen = run(Line(), tmp_path / "seen"), run(Line(), tmp_path / "unseen", preview=False)
    assert equal(seen, unseen)
    assert (tmp_path / "seen" / "preview.png").exists() and not (tmp_path / "unseen" / "preview.png").exists()


def test_a_half_written_state_is_never_resumed_from(tmp_path: Path) -> None:
    run(Line(), tmp_path / "killed", stop_after=4)
    partial = tmp_path / "killed" / "state.partial"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"cut off")
    assert equal(run(Line(), tmp_path / "killed"), run(Line(), tmp_path / "whole"))


def test_the_two_newest_states_are_kept(tmp_path: Path) -> None:
    run(Line(), tmp_path)
    assert [path.name for path in states(tmp_path)] == ["state-00000009", "state-00000010"]


def test_a_state_of_other_parts_is_refused_by_name(tmp_path: Path) -> None:
    run(Line(), tmp_path, stop_after=4)
    with pytest.raises(ValueError, match="state-00000003 was made with 1 micro-batches a step, this run makes 2"):
        run(Line(), tmp_path, dataclasses.replace(CONFIG, micro_batches=2))


def test_a_loss_that_is_no_number_stops_with_the_last_state_intact(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError) as error:
        run(Line({5: float("nan")}), tmp_path / "poisoned")
    for part in (
        "line diverged at step 4: loss is nan (terms fit)",
        "state-00000003 is intact",
        "line.learning_rate=0.025",
    ):
        assert part in str(error.value)
    assert [path.name for path in states(tmp_path / "poisoned")] == ["state-00000003"]
    assert equal(run(Line(), tmp_path / "poisoned"), run(Line(), tmp_path / "whole"))


def test_a_gradient_that_is_no_number_stops_too(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match=r"step 1: gradient norm is (inf|nan) at loss"):
        run(Line({2: 1e38}), tmp_path)


def test_an_overflow_of_fp16_leaves_the_step_out_and_halves_the_scale(tmp_path: Path) -> None:
    """The scale starts at 65,536: a loss of 1e34 times its usual size overflows float32 after scaling, not before."""
    run(Line({1: 1e34}), tmp_path, dataclasses.replace(CONFIG, steps=1), precision="fp16")
    facts = json.loads((states(tmp_path)[-1] / "state.json").read_text())
    assert facts["loss_scale"]["scale"] == 32768.0
    untouched = Line()
    assert all(torch.equal(a, b) for a, b in zip(weights(untouched)[:2], weights_of(tmp_path)[:2], strict=True))


def weights_of(folder: Path) -> list[Tensor]:
    from safetensors.torch import load_file

    state = load_file(states(folder)[-1] / "state.safetensors")
    return [state[f"module.{name}"] for name in Line().module.state_dict()]


def test_an_exploded_loss_stops_and_nothing_bad_is_saved(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=200, learning_rate=1e-3, checkpoint_every=2)
    first = FEWEST + 8
    exploded = dict.fromkeys(range(first, 1000), 10000.0)
    with pytest.raises(
        TrainingDivergedError, match=rf"step {first + PATIENCE - 2}: .* steps in a row; most of all fit"
    ) as error:
        run(Line(exploded), tmp_path, config)
    newest = states(tmp_path)[-1]
    assert int(newest.name.removeprefix("state-")) <= first - 1 and str(newest) in str(error.value)


def test_one_outlier_is_no_reason_to_stop(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=FEWEST + 30)
    run(Line({FEWEST + 10: 1e4}), tmp_path, config)
    assert states(tmp_path)[-1].name == f"state-{FEWEST + 30:08d}"


def test_the_log_goes_on_where_the_state_was_and_has_no_step_twice(tmp_path: Path) -> None:
    run(Line(), tmp_path, stop_after=5)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')  # as a kill cuts it
    run(Line(), tmp_path)
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, 11))


def test_a_figure_that_was_not_measured_is_left_out_and_never_averaged_in(tmp_path: Path) -> None:
    run(Line(), tmp_path / "one")
    assert ["rare" in line for line in log_of(tmp_path / "one")] == [True, False] * 5
    run(Line(), tmp_path / "two", dataclasses.replace(CONFIG, micro_batches=2))
    assert [line["rare"] for line in log_of(tmp_path / "two")] == [float(call) for call in range(1, 20, 2)]


def test_tensorboard_has_losses_throughput_eta_and_pictures(tmp_path: Path) -> None:
    run(Line(), tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"loss", "fit", "gradient_norm", "throughput/samples_per_s", "throughput/eta_s"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 11))
    assert [event.step for event in events.Images("preview")] == [3, 6, 9, 10]
    assert log_of(tmp_path)[-1]["eta_s"] == 0 and log_of(tmp_path)[0]["samples_per_s"] > 0
    assert 0.05 < log_of(tmp_path)[0]["peak_gib"] < 50


def test_the_line_on_the_terminal_tells_throughput_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Line(), tmp_path)
    shown = capsys.readouterr().err
    assert "samples/s=" in shown and "ETA=0:00:00" in shown
