"""Labels of which some are unknown: no data set has them all. What is unknown drops out of the loss that needs it.

Unknown is -1 in whole numbers and NaN in the others, as in `training.data.cache`. Letters: B batch, N rows of a cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runtime.errors import BundleError


class UnlabelledError(BundleError):
    """The data has nothing of what a stage learns from."""


@dataclass(frozen=True)
class Labels:
    """A batch's labels: `values` (B, …) with 0 where unknown, and `known` (B,) bool.

    A zero in place of the NaN, and not only a mask behind it: the gradient of a masked NaN is NaN.
    """

    values: Tensor
    known: Tensor

    @classmethod
    def of(cls, array: np.ndarray, device: torch.device) -> Labels:
        """From rows of a cache's label array, (B,) or (B, K); a row of K is known when all of it is."""
        known = known_rows(array)
        values = np.where(known.reshape(-1, *(1,) * (array.ndim - 1)), array, 0).astype(array.dtype)
        return cls(torch.from_numpy(values).to(device), torch.from_numpy(known).to(device))

    def mean(self, errors: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean of `errors` (B,), weighted by `weight` (B,), over the rows that are known; zero, with zero gradient, without any."""
        weight = self.known.to(errors.dtype) if weight is None else self.known * weight
        return (errors * weight).sum() / weight.sum().clamp(min=torch.finfo(errors.dtype).eps)

    def measured(self, errors: Tensor) -> Tensor:
        """`mean` for a log: NaN, "not measured", where no row is known."""
        return self.mean(errors.detach()) if self.known.any() else errors.new_tensor(torch.nan)


class LabelledRows:
    """Draws rows that have labels, in equal parts for every kind of label.

    Not by the mixture's shares, which are the generator's: there a head would wait for the few pictures that say what it asks,
    and a set with nothing but emotions (FER2013) would have no place.
    """

    def __init__(self, what: str, **kinds: np.ndarray) -> None:
        """`kinds`: (N,) bool masks, by the name of the label. Raises UnlabelledError, naming `what` is to be trained, if all are empty."""
        self.rows = [np.flatnonzero(known) for known in kinds.values() if known.any()]
        if not self.rows:
            raise UnlabelledError(
                f"{what}: no row of the data has a label of {' or '.join(kinds)}; add data that has, or start from weights of "
                "your own (--from, --published), which leave this stage out"
            )

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count,) rows; a row may be drawn twice.

        Where the kinds cannot share equally, who gets one more is drawn: a part of one row would only ever have the first.
        """
        kinds = len(self.rows)
        share, rest = divmod(count, kinds)
        first = int(rng.integers(kinds)) if rest else 0
        counts = [share + ((kind - first) % kinds < rest) for kind in range(kinds)]
        return np.concatenate([rng.choice(rows, n) for rows, n in zip(self.rows, counts, strict=True)])


def known_rows(array: np.ndarray) -> np.ndarray:
    """(N,) bool of a label array (N,) or (N, K)."""
    known = array >= 0 if np.issubdtype(array.dtype, np.integer) else np.isfinite(array)
    return known.all(axis=tuple(range(1, known.ndim)))
