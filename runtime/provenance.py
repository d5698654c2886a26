"""Pictures that say what made them: saves a generated face with machine-readable generation information, and reads it back.

Two readers are served. Platforms that label generated media look for IPTC's digital source type in an XMP packet; tools and
people look for the generation's own facts, which are a JSON object in the same packet, and in PNG also a text chunk named
`clipfacefusion`. Neither is a protection: whoever re-encodes the picture loses both.

Sources: IPTC NewsCodes `digitalsourcetype`; ISO 16684-1 (XMP). Layout: (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

GENERATOR = "ClipFaceFusion"
KEY = "clipfacefusion"
NAMESPACE = "https://clipfacefusion.invalid/ns/1.0/"  # a name, not an address
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
# What of a report belongs to the picture: how to make it again, and nothing that a person wrote.
KEPT = ("bundle", "bundle_sha256", "seed", "num_inference_steps", "guidance_scale", "engine", "conditions")
LOSSY_QUALITY = 95
FORMAT_BY_SUFFIX = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}

_REPORT_IN_XMP = re.compile(rb'clipfacefusion:report="([^"]*)"')


def save_image(image: np.ndarray, path: Path, report: Mapping[str, Any]) -> None:
    """Write a generated picture as PNG, WebP or JPEG, by the path's suffix. `report` is the result's.

    Raises ValueError for another suffix, OSError if the file cannot be written.
    """
    kind = image_format(path)
    information = json.dumps(
        {
            "generator": GENERATOR,
            "version": version("clipfacefusion"),
            **{name: report[name] for name in KEPT if name in report},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    picture, xmp = Image.fromarray(image), _xmp(information)
    if kind == "PNG":
        text = PngInfo()
        text.add_itxt(KEY, information)
        text.add_itxt("XML:com.adobe.xmp", xmp)
        picture.save(path, kind, pnginfo=text)
    else:
        picture.save(path, kind, quality=LOSSY_QUALITY, xmp=xmp.encode())


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What `save_image` wrote into the file: generator, version, created and the kept report entries; None if there is nothing.

    Raises OSError if the file is not a readable picture.
    """
    with Image.open(path, formats=tuple(set(FORMAT_BY_SUFFIX.values()))) as picture:
        packet = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or b""
    found = _REPORT_IN_XMP.search(packet.encode() if isinstance(packet, str) else packet)
    return json.loads(html.unescape(found[1].decode())) if found else None


def image_format(path: Path) -> str:
    """The format that a path's suffix stands for; ValueError for one that cannot be written."""
    kind = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"cannot write '{path.name}'; use a name that ends in {', '.join(FORMAT_BY_SUFFIX)}")
    return kind


def _xmp(information: str) -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'xmlns:{KEY}="{NAMESPACE}" Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}" xmp:CreatorTool="{GENERATOR}" '
        f'{KEY}:report="{html.escape(information)}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
