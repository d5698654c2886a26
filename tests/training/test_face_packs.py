"""The insightface adapter, run by the real insightface and ONNX Runtime on a pack of two small models made here.

The models have the shapes of SCRFD (three strides, two anchors a cell, nine outputs) and of ArcFace (112×112 → 512) and do
something simple: a face is where a cell of 32 pixels is red, and an identity is a fixed projection of the aligned face.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("insightface", reason="extra `face` is not installed")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from runtime.errors import BundleError  # noqa: E402
from training.face_packs import DETECTION_SIZE, FacePack  # noqa: E402

# insightface's own, of a scikit-image that it allows
pytestmark = pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")

STRIDES, ANCHORS = (8, 16, 32), 2
BOX = (2.0, 3.0, 2.0, 3.0)  # left, top, right, bottom distance from an anchor, in strides
LANDMARKS = np.array([[-1, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]], np.float32)  # likewise


def detector(path: Path, has_landmarks: bool = True) -> None:
    """Scores (cells·2, 1) per stride: red minus green, of an RGB picture as `(pixel - 127.5) / 128`; all distances are constant."""
    nodes, initializers = [], []

    def constant(name: str, values: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(values, name))
        return name

    constant("red", np.array([0])), constant("green", np.array([1])), constant("axis", np.array([1]))
    constant("end", np.array([2])), constant("column", np.array([-1, 1])), constant("twice", np.array([1, ANCHORS]))
    nodes.append(helper.make_node("Slice", ["image", "red", "green", "axis"], ["r"]))
    nodes.append(helper.make_node("Slice", ["image", "green", "end", "axis"], ["g"]))
    nodes.append(helper.make_node("Sub", ["r", "g"], ["redness"]))
    outputs: dict[str, int] = {}
    for stride in STRIDES:
        # Only the coarsest map finds anything; the others are as they are for a picture of one size of face.
        nodes.append(
            helper.make_node(
                "AveragePool", ["redness"], [f"map{stride}"], kernel_shape=[stride, stride], strides=[stride, stride]
            )
        )
        factor = constant(f"factor{stride}", np.float32(0.45 if stride == 32 else 0.0))
        nodes += [
            helper.make_node("Reshape", [f"map{stride}", "column"], [f"flat{stride}"]),
            helper.make_node("Tile", [f"flat{stride}", "twice"], [f"tiled{stride}"]),
            helper.make_node("Reshape", [f"tiled{stride}", "column"], [f"both{stride}"]),
            helper.make_node("Mul", [f"both{stride}", factor], [f"score{stride}"]),
        ]
        outputs[f"score{stride}"] = 1
    shapes = [("box", np.array(BOX, np.float32))] + ([("points", LANDMARKS.flatten())] if has_landmarks else [])
    for kind, row in shapes:
        for stride in STRIDES:
            cells = (DETECTION_SIZE[0] // stride) * (DETECTION_SIZE[1] // stride) * ANCHORS
            source = constant(f"{kind}_rows{stride}", np.tile(row, (cells, 1)))
            nodes.append(helper.make_node("Identity", [source], [f"{kind}{stride}"]))
            outputs[f"{kind}{stride}"] = len(row)
    save(path, nodes, [1, 3, "?", "?"], {name: ["n", width] for name, width in outputs.items()}, initializers)


def recogniser(path: Path) -> None:
    """8×8 averages of an aligned face, projected to 512."""
    weight = np.random.default_rng(0).normal(size=(3 * 14 * 14, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    save(path, nodes, ["n", 3, 112, 112], {"embedding": ["n", 512]}, [numpy_helper.from_array(weight, "weight")])


def save(path: Path, nodes: list, shape: list, outputs: dict[str, list], initializers: list) -> None:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    detector(folder / "det_tiny.onnx")
    recogniser(folder / "w600k_tiny.onnx")
    return folder


@pytest.fixture(scope="module")
def pack(folder: Path) -> FacePack:
    return FacePack(folder)


def photo(*cells: tuple[int, int], size: int = 640, strength: int = 255) -> np.ndarray:
    """A dark blue RGB picture with structure, and a red square at each (column, row) of 32 pixel cells of a 640 pixel one."""
    image = np.zeros((640, 640, 3), np.uint8)
    image[..., 2] = np.add.outer(np.arange(640), 2 * np.arange(640)) // 8 % 100
    for column, row in cells:
        image[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = (strength, 0, 0)
    return image[:: 640 // size, :: 640 // size]


def test_box_score_landmarks_and_identity_are_where_and_what_the_models_say(pack: FacePack) -> None:
    (face,) = pack.faces(photo((10, 7)))
    anchor = np.array([320, 224])
    np.testing.assert_allclose(face.box, np.concatenate([anchor - [64, 96], np.add(anchor, [64, 96])]))
    np.testing.assert_allclose(face.landmarks, anchor + 32 * LANDMARKS, rtol=1e-6)
    assert face.score == pytest.approx(0.45 * 255 / 128, abs=1e-4)
    assert face.identity.shape == (512,) and np.linalg.norm(face.identity) == pytest.approx(1, abs=1e-5)
    assert {a.dtype for a in (face.box, face.landmarks, face.identity)} == {np.dtype("float32")}


def test_pictures_are_rgb(pack: FacePack) -> None:
    assert pack.faces(photo((10, 7))) and not pack.faces(photo((10, 7))[:, :, ::-1])


def test_coordinates_are_those_of_the_picture_and_not_of_the_detector(pack: FacePack) -> None:
    """A picture of half the size is enlarged to 640 for the detector; what it finds comes back halved."""
    whole, half = pack.landmarks(photo((10, 7))), pack.landmarks(photo((10, 7), size=320))
    assert whole is not None and half is not None and half.shape == (5, 2)
    np.testing.assert_allclose(half, whole / 2, atol=0.01)


def test_the_main_face_is_the_central_one_and_all_are_listed(pack: FacePack) -> None:
    image = photo((3, 4), (10, 10))
    assert len(pack.faces(image)) == 2
    landmarks, identity = pack.landmarks(image), pack.identity(image)
    assert landmarks is not None and identity is not None
    np.testing.assert_allclose(landmarks, np.array([320, 320]) + 32 * LANDMARKS, rtol=1e-6)
    central = next(face for face in pack.faces(image) if face.box[0] > 200)
    np.testing.assert_allclose(identity, central.identity)


def test_the_identity_is_that_of_the_aligned_face(pack: FacePack) -> None:
    """Moved by a whole cell, the face is the same picture after alignment; another face is not."""

    def face_at(column: int, colour: int) -> np.ndarray:
        image = np.zeros((640, 640, 3), np.uint8)
        image[100:360, 32 * column - 100 : 32 * column + 132, 1] = np.arange(232) // 4 + colour
        image[224:256, 32 * column : 32 * column + 32] = (255, 0, 0)
        return image

    here, there, other = (pack.identity(face_at(c, colour)) for c, colour in ((8, 0), (12, 0), (8, 120)))
    assert here is not None and there is not None and other is not None
    assert here @ there > 0.9999 > here @ other


def test_a_picture_without_a_face_gives_nothing(pack: FacePack) -> None:
    image = photo()
    assert pack.faces(image) == [] and pack.landmarks(image) is None and pack.identity(image) is None


def test_the_smallest_score_is_kept_to(folder: Path) -> None:
    faint = photo((10, 7), strength=160)  # a score of 0.56
    assert FacePack(folder, min_score=0.5).faces(faint) and not FacePack(folder, min_score=0.6).faces(faint)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_anything_but_uint8_rgb_is_refused(pack: FacePack, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\) in RGB"):
        pack.landmarks(image)


def test_a_folder_that_is_no_pack_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """insightface would take the name for a pack of its own and download it."""

    def refuse(*_: object) -> None:
        raise AssertionError("opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="buffalo_l is not a folder; unpack"):
        FacePack(Path("buffalo_l"))
    (tmp_path / "buffalo_l" / "inner").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"no \.onnx files; point at the folder that holds them"):
        FacePack(Path("buffalo_l"))


def test_a_pack_with_a_part_missing_says_which(tmp_path: Path) -> None:
    recogniser(tmp_path / "w600k_tiny.onnx")
    with pytest.raises(BundleError, match="no face detector"):
        FacePack(tmp_path)
    (tmp_path / "w600k_tiny.onnx").unlink()
    detector(tmp_path / "det_tiny.onnx")
    with pytest.raises(BundleError, match="no recognition model"):
        FacePack(tmp_path)
    recogniser(tmp_path / "w600k_tiny.onnx")
    detector(tmp_path / "det_tiny.onnx", has_landmarks=False)
    with pytest.raises(BundleError, match="gives no landmarks"):
        FacePack(tmp_path)
    (tmp_path / "det_tiny.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleError, match="cannot be loaded"):
        FacePack(tmp_path)


def test_insightface_is_imported_by_a_pack_alone(tmp_path: Path) -> None:
    """Neither the module nor anything of the runtime needs it; a pack without it says what to install."""
    (tmp_path / "det.onnx").touch()
    code = (
        "import sys; sys.modules['insightface'] = None\n"
        "import clipfacefusion, runtime.pipeline, runtime.bundle, training.face_packs as packs\n"
        "from pathlib import Path\n"
        "try: packs.FacePack(Path(sys.argv[1]))\n"
        "except packs.BundleError as error: print(error)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert 'insightface is not installed; run pip install ".[face]"' in done.stdout, done.stdout + done.stderr
