"""Pictures that say what made them: saves a face with machine-readable generation information, and reads it back.

Two readers are served. Platforms that label generated media look for IPTC's digital source type in an XMP packet; tools and
people look for the generation's own facts, which are a JSON object in the same packet, and in PNG also a text chunk named
`clipfacefusion`. Neither is a protection: whoever re-encodes the picture loses both.

Sources: IPTC NewsCodes `digitalsourcetype`; ISO 16684-1 (XMP). Layout: (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from runtime.report import EDIT, GENERATED, GENERATOR, PROVENANCE

KEY = "clipfacefusion"
NAMESPACE = "https://clipfacefusion.invalid/ns/1.0/"  # a name, not an address
# What of a report belongs to the picture: how to make it again, and nothing that a person wrote.
KEPT = (
    "bundle",
    "bundle_sha256",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "guidance_interval",
    "sampler",
    "engine",
    "conditions",
    EDIT,
    "sweep",
)
COMMENT = f"{KEY}:".encode()  # before the JSON object in a GIF, which has no better place for it
LOSSY_QUALITY = 95
FORMAT_BY_SUFFIX = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}

_REPORT_IN_XMP = re.compile(rb'clipfacefusion:report="([^"]*)"')


def save_image(image: np.ndarray, path: Path, report: Mapping[str, Any]) -> None:
    """Write a picture as PNG, WebP or JPEG, by the path's suffix. `report` is the result's.

    Raises ValueError for another suffix, OSError if the file cannot be written.
    """
    path.write_bytes(encode_image(image, image_format(path), report))


def encode_image(image: np.ndarray, kind: str, report: Mapping[str, Any], quality: int = LOSSY_QUALITY) -> bytes:
    """The picture's file as bytes, for whoever answers somebody else with it. `kind` is "PNG", "WEBP" or "JPEG".

    `quality` (1..95) is that of WebP and JPEG; PNG loses nothing.
    """
    if kind not in FORMAT_BY_SUFFIX.values():
        raise ValueError(f"cannot write {kind!r}; allowed {', '.join(dict.fromkeys(FORMAT_BY_SUFFIX.values()))}")
    information, xmp = describe(report)
    picture, file = Image.fromarray(image), io.BytesIO()
    if kind == "PNG":
        text = PngInfo()
        text.add_itxt(KEY, information)
        text.add_itxt("XML:com.adobe.xmp", xmp)
        picture.save(file, kind, pnginfo=text)
    else:
        picture.save(file, kind, quality=quality, xmp=xmp.encode())
    return file.getvalue()


def describe(report: Mapping[str, Any]) -> tuple[str, str]:
    """What a picture's file says about it: the report's provenance and the kept entries, as a JSON object and as an XMP packet."""
    made = dict(report.get(PROVENANCE, {"generator": GENERATOR, "digital_source_type": GENERATED}))
    information = json.dumps({**made, **{name: report[name] for name in KEPT if name in report}})
    return information, _xmp(information, made["digital_source_type"])


def read_provenance(picture: Path | bytes) -> dict[str, Any] | None:
    """What `encode_image`, or `runtime/animation.py`, wrote into a file: what `describe` says; None if there is nothing.

    Raises OSError if the file is not a readable picture.
    """
    file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    with Image.open(file, formats=(*set(FORMAT_BY_SUFFIX.values()), "GIF")) as opened:
        packet = opened.info.get("xmp") or opened.info.get("XML:com.adobe.xmp") or b""
        comment = opened.info.get("comment") if opened.format == "GIF" else None
    if comment and comment.startswith(COMMENT):
        return json.loads(comment.removeprefix(COMMENT))
    found = _REPORT_IN_XMP.search(packet.encode() if isinstance(packet, str) else packet)
    return json.loads(html.unescape(found[1].decode())) if found else None


def image_format(path: Path) -> str:
    """The format that a path's suffix stands for; ValueError for one that cannot be written."""
    kind = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"cannot write '{path.name}'; use a name that ends in {', '.join(FORMAT_BY_SUFFIX)}")
    return kind


def _xmp(information: str, source_type: str) -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'xmlns:{KEY}="{NAMESPACE}" Iptc4xmpExt:DigitalSourceType="{source_type}" xmp:CreatorTool="{GENERATOR}" '
        f'{KEY}:report="{html.escape(information)}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
