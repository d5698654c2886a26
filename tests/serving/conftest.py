"""One real tritonserver on the micro bundle for the whole run, ways to call it, and media to send."""

from __future__ import annotations

import io
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import np_to_triton_dtype

from runtime.client import Client
from runtime.pipeline import Pipeline
from runtime.serving.installation import unavailable_reason
from runtime.serving.server import Server
from runtime.wire import LIVE_REQUESTS, OUTCOME_BY_CODE, STEP_SECONDS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = unavailable_reason()
    for item in items:
        if reason and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def server_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="session")
def server(micro_bundle: Path, server_log: Path) -> Iterator[Server]:
    with Server(micro_bundle, log=server_log) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, timeout_s=120) as client:
        yield client


@pytest.fixture(scope="session")
def pipeline(micro_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(micro_bundle) as pipeline:
        yield pipeline


@pytest.fixture(scope="session")
def raw_infer(server: Server) -> Iterator[Callable[..., Any]]:
    """Send any tensors to the public model, past our client's checks; an array's leading dimension is the batch."""
    with grpcclient.InferenceServerClient(server.url) as transport:

        def infer(**arrays: np.ndarray) -> Any:
            inputs = []
            for name, array in arrays.items():
                inputs.append(grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
                inputs[-1].set_data_from_numpy(array)
            return transport.infer("clipfacefusion", inputs, client_timeout=120)

        yield infer


@pytest.fixture(scope="session")
def books(server: Server) -> Books:
    """What the server itself counts."""
    return Books(server.metrics_url)


class Books:
    """The server's own metrics, read anew at each question."""

    def __init__(self, metrics_url: str) -> None:
        self._url = metrics_url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def value(self, series: str) -> int:
        """A series by its whole name, labels included; 0 if there is none yet."""
        with self._opener.open(self._url, timeout=30) as answer:
            found = re.search(rf"^{re.escape(series)} (\S+)$", answer.read().decode(), re.MULTILINE)
        return int(float(found[1])) if found else 0

    def live(self) -> int:
        """Requests taken and not yet answered."""
        return self.value(LIVE_REQUESTS)

    def unet_calls(self) -> int:
        return self.value(STEP_SECONDS + "_count")

    def ended(self, code: str, model: str) -> int:
        """Requests that ended with this gRPC status; "OK" is a picture."""
        return self.value(
            f'clipfacefusion_requests_total{{code="{code}",model="{model}",outcome="{OUTCOME_BY_CODE[code]}"}}'
        )

    def wait_until(self, holds: Callable[[Books], bool]) -> None:
        """Wait for what must come soon; a minute without it is a hang."""
        deadline = time.monotonic() + 60
        while not holds(self):
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.01)


@pytest.fixture(scope="session")
def wav() -> bytes:
    """Half a second of two tones at 16 kHz."""
    time_s = np.arange(8000) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(880 * time_s) + 0.2 * np.sin(2500 * time_s), 16_000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A smooth coloured square of 96 px."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(128)), axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()
