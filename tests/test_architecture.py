"""The rules of docs/architecture.md, held by reading every import in the sources and by starting fresh interpreters."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("runtime", "training", "export", "triton_repo", "benchmarks", "examples", "tests", "clipfacefusion")
HEAVY = ("torch", "onnx", "transformers", "diffusers", "accelerate")


@dataclass(frozen=True)
class Rule:
    """What one folder may import: prefixes of our modules, and top-level names of others (None = any, save `never`).

    `only_in` confines a library to files, so that what needs it is known from the tree.
    """

    ours: tuple[str, ...]
    others: frozenset[str] | None = None
    never: frozenset[str] = frozenset()
    only_in: dict[str, tuple[str, ...]] = field(default_factory=dict)


RULES = {
    "runtime": Rule(
        ours=("runtime",),
        others=frozenset(
            {
                "numpy",
                "tokenizers",
                "PIL",
                "soundfile",
                "soxr",
                "safetensors",
                "onnxruntime",
                "openvino",
                "tritonclient",
                "insightface",
            }
        ),
        only_in={
            "onnxruntime": ("runtime/engines/ort.py",),
            "openvino": ("runtime/engines/ov.py",),  # an extra
            "tritonclient": ("runtime/client.py", "runtime/client_stream.py"),
            "insightface": ("runtime/preprocess/face_detector.py",),  # an extra that most users do without
            "PIL": (
                "runtime/preprocess/",
                "runtime/provenance.py",
                "runtime/demo.py",
                "runtime/sheet.py",
                "runtime/animation.py",
                "runtime/detail.py",
                "runtime/detail.py",
            ),
            "soundfile": ("runtime/preprocess/",),
            "soxr": ("runtime/preprocess/",),
            "tokenizers": ("runtime/preprocess/",),
        },
    ),
    "training": Rule(
        # Definitions that torch's side and the runtime's must share, numpy at most; nothing that opens a bundle or an engine.
        ours=(
            "training",
            "runtime.ddim",
            "runtime.emotions",
            "runtime.errors",
            "runtime.guidance",
            "runtime.noise",
            "runtime.preprocess",
            "runtime.request",
            "runtime.schedule",
            "runtime.solvers",
            "runtime.spec",
            "runtime.words",
        ),
        never=frozenset({"tensorrt", "tensorrt_rtx", "tritonclient", "onnxruntime", "onnx"}),
        only_in={"insightface": ("training/face_packs.py",)},  # an extra that most users do without
    ),
    "export": Rule(
        ours=(
            "export",
            "training.config",
            "training.model",
            "training.checkpoint",
            "training.unconditional",
            "runtime.bundle",
            "runtime.emotions",
            "runtime.engines",
            "runtime.errors",
            "runtime.inspection",
            "runtime.ladder",
            "runtime.manifest",
            "runtime.noise",
            "runtime.plans",
            "runtime.schedule",
            "runtime.spec",
        ),
        never=frozenset({"tritonclient", "diffusers", "transformers"}),
    ),
    "triton_repo": Rule(
        ours=("triton_repo", "runtime"),
        others=frozenset({"numpy", "triton_python_backend_utils"}),
    ),
    "benchmarks": Rule(
        ours=("benchmarks", "runtime", "training", "export.exportable", "export.to_onnx", "clipfacefusion")
    ),
    "examples": Rule(ours=("clipfacefusion",), others=frozenset({"numpy", "PIL", "tritonclient"})),
    "clipfacefusion.py": Rule(ours=("runtime",), others=frozenset()),
}

# What must not stand in shipped or training code: each unpickles, runs text as code, or names one machine.
FORBIDDEN = {
    r"\bimport (c?pickle|dill|joblib|marshal|shelve)\b|\bfrom (c?pickle|dill|joblib|marshal|shelve) import\b": "unpickles",
    r"\btorch\.load\(": "unpickles",
    r"allow_pickle\s*=\s*True": "unpickles",
    r"(?<![\w.])(eval|exec)\(": "runs text as code",
    r"\byaml\.(load|unsafe_load|full_load)\(": "runs text as code",
    r"\bshell\s*=\s*True": "runs text as a shell command",
    r"""["'`](/home/|/root/|/Users/|[A-Z]:\\)""": "names a path of one machine",
    r"\bexec\([^)]*decoupled": "locks up the process of a Triton model that calls another (docs/decisions/0036)",
}


def sources(folder: str) -> list[Path]:
    """The Python files of a root entry, which may be a file itself."""
    path = ROOT / folder
    return [path] if path.is_file() else sorted(p for p in path.rglob("*.py") if "__pycache__" not in p.parts)


