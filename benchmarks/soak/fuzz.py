"""Requests that nobody should send: a seed and a number make one, and whatever comes of it, it is an answer.

Each case starts as a good request and is damaged in up to three places: files, numbers, words, options, tensors, what surrounds
them, and over the wire the message itself. It must be answered, or refused with INVALID_ARGUMENT in words that show nothing of the
machine. `check` asks the gate in this process, `check_served` a server.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from benchmarks.soak.damage import damaged, masks, pictures, voices
from runtime.emotions import EMOTIONS
from runtime.envelope import Envelope
from runtime.errors import RequestError
from runtime.fields import NUMPY_DTYPE, Field
from runtime.options import OPTIONS
from runtime.request import FIELDS, GenerateRequest
from runtime.wire import MODEL, STREAM_MODEL

# What must never stand in an answer: tracebacks, files, addresses, shared memory, the machine's name.
LEAKS = re.compile(
    r"Traceback|\.py\b|(?:/\w[\w.-]*){2,}|0x[0-9a-f]{6,}|\bshm\b|Stub|\n|" + re.escape(socket.gethostname())
)
LATE = ("CANCELLED", "DEADLINE_EXCEEDED")  # of the ensemble, for which Triton has no better status, and of a stream
ANSWER_LIMIT_S = 60.0  # a hang, and no slower machine
FILES: Mapping[str, Callable[[], Mapping[str, bytes]]] = {"reference": pictures, "mask": masks, "audio": voices}
WORDS = ("a smiling old man", "an angry young woman, 25 years old", "日本語 🙂", "she is 25", "a sad boy with red hair")
ODD_TEXTS = (
    "",
    " \n\t",
    "a\x00b",
    "x" * 1000,
    "x" * 1001,
    "\x1b[31mred",
    "\u202egnp",
    "𝔞" * 500,
    "old " * 250,
    "<|endoftext|>",
)
ODD_NUMBERS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    120.0,
    121.0,
    1e-45,
    1e30,
    -1e30,
    3.4e38,
    float("nan"),
    float("inf"),
    float("-inf"),
)
ODD_INTEGERS = (0, 1, -1, 2, 999, 1000, 1001, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
ODD_JSON = (
    "",
    "{",
    "null",
    "[]",
    "7",
    '"x"',
    "[" * 4000,
    '{"a":' * 800,
    '{"deadline_ms": NaN}',
    "{}" * 9,
    "\ufeff{}",
    '{"":1}',
)


@dataclass
class Case:
    """One request, made of arrays of shape (1, width); `damage` says what is wrong with it, and nothing if it is empty."""

    seed: int
    number: int
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    request_id: str = ""
    parameters: dict[str, str | int | bool | float] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    @property
    def has_deadline(self) -> bool:
        """Whether it may ask for too little time; then being late is a right answer."""
        return any('"deadline_ms"' in str(text) for text in self.tensors.get("options", np.array([])).flat)

    def __str__(self) -> str:
        return f"case {self.number} of seed {self.seed} ({'; '.join(self.damage) or 'good'}; {', '.join(self.tensors)})"


@dataclass
class Findings:
    """What became of the cases. `problems` says for each wrong answer which case it was and what came."""

    answered: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def note(self, case: Case, code: str, text: str, seconds: float) -> None:
        """One more answer; `code` is its gRPC status."""
        self.slowest_s = max(self.slowest_s, seconds)
        self.answered += code == "OK"
        self.refused += code == RequestError.code
        own = (
            text.replace(case.request_id, "") if case.request_id else text
        )  # Triton puts the caller's id in front, as it is
        right = ("OK", RequestError.code, *(LATE if case.has_deadline else ()))
        if code not in right or (code != "OK" and LEAKS.search(own)):
            self.problems.append(f"{case}: {code} {text[:300]!r}")


def case(seed: int, number: int) -> Case:
    """The case of that seed and number, whoever asks and in whatever order."""
    rng = np.random.default_rng([seed, number])
    made = Case(seed, number, tensors=_good(rng))
    for _ in range(rng.integers(4)):
        made.damage.append(_pick(rng, _DAMAGES)(rng, made))
    return made


def cases(seed: int, count: int) -> Iterator[Case]:
    """The first `count` cases of a seed."""
    return (case(seed, number) for number in range(count))


def request_of(made: Case) -> GenerateRequest:
    """What the gate makes of a case before it looks into files. Raises RequestError."""
    Envelope.from_triton(made.request_id, json.dumps(made.parameters))
    return GenerateRequest.from_tensors(made.tensors)


def check(preprocess: Callable[[GenerateRequest], Any], seed: int, count: int) -> Findings:
    """Ask the gate in this process. What it raises beside RequestError is raised here: it would be INTERNAL."""
    found = Findings()
    for each in cases(seed, count):
        start, code, text = time.perf_counter(), "OK", ""
        try:
            preprocess(request_of(each))
        except RequestError as error:
            code, text = error.code, str(error)
        except Exception as error:
            error.add_note(str(each))
            raise
        found.note(each, code, text, time.perf_counter() - start)
    return found


def check_served(url: str, seed: int, count: int, model: str = MODEL, at_once: int = 4) -> Findings:
    """Ask a public model of a server, some cases at once; a third of them has a damaged message as well."""
    found = Findings()
    with grpc.insecure_channel(url, [("grpc.enable_http_proxy", 0)]) as channel, ThreadPoolExecutor(at_once) as pool:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for answer in pool.map(partial(_answer, stub, model, seed), range(count)):
            found.note(*answer)
    return found


def message(made: Case, model: str) -> Any:
    """The case as a KServe v2 ModelInferRequest."""
    request = service_pb2.ModelInferRequest(model_name=model, id=made.request_id)
    for name, array in made.tensors.items():
        content = serialize_byte_tensor(array).item() if array.dtype == np.object_ and array.size else array.tobytes()
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        request.raw_input_contents.append(content)
    for name, value in made.parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def _answer(stub: Any, model: str, seed: int, number: int) -> tuple[Case, str, str, float]:
    made = case(seed, number)
    rng, request = np.random.default_rng([seed, number, 1]), message(made, model)
    if rng.random() < 1 / 3 and request.inputs:
        made.damage.append(_pick(rng, _MESSAGE_DAMAGES)(rng, request))
    start = time.perf_counter()
    try:
        code, text = _asked(stub, request)
    except grpc.RpcError as error:
        code, text = error.code().name, error.details()
    return made, code, text, time.perf_counter() - start


def _asked(stub: Any, request: Any) -> tuple[str, str]:
    """Status and text of the last answer."""
    if request.model_name != STREAM_MODEL:
        stub.ModelInfer(request, timeout=ANSWER_LIMIT_S)
        return "OK", ""
    text = [part.error_message for part in stub.ModelStreamInfer(iter([request]), timeout=ANSWER_LIMIT_S)][-1]
    status = re.search(
        r"\[([A-Z]+_[A-Z]+|[A-Z]{4,})\] ", text
    )  # on a stream the text says it; Triton's own refusals say none
    return ("OK" if not text else status[1] if status else RequestError.code), text


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _tensor(row: Field, value: Any) -> np.ndarray:
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    return np.array([value if row.width > 1 else (value,)], dtype=NUMPY_DTYPE[row.dtype])


def _good(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A request that is answered, quickly: it has one step or two."""
    values: dict[str, Any] = {"num_inference_steps": int(rng.integers(1, 3)), "age": float(rng.integers(0, 121))}
    if rng.random() < 0.5:
        values["text"] = _pick(rng, WORDS)
    if rng.random() < 0.5:
        values["reference"] = _pick(rng, list(pictures().values())[:13])
    if rng.random() < 0.3:
        values["audio"] = _pick(rng, list(voices().values())[:3])
    if rng.random() < 0.3:
        values |= {"emotion": _pick(rng, EMOTIONS), "emotion_intensity": float(rng.random())}
    if rng.random() < 0.2:
        values["valence_arousal"] = tuple(rng.uniform(-1, 1, 2))
    if rng.random() < 0.5:
        values |= {"seed": int(rng.integers(2**63 - 1)), "guidance_scale": float(rng.uniform(0, 5))}
    return {row.name: _tensor(row, values[row.name]) for row in FIELDS if row.name in values}


