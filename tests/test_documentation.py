"""What the documentation names exists: commands and their flags, make targets, extras, files, links, and every request field."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

from runtime.fields import Field
from runtime.options import OPTIONS
from runtime.preprocess import audio, image
from runtime.request import FIELDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
FORBIDDEN_NAMES = ("utils.py", "helpers.py")  # CONTRIBUTING.md names what there must not be
CALLERS = [*PAGES, ROOT / "Makefile", ROOT / ".ci" / "run"]
MODULES = ("runtime", "training", "export", "benchmarks")


def markdown_table() -> str:
    """The request table as it must stand in docs/request.md."""
    lines = ["| field | type, shape | allowed | default | what |", "|---|---|---|---|---|"]
    for field in FIELDS:
        default = "" if field.default is None else f"{field.default}"
        lines.append(
            f"| `{field.name}` | {field.dtype} [{field.width}] | {_allowed(field)} | {default} | {field.help} |"
        )
    return "\n".join(lines)


def options_table() -> str:
    """The keys of the field `options`, likewise."""
    lines = ["| key | type | allowed | default | what |", "|---|---|---|---|---|"]
    for option in OPTIONS:
        default = "" if option.default is None else json.dumps(option.default)
        lines.append(f"| `{option.name}` | {_json_type(option)} | {_allowed(option)} | {default} | {option.help} |")
    return "\n".join(lines)


def _json_type(option: Field) -> str:
    kind = {"BYTES": "string", "BOOL": "boolean", "FP32": "number"}.get(option.dtype, "integer")
    return kind if option.width == 1 else f"array of {option.width} {kind}s"


def _allowed(field: Field) -> str:
    if field.dtype == "BOOL":
        return "true, false"
    if field.choices:
        return ", ".join(field.choices)
    if field.is_file:
        return f"at most {field.high / 2**20:g} MiB"
    high = field.high if field.dtype.startswith("INT") else f"{field.high:g}"
    return f"{field.low:g} … {high}" + (" characters" if field.dtype == "BYTES" else "")


def code_of(page: Path) -> list[str]:
    """Every line of code on a page: lines of fenced blocks, and inline code; of another file, every line."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".md":
        return text.splitlines()
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [line.split(" #")[0] for block in fenced for line in block.splitlines()] + [
        " ".join(s.split()) for s in inline
    ]


def commands_of(page: Path) -> list[tuple[str, str, list[str]]]:
    """(module, subcommand or "", flags) of every `python -m` command on a page."""
    found = []
    for line in code_of(page):
        match = re.search(rf"python -m ((?:{'|'.join(MODULES)})(?:\.\w+)*)(.*)", line)
        if match:
            words = match[2].split()
            subcommand = words[0] if match[1] in ("runtime", "benchmarks") and words else ""
            if match[1] == "training":  # has subcommands of subcommands; what is no plain word is an argument
                subcommand = " ".join(takewhile(re.compile(r"[a-z]+$").match, words))
            found.append((match[1], subcommand, [word for word in words if word.startswith("--")]))
    return found


@cache
def help_of(module: str, subcommand: str) -> str:
    """What `--help` prints; fails if the command does not exist."""
    command = [sys.executable, "-m", module, *subcommand.split(), "--help"]
    wide = {**os.environ, "COLUMNS": "200"}  # a wrapped example cannot be read back
    done = subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command[1:])}: {done.stderr}"
    return done.stdout


COMMANDS = sorted({(module, subcommand) for page in CALLERS for module, subcommand, _ in commands_of(page)})


@pytest.mark.parametrize(("module", "subcommand"), COMMANDS)
def test_documented_command_exists_with_the_flags_that_are_shown(module: str, subcommand: str) -> None:
    shown = {
        flag
        for page in CALLERS
        for m, s, flags in commands_of(page)
        if (m, s) == (module, subcommand)
        for flag in flags
    }
    known = set(re.findall(r"--[a-z][\w-]*", help_of(module, subcommand)))
    assert shown <= known, f"unknown: {shown - known}"


@pytest.mark.parametrize(("module", "subcommand"), COMMANDS)
def test_help_ends_with_an_example_of_known_flags(module: str, subcommand: str) -> None:
    text = help_of(module, subcommand)
    _, found, example = text.rpartition("example:")
    assert found, "no example"
    names = [f"python -m {module}", *(["clipfacefusion"] if module == "runtime" else [])]
    starts = tuple(f"{name} {subcommand}".strip() for name in names)
    lines = [re.split(" #|;", line)[0] for line in example.splitlines() if line.strip().startswith(starts)]
    assert lines, f"the example does not run {starts[0]}"
    assert set(re.findall(r"--[a-z][\w-]*", " ".join(lines))) <= set(
        re.findall(r"--[a-z][\w-]*", text[: -len(example)])
    )


@EVERY_PAGE
def test_documented_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    shown = {match[1] for line in code_of(page) if (match := re.match(r"make ([a-z-]+)", line))}
    assert shown <= targets, f"unknown: {shown - targets}"


@EVERY_PAGE
def test_documented_extra_exists(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = {
        name
        for names in re.findall(r'pip install "\.\[([\w,-]+)\]"', page.read_text(encoding="utf-8"))
        for name in names.split(",")
    }
    assert shown <= set(project["optional-dependencies"])


@EVERY_PAGE
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    missing = [link for link in links if link and not (page.parent / link).exists()]
    folders = "runtime|training|export|triton_repo|examples|tests|docs"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*)`", text))
    missing += [name for name in named if not (ROOT / name).exists()]
    modules = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    missing += [
        name for name in re.findall(r"\b\w+\.py\b", text) if name not in modules and name not in FORBIDDEN_NAMES
    ]
    assert not missing


@EVERY_PAGE
def test_link_into_a_page_names_a_heading_of_it(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)\s#]*\.md)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        headings = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_request_page_holds_the_request_table() -> None:
    page = (ROOT / "docs" / "request.md").read_text(encoding="utf-8")
    assert markdown_table() in page, f"put this table into docs/request.md:\n\n{markdown_table()}"


def test_request_page_holds_the_table_of_options() -> None:
    page = (ROOT / "docs" / "request.md").read_text(encoding="utf-8")
    assert options_table() in page, f"put this table into docs/request.md:\n\n{options_table()}"


def test_request_page_states_the_limits_of_photo_and_voice() -> None:
    page = (ROOT / "docs" / "request.md").read_text(encoding="utf-8")
    assert f"first {audio.USED_DURATION_S} seconds" in page
    assert f"At least {audio.MIN_DURATION_S:g} s, at most {audio.MAX_DURATION_S} s" in page
    assert (
        f"{audio.MIN_RATE_HZ // 1000} to {audio.MAX_RATE_HZ // 1000} kHz, at most {audio.MAX_CHANNELS} channels" in page
    )
    assert (
        f"{image.MIN_SIDE} to {image.MAX_SIDE} pixels a side and at most {image.MAX_PIXELS // 10**6} megapixels" in page
    )


def test_readme_prints_the_plain_grpc_client_as_it_is() -> None:
    source = (ROOT / "examples" / "grpc_client.py").read_text(encoding="utf-8")
    assert source.rstrip() in (ROOT / "README.md").read_text(encoding="utf-8")


@EVERY_PAGE
def test_python_on_a_page_compiles(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        compile(block, str(page), "exec")
