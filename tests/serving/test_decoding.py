"""On a real server: what a file does to the process that decodes it costs that file, never the server and never a neighbour."""

from __future__ import annotations

import io
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.client import Client
from runtime.errors import RequestError
from runtime.request import GenerateRequest
from runtime.serving.server import Server
from tests.runtime.progressive_bomb import progressive_bomb


def decoders(server: Server) -> set[int]:
    """Processes that decode for this server: children of its `preprocess` models."""
    processes = {int(folder.name): folder for folder in Path("/proc").glob("[0-9]*")}
    found = set()
    for pid, folder in processes.items():
        try:
            command = (folder / "cmdline").read_text()
            group = int((folder / "stat").read_text().rpartition(") ")[2].split()[2])
        except OSError:
            continue  # it has ended
        if "runtime.decoding_worker" in command and group == server._process._process.pid:
            found.add(pid)
    return found


@pytest.fixture
def face(jpeg) -> GenerateRequest:
    return GenerateRequest(reference=jpeg, seed=8, num_inference_steps=2)


def test_photos_are_decoded_outside_of_triton_s_processes(server):
    workers = decoders(server)
    assert len(workers) == 2  # one for each `preprocess`
    for worker in workers:
        parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(") ")[2].split()[1])
        assert "/preprocess/1/model.py" in Path(f"/proc/{parent}/cmdline").read_text()


def test_a_decoder_that_is_killed_is_replaced_and_nobody_notices(server, client, pipeline, face):
    expected = pipeline(face).image
    with ThreadPoolExecutor(4) as pool:
        answers = []
        for _ in range(6):
            answers += [pool.submit(client, face) for _ in range(4)]
            for worker in decoders(server):
                os.kill(worker, signal.SIGKILL)
        for answer in answers:
            np.testing.assert_array_equal(answer.result().image, expected)
    assert server.problem() is None


def test_a_photo_that_asks_for_minutes_of_computing_is_refused_while_others_are_answered(server, pipeline, face):
    expected = pipeline(face).image
    bomb = GenerateRequest(reference=progressive_bomb(3900, 5000), num_inference_steps=1)
    with Client(server.url) as client, ThreadPoolExecutor(4) as pool:
        refused = pool.submit(client, bomb)
        answers = [pool.submit(client, face) for _ in range(3)]
        for answer in answers:
            np.testing.assert_array_equal(answer.result().image, expected)
        with pytest.raises(RequestError) as caught:
            refused.result()
    assert str(caught.value) == "reference: cannot be decoded within 3 s of computing"
    deadline = time.monotonic() + 60
    # A model whose worker was lost starts another one for its next photo.
    while len(decoders(server)) < 2 and time.monotonic() < deadline:
        with Client(server.url) as client, ThreadPoolExecutor(4) as pool:
            list(pool.map(client, [face] * 4))
    assert len(decoders(server)) == 2
    assert server.problem() is None


@pytest.mark.parametrize(("side", "told"), [(20_000, "got over 178956970 px"), (8_000, "got 8000x8000 px")])
def test_a_small_file_of_a_huge_picture_is_refused_by_its_header(server, client, side, told):
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    before = decoders(server)
    with pytest.raises(RequestError, match=f"^reference: {told}, allowed at most 4096 px per side"):
        client(GenerateRequest(reference=file.getvalue()))
    assert decoders(server) == before