def imported(source: str) -> Iterator[str]:
    """Dotted names that a source imports anywhere, `from a import b` as both `a` and `a.b`: b may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what the rule is about; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(rule: Rule, file: str, source: str) -> list[str]:
    """What `source`, as the file of that name, imports against the rule."""
    found = []
    for name in imported(source):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top in OURS:
            allowed = any(name == prefix or name.startswith(prefix + ".") for prefix in rule.ours)
        else:
            allowed = top not in rule.never and (rule.others is None or top in rule.others)
            allowed = allowed and file.startswith(rule.only_in.get(top, ("",)))
        if not allowed:
            found.append(f"{file} imports {name}")
    return found


@pytest.mark.parametrize("folder", RULES)
def test_folder_imports_only_what_its_rule_allows(folder: str) -> None:
    files = sources(folder)
    assert files, f"{folder} has no sources"
    found = [
        line
        for p in files
        for line in violations(RULES[folder], p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("folder", "file", "source"),
    [
        ("runtime", "runtime/pipeline.py", "def f():\n    import torch"),
        ("runtime", "runtime/pipeline.py", "from training.config import PRESETS"),
        ("runtime", "runtime/pipeline.py", "import onnxruntime"),
        ("runtime", "runtime/pipeline.py", "from insightface.app import FaceAnalysis"),
        ("runtime", "runtime/serving/server.py", "from tritonclient.grpc import InferInput"),
        ("training", "training/loop.py", "from runtime.pipeline import Pipeline"),
        ("training", "training/loop.py", "from runtime import pipeline"),
        ("training", "training/loop.py", "import export.bundle"),
        ("training", "training/data/ingest.py", "from insightface.app import FaceAnalysis"),
        ("export", "export/bundle.py", "import triton_repo"),
        ("export", "export/bundle.py", "from training.loop import train"),
        ("triton_repo", "triton_repo/ddim/1/model.py", "import torch"),
        ("triton_repo", "triton_repo/ddim/1/model.py", "from training import model"),
        ("examples", "examples/client.py", "from runtime.client import Client"),
    ],
)
def test_rule_finds_a_forbidden_import(folder: str, file: str, source: str) -> None:
    assert violations(RULES[folder], file, source)


def test_no_source_unpickles_evaluates_or_names_a_machine() -> None:
    found = []
    for folder in RULES:
        for path in sources(folder):
            for pattern, reason in FORBIDDEN.items():
                for match in re.finditer(pattern, path.read_text(encoding="utf-8")):
                    found.append(f"{path.relative_to(ROOT)}: {match[0]!r} {reason}")
    assert not found, "\n".join(found)


def test_forbidden_patterns_match_what_they_are_about() -> None:
    for line in (
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "yaml.load(text)",
        "run(command, shell=True)",
        'Path("/home/someone/data")',
        "answers = call.exec(decoupled=True)",
    ):
        assert any(re.search(pattern, line) for pattern in FORBIDDEN), line
    for line in (
        "model.eval()",
        "def evaluate(model):",
        "safetensors.torch.load_file(path)",
        "json.load(file)",
        "request.exec()",
    ):
        assert not any(re.search(pattern, line) for pattern in FORBIDDEN), line


def test_wheel_holds_every_package_that_production_needs() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = [
        p.parent.relative_to(ROOT).as_posix()
        for folder in ("runtime", "triton_repo")
        for p in (ROOT / folder).rglob("__init__.py")
    ]
    assert sorted(packages) == sorted(name.replace("/", ".") for name in found)


def interpreter(code: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter at the repository root, where importing a `blocked` library raises ImportError."""
    block = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", block + code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def runtime_modules() -> list[str]:
    """Every module of `runtime`, save `__main__`, as imported by name."""
    dotted = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources("runtime"))
    return [name.removesuffix(".__init__") for name in dotted if not name.endswith("__main__")]


def test_all_of_runtime_imports_where_torch_is_not_installed() -> None:
    code = f"import importlib\nfor name in {runtime_modules()!r}: importlib.import_module(name)"
    done = interpreter(code, blocked=HEAVY)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", HEAVY)
def test_the_block_stops_an_import(library: str) -> None:
    done = interpreter(f"import {library}", blocked=HEAVY)
    assert done.returncode != 0
    assert "ModuleNotFoundError" in done.stderr
    assert library in done.stderr


@pytest.mark.parametrize("name", ["Client", "GenerateRequest", "RequestError"])
def test_public_name_loads_neither_torch_nor_an_engine_library(name: str) -> None:
    libraries = (*HEAVY, "onnxruntime", "openvino", "tokenizers", "soundfile")
    done = interpreter(f"from clipfacefusion import {name}\nprint(sorted(set(sys.modules) & set({libraries!r})))")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_public_name_can_be_imported() -> None:
    done = interpreter("import clipfacefusion as c\nprint(all(getattr(c, name) for name in c.__all__))", blocked=HEAVY)
    assert done.stdout.strip() == "True", done.stderr