def _damage_file(rng: np.random.Generator, made: Case) -> str:
    name = _pick(rng, list(FILES))
    known = FILES[name]()
    kind = _pick(rng, list(known))
    data, done = damaged(rng, known[kind]) if rng.random() < 0.9 else (known[kind], "as it is")
    made.tensors[name] = np.array([[data]], np.object_)
    return f"{name}: {kind}, {done}"


def _damage_number(rng: np.random.Generator, made: Case) -> str:
    row = _pick(rng, [row for row in FIELDS if row.dtype != "BYTES"])
    odd: tuple[float, ...] = ODD_NUMBERS if row.dtype == "FP32" else ODD_INTEGERS
    values = [_pick(rng, odd) for _ in range(row.width)]
    if row.dtype == "INT32":
        values = [int(np.clip(value, -(2**31), 2**31 - 1)) for value in values]
    if row.name == "num_inference_steps" and 2 < values[0] <= 1000:
        values = [1001]  # a good one that takes long
    made.tensors[row.name] = np.array([values], NUMPY_DTYPE[row.dtype])
    return f"{row.name}: {values}"


def _damage_text(rng: np.random.Generator, made: Case) -> str:
    name = _pick(rng, ("text", "emotion"))
    text = _pick(rng, ODD_TEXTS).encode()
    if rng.random() < 0.4:
        text = rng.bytes(int(rng.integers(1, 60)))
    made.tensors[name] = np.array([[text]], np.object_)
    return f"{name}: {text[:30]!r}"


