"""One row of a sheet as it is asked for: requests with words for each, and the row of pictures that their answers make.

It knows requests and pictures, not who answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.request import GenerateRequest, GenerateResult
from runtime.sheet import Cell, Row

Note = Callable[[GenerateResult], str]


@dataclass(frozen=True, eq=False)
class Story:
    """What a row shows, and a request with the words under it for each of its faces.

    `given` stands before them: pictures that nobody is asked for, or None for a place that stays empty.
    """

    title: str
    note: str
    labels: tuple[str, ...]
    requests: tuple[GenerateRequest, ...]
    given: tuple[Cell | None, ...] = ()

    def row(self, results: Sequence[GenerateResult], note: Note = lambda _: "") -> Row:
        """The row of the answers, in the order of the requests; `note` says what else stands under a face."""
        faces = (Cell(result.image, label, note(result)) for label, result in zip(self.labels, results, strict=True))
        return Row(self.title, self.note, (*self.given, *faces))
