"""A bundle is what its manifest says, or it is refused with the file's name and a way out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from runtime.errors import BundleError
from runtime.manifest import MANIFEST_FILE, TOKENIZER, Manifest, onnx_file, sha256_of
from tests.fakes import write_bundle

UNET = onnx_file("unet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(folder: Path, **changes) -> None:
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_written_is_read_back_equal(folder):
    manifest = Manifest.read(folder)
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    manifest.verify(folder)


def test_the_same_manifest_gives_the_same_bytes(folder):
    before = sha256_of(folder / MANIFEST_FILE)
    Manifest.read(folder).write(folder)
    assert sha256_of(folder / MANIFEST_FILE) == before


def test_an_edited_file_is_refused_by_its_hash(folder):
    data = bytearray((folder / UNET).read_bytes())
    data[0] ^= 1
    (folder / UNET).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{UNET}: SHA-256 .* export it again"):
        Manifest.read(folder).verify(folder)


def test_a_truncated_file_is_refused_by_its_size(folder):
    (folder / UNET).write_bytes(b"")
    with pytest.raises(BundleError, match=rf"{UNET}: has 0 bytes, the manifest says 4"):
        Manifest.read(folder).verify(folder)


def test_a_missing_file_is_named(folder):
    (folder / TOKENIZER).unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: missing"):
        Manifest.read(folder).verify(folder)


@pytest.mark.parametrize("linked", [UNET, "onnx"])
def test_symbolic_links_are_refused_even_to_the_right_bytes(folder, tmp_path, linked):
    (folder / linked).rename(tmp_path / "elsewhere")
    (folder / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="symbolic link"):
        Manifest.read(folder).verify(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "onnx/../../x", "a\\b", "", "./x"])
def test_names_that_leave_the_bundle_are_refused(folder, name):
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    edit(folder, files={**files, name: {"sha256": "0", "bytes": 0}})
    with pytest.raises(BundleError, match="does not stay inside the bundle"):
        Manifest.read(folder)


@pytest.mark.parametrize("version", [1, 3, None, "2"])
def test_another_format_version_is_refused_before_anything_else_is_read(folder, version):
    edit(folder, format_version=version, model="whatever a newer format has here")
    with pytest.raises(BundleError, match=f"format_version is {version!r}, this runtime reads 2"):
        Manifest.read(folder)


def test_engine_specs_that_this_runtime_would_not_derive_are_refused(folder):
    engines = json.loads((folder / MANIFEST_FILE).read_text())["engines"]
    engines["unet"]["inputs"][0]["shape"][1] = 99
    edit(folder, engines=engines)
    with pytest.raises(BundleError, match="engine specs of unet"):
        Manifest.read(folder)


def test_a_bundle_that_lacks_an_engine_is_refused(folder):
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    edit(folder, files={name: record for name, record in files.items() if name != UNET})
    with pytest.raises(BundleError, match=rf"does not list {UNET}"):
        Manifest.read(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "unknown entries surprise"),
        ({"files": []}, "AttributeError|TypeError"),
        ({"files": {"tokenizer.json": {"sha256": "0"}}}, "expected sha256 and bytes"),
        ({"schedule": {"beta_start": -1}}, "beta_start"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": "three"}, "guidance_scale|TypeError"),
        ({"model": {}}, "model"),
        ({"engines": None}, "AttributeError"),
    ],
)
def test_damaged_entries_are_bundle_errors(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message):
        Manifest.read(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_what_is_no_json_object_is_a_bundle_error(folder, data):
    (folder / MANIFEST_FILE).write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.read(folder)


def test_a_missing_entry_is_named(folder):
    path = folder / MANIFEST_FILE
    values = json.loads(path.read_text())
    del values["precision"]
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match="precision"):
        Manifest.read(folder)


def test_a_folder_without_a_manifest_is_no_bundle_and_its_path_is_not_told(tmp_path):
    with pytest.raises(BundleError, match="is this a bundle") as caught:
        Manifest.read(tmp_path / "nowhere")
    assert str(tmp_path) not in str(caught.value)


def test_a_manifest_is_checked_on_construction_too(folder):
    manifest = Manifest.read(folder)
    with pytest.raises(BundleError, match="guidance_scale is nan"):
        dataclasses.replace(manifest, guidance_scale=float("nan"))