def _damage_options(rng: np.random.Generator, made: Case) -> str:
    text = _pick(rng, ODD_JSON)
    if rng.random() < 0.7:
        odd: tuple[Any, ...] = (
            *ODD_NUMBERS,
            *ODD_INTEGERS,
            None,
            True,
            "x",
            "",
            [],
            {},
            [1, 2],
            [1, 2, 3, 4],
            "none",
            10**400,
        )
        names = [*(option.name for option in OPTIONS), "unknown", "__class__"]
        text = json.dumps({_pick(rng, names): _pick(rng, odd) for _ in range(rng.integers(1, 4))})
    made.tensors["options"] = np.array([[text.encode()]], np.object_)
    return f"options: {text[:60]}"


def _damage_tensor(rng: np.random.Generator, made: Case) -> str:
    name = _pick(rng, list(made.tensors) or ["age"])
    array: np.ndarray = made.tensors.get(name, np.zeros((1, 1), np.float32))
    kind = int(rng.integers(6))
    if kind == 0:
        array = np.concatenate([array, array], axis=1)
    elif kind == 1:
        array = array[:, :0]
    elif kind == 2:
        array = np.array(
            [[7]], _pick(rng, (np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_, np.float16))
        )
    elif kind == 3:
        array = np.array([[b"7"]], np.object_)
    elif kind == 4:
        array = np.concatenate([array, array], axis=0)
    else:
        made.tensors[_pick(rng, ("portrait", "", "../age", "age ", "INPUT0"))] = array
        return "a tensor too many"
    made.tensors[name] = array
    return f"{name}: {array.dtype} {array.shape}"


def _damage_envelope(rng: np.random.Generator, made: Case) -> str:
    made.request_id = _pick(
        rng, ("a", "x" * 128, "x" * 129, "x" * 4000, "a\nE1120 forged", "\x1b[31m", "é", "\u202e", "a b")
    )
    if rng.random() < 0.7:
        name = _pick(rng, ("traceparent", "x-tenant", "inner", "priority", "timeout", "foo", "", "é" * 200))
        values = ("", "a", "x" * 200, "00-" + "a" * 32 + "-" + "b" * 16 + "-01", 5, True, 1.5, "a\nb", -1)
        made.parameters[name] = _pick(rng, values)
    return f"id {made.request_id[:20]!r}, parameters {str(made.parameters)[:80]}"


def _drop_tensors(rng: np.random.Generator, made: Case) -> str:
    for name in list(made.tensors):
        if rng.random() < 0.7:
            del made.tensors[name]
    return "tensors dropped"


_DAMAGES = (
    _damage_file,
    _damage_file,
    _damage_number,
    _damage_text,
    _damage_options,
    _damage_tensor,
    _damage_envelope,
    _drop_tensors,
)


def _reshape(rng: np.random.Generator, request: Any) -> str:
    shape = _pick(rng, ([1], [], [1, 0], [0, 1], [1, -1], [-1, 1], [1, 2**62], [2**32, 2**32], [1, 1, 1], [1] * 60))
    _pick(rng, request.inputs).shape[:] = shape
    return f"shape {shape[:4]}"


def _retype(rng: np.random.Generator, request: Any) -> str:
    kind = _pick(rng, ("FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES", "BF16", "", "fp32", "X" * 1000))
    _pick(rng, request.inputs).datatype = kind
    return f"datatype {kind[:10]!r}"


def _reweigh(rng: np.random.Generator, request: Any) -> str:
    """Raw bytes cut, added, or with a length in front of an element that lies."""
    which = int(rng.integers(len(request.raw_input_contents)))
    raw = request.raw_input_contents[which]
    lies = (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x00\x00\x00\x00")
    changed = _pick(rng, (raw[:-1], raw[:3], b"", raw + b"\0", raw + raw, *(lie + raw[4:] for lie in lies)))
    request.raw_input_contents[which] = changed
    return f"{len(raw)} raw bytes become {len(changed)}"


def _recount(rng: np.random.Generator, request: Any) -> str:
    """Inputs and contents that do not match, or come twice."""
    kind = int(rng.integers(4))
    if kind == 0:
        del request.raw_input_contents[int(rng.integers(len(request.raw_input_contents))) :]
    elif kind == 1:
        request.inputs.add().CopyFrom(_pick(rng, request.inputs))
    elif kind == 2:
        request.raw_input_contents.append(b"more")
    else:
        _pick(rng, request.inputs).contents.fp32_contents.append(1.0)
    return "contents do not match the inputs"


def _reask(rng: np.random.Generator, request: Any) -> str:
    for _ in range(int(rng.integers(1, 3))):
        request.outputs.add(name=_pick(rng, ("image", "report", "nothing", "", "IMAGE")))
    return "outputs asked for"


_MESSAGE_DAMAGES = (_reshape, _retype, _reweigh, _recount, _reask)
