"""The finer settings: one table, one attribute per row, and messages that name the option."""

from __future__ import annotations

import dataclasses
import json

import pytest

from runtime.errors import RequestError
from runtime.job import PRIORITIES
from runtime.options import OPTIONS, Options
from runtime.request import GenerateRequest
from runtime.solvers import SOLVERS


def test_every_row_is_an_attribute_with_the_row_s_default():
    defaults = Options()
    assert [field.name for field in dataclasses.fields(Options)] == [row.name for row in OPTIONS]
    assert all(getattr(defaults, row.name) == row.default for row in OPTIONS)


def test_choices_are_those_of_the_code_that_follows_them():
    by_name = {row.name: row for row in OPTIONS}
    assert by_name["sampler"].choices == tuple(SOLVERS) and by_name["priority"].choices == PRIORITIES


def test_options_come_back_from_their_json():
    options = Options(sampler="unipc", guidance_interval=(100, 800), priority="bulk")
    assert json.loads(options.to_json()) == {"sampler": "unipc", "guidance_interval": [100, 800], "priority": "bulk"}
    assert Options.of(options.to_json()) == options


@pytest.mark.parametrize("letter", ["x", "ж", "顔"])
def test_a_text_is_as_long_on_the_wire_as_it_is(letter):
    """Escaped, a letter of another script would take six characters, and the limit of all options refuse what a field allows."""
    request = GenerateRequest(
        reference=b"photo", age=1, edit_from_timestep=9, options={"source_text": letter * 1000}, num_inference_steps=5
    )
    assert GenerateRequest.from_tensors(request.to_tensors()) == request


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, r"options\.sampler: got 'euler', allowed ddim, dpm-solver\+\+, unipc"),
        ({"priority": "urgent"}, r"options\.priority: got 'urgent', allowed interactive, bulk"),
        ({"guidance_interval": [1, 1000]}, r"options\.guidance_interval: got 1000, allowed 0\.\.999"),
        ({"guidance_interval": [1]}, r"options\.guidance_interval: got 1 numbers, expected 2"),
        (
            {"guidance_interval": [800, 200]},
            r"options\.guidance_interval: got 800 200; the lowest timestep comes first",
        ),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(options, message):
    with pytest.raises(RequestError, match=message):
        GenerateRequest(age=1, options=options)


@pytest.mark.parametrize("options", [{"sampler": "unipc"}, {"guidance_interval": [0, 500]}])
def test_what_an_edit_cannot_follow_is_refused(options):
    with pytest.raises(RequestError, match=f"options.{next(iter(options))}: given beside edit_from_timestep"):
        GenerateRequest(reference=b"a photo", edit_from_timestep=500, options=options)
    assert GenerateRequest(reference=b"a photo", edit_from_timestep=500, options={"sampler": "ddim"})
