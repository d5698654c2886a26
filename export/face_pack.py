"""The ArcFace network of an insightface model pack, copied in as engine `identity_encoder`.

A pack is a folder of the user's with ONNX files; nothing is downloaded. **insightface's packs are for non-commercial research only**, and so
is a bundle that holds one: the manifest says so. The network's weights and nodes are copied as they are. Its tensors get our names, and its
vector is made one of unit length. B is the batch, S the side of the picture, D the length of the vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError
from runtime.spec import EngineSpec, TensorSpec

ENGINE = "identity_encoder"
LICENCE = "insightface model pack: non-commercial research only"
# insightface's rule for whose square input is ArcFace's; 192 is the landmark networks'.
SMALLEST, MULTIPLE, LANDMARKS = 112, 16, 192
OPENING_NODES = 8  # where insightface looks for a network that scales its input itself


@dataclass(frozen=True, eq=False)
class FacePackNetwork:
    """The recognition network of a pack.

    file, sha256  where it came from; size: S; features: D
    """

    model: onnx.ModelProto
    file: str
    sha256: str

    @classmethod
    def read(cls, folder: Path) -> FacePackNetwork:
        """The one ArcFace network among the folder's ONNX files. Raises BundleError if there is none, or more than one."""
        if not folder.is_dir():
            raise BundleError(f"face pack: {folder} is not a folder; unpack an insightface pack (e.g. buffalo_l) there")
        found = []
        for path in sorted(folder.glob("*.onnx")):
            content = path.read_bytes()
            try:
                model = onnx.load_model_from_string(content)
            except DecodeError:
                raise BundleError(f"face pack: {path.name} is not an ONNX file; unpack the pack again") from None
            if is_arcface(model):
                found.append(cls(model, path.name, hashlib.sha256(content).hexdigest()))
        if len(found) != 1:
            names = ", ".join(network.file for network in found) or "none"
            raise BundleError(
                f"face pack: {folder} must hold one recognition network (ArcFace: a square input of {SMALLEST} or more, "
                f"one output), found {names}"
            )
        found[0]._refuse_own_scaling()
        return found[0]

    @property
    def size(self) -> int:
        return _sizes(_inputs(self.model.graph)[0])[2]

    @property
    def features(self) -> int:
        return _sizes(self.model.graph.output[0])[1]

    @property
    def record(self) -> dict[str, str]:
        """What the manifest says of these weights."""
        return {"licence": LICENCE, "commercial_use": "no", "source": self.file, "source_sha256": self.sha256}

    def adapted(self, spec: EngineSpec) -> onnx.ModelProto:
        """The network with `spec`'s tensors. Raises BundleError if its vector is not as long as the model's features."""
        (face,), (vector,) = spec.inputs, spec.outputs
        if self.features != vector.shape[1]:
            raise BundleError(
                f"face pack: {self.file} gives {self.features} features, this model takes {vector.shape[1]}; "
                "leave the pack out, or use a checkpoint of that width"
            )
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        given, made = _inputs(graph)[0].name, graph.output[0].name
        names = {given: face.name, made: f"{vector.name}.raw"}
        for node in graph.node:
            for tensors in (node.input, node.output):
                tensors[:] = [names.get(name, name) for name in tensors]
        graph.node.append(helper.make_node("LpNormalization", [names[made]], [vector.name], "unit_length", axis=1, p=2))
        graph.name = spec.name
        del graph.value_info[:], graph.input[:], graph.output[:]
        for tensor, place in ((face, graph.input), (vector, graph.output)):
            place.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape))
        onnx.checker.check_model(model, full_check=True)
        return model

    def reference(self, spec: EngineSpec) -> PackEngine:
        """The untouched network as the engine that the adapted one is compared with."""
        return PackEngine(self.model, spec)

    def _refuse_own_scaling(self) -> None:
        names = [node.name for node in self.model.graph.node[:OPENING_NODES]]
        if any(name.startswith(("Sub", "_minus")) for name in names) and any(
            name.startswith(("Mul", "_mul")) for name in names
        ):
            raise BundleError(
                f"face pack: {self.file} scales pixels from 0..255 itself, and our pictures come as (pixel - 127.5) / 127.5; "
                "use a pack whose network takes these (buffalo_l, antelopev2)"
            )


class PackEngine:
    """A pack's network before anything was changed, row by row, its vector divided by its length in numpy; see `runtime.engines.Engine`."""

    provider = "insightface pack"

    def __init__(self, model: onnx.ModelProto, spec: EngineSpec) -> None:
        self.spec = spec
        graph = model.graph
        tensors = [
            TensorSpec(value.name, "float32", tuple(size or "B" for size in _sizes(value)))
            for value in (_inputs(graph)[0], graph.output[0])
        ]
        own = EngineSpec(spec.name, tuple(tensors[:1]), tuple(tensors[1:]), spec.ranges)
        self._engine = OrtEngine(model.SerializeToString(), own, threads=1)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.spec.check_inputs(inputs)
        given, made = self._engine.spec.inputs[0].name, self._engine.spec.outputs[0].name
        rows = [self._engine({given: row[None]})[made] for row in inputs[self.spec.inputs[0].name]]
        vectors = np.concatenate(rows)
        return {self.spec.outputs[0].name: vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}

    def close(self) -> None:
        self._engine.close()


def is_arcface(model: onnx.ModelProto) -> bool:
    """Whether insightface takes a network for face recognition: by the shape of what goes in."""
    inputs = _inputs(model.graph)
    if len(inputs) != 1 or len(model.graph.output) != 1 or len(_sizes(inputs[0])) != 4:
        return False
    _, channels, height, width = _sizes(inputs[0])
    return channels == 3 and height == width != LANDMARKS and height >= SMALLEST and height % MULTIPLE == 0


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """What a caller gives; old files list their weights there as well."""
    weights = {initializer.name for initializer in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Sizes of a tensor, 0 where one is free."""
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
