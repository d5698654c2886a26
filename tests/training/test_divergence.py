"""When a training counts as diverged, by arithmetic."""

from __future__ import annotations

import math

from training.divergence import FEWEST, GRADIENT_FACTOR, LOSS_FACTOR, PATIENCE, WINDOW, Watch


def healthy(steps: int = FEWEST, loss: float = 0.5, norm: float = 2.0) -> Watch:
    watch = Watch()
    for _ in range(steps):
        assert watch.fault({"loss": loss, "a": 0.4, "b": 0.1}, norm) is None
    return watch


def test_a_loss_that_is_no_number_is_a_fault_at_once_and_names_its_terms() -> None:
    fault = Watch().fault({"loss": math.nan, "a": 1.0, "b": math.inf, "c": math.nan}, 1.0)
    assert fault == "loss is nan (terms b, c)"


def test_a_gradient_that_is_no_number_is_a_fault_at_once() -> None:
    assert Watch().fault({"loss": 2.0}, math.inf) == "gradient norm is inf at loss 2"


def test_a_high_loss_is_a_fault_after_so_many_steps_in_a_row_and_names_the_worst_term() -> None:
    watch = healthy()
    high = {"loss": 0.5 * (LOSS_FACTOR + 1), "a": 0.4, "b": 10.0}
    for _ in range(PATIENCE - 1):
        assert watch.fault(high, 2.0) is None
        assert not watch.is_healthy
    fault = watch.fault(high, 2.0)
    assert (
        fault is not None
        and f"{LOSS_FACTOR + 1:.0f} times its running median" in fault
        and "most of all b, 100 times" in fault
    )


def test_a_high_gradient_counts_as_well() -> None:
    watch = healthy()
    faults = [watch.fault({"loss": 0.5}, 2.0 * GRADIENT_FACTOR + 1) for _ in range(PATIENCE)]
    assert faults[:-1] == [None] * (PATIENCE - 1) and "most of all gradient norm" in str(faults[-1])


def test_one_healthy_step_ends_the_suspicion() -> None:
    watch = healthy()
    for _ in range(3 * PATIENCE):
        for loss in (100.0, 0.5):
            assert watch.fault({"loss": loss}, 2.0) is None
    assert watch.is_healthy


def test_nothing_is_judged_before_there_is_enough_to_compare_with() -> None:
    watch = Watch()
    assert all(watch.fault({"loss": 10.0**n}, 1.0) is None for n in range(FEWEST))


def test_suspicious_steps_do_not_move_the_median_and_the_window_is_bounded() -> None:
    watch = healthy(3 * WINDOW)
    watch.fault({"loss": 1e6}, 2.0)
    assert max(watch.recent["loss"]) == 0.5 and len(watch.recent["loss"]) == WINDOW


def test_a_loss_that_rises_slowly_is_followed() -> None:
    watch = Watch()
    assert all(watch.fault({"loss": 1.01**n}, 1.0) is None for n in range(1000))
