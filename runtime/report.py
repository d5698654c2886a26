"""How the parts of a report, each written by the stage that knows it, become the report of a result."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

TIMINGS = "timings_ms"
EDIT = "edit"  # what sampling says when it edited a photo instead of making a new face
S_DIR_TEXTS = "s_dir_texts"  # words for the photo of an edit and for what is asked, that `s_dir` was measured with
PROVENANCE = "provenance"
GENERATOR = "ClipFaceFusion"
# IPTC NewsCodes `digitalsourcetype`: made by a trained model, and a photo changed by one.
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def join_reports(conditioned: Mapping[str, Any], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """What preprocessing and conditioning found, and what sampling used, in one report.

    `timings_ms` are joined and get `total`, the sum of the stages; waiting between the stages of a server is not in it.
    `provenance` says what made the picture and when, in IPTC's words whether it is generated or an edited photo.
    """
    timings = {**conditioned[TIMINGS], **sampled[TIMINGS]}
    return {
        **sampled,
        **conditioned,
        TIMINGS: {**timings, "total": round(sum(timings.values()), 3)},
        PROVENANCE: {
            "generator": GENERATOR,
            "version": _version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "digital_source_type": EDITED if EDIT in sampled else GENERATED,
        },
    }


def elapsed_ms(start_s: float, end_s: float) -> float:
    """A duration between two `time.perf_counter` readings, in ms, to the microsecond."""
    return round((end_s - start_s) * 1e3, 3)


@cache
def _version() -> str:
    return version("clipfacefusion")
