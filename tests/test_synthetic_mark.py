"""Files that we decode say in XMP that a network painted parts of them, unless that is declined."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.command import HEALTHY

from sdrt.codec import Codec
from sdrt.command import cli
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.metadata import Metadata
from sdrt.pixels.picture import Picture, Strips
from sdrt.pixels.xmp import painted

Pixels = NDArray[np.uint8]
SAYS = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
CAMERA = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"


def source_types(xmp: bytes) -> list[str]:
    """What a reader of XMP finds, in elements and in attributes."""
    found = []
    for element in ElementTree.fromstring(xmp.strip(b"\0")).iter():
        if element.tag == f"{{{IPTC}}}DigitalSourceType":
            found.append(element.text or "")
        found += [value for name, value in element.attrib.items() if name == f"{{{IPTC}}}DigitalSourceType"]
    return found


def packet(inside: bytes, head: bytes = b"") -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="' + RDF.encode() + b'"><r:Description xmlns:i="'
        + IPTC.encode() + b'" xmlns:dc="http://purl.org/dc/elements/1.1/" ' + head + b">" + inside
        + b"</r:Description></r:RDF></x:xmpmeta>"
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif"])
def test_decoded_files_say_it(suffix: str, testpack: ModelPack, tmp_path: Path) -> None:
    """The command and Python write it where a format holds XMP; --strip, strip=True and images in memory have none."""
    path = tmp_path / f"out.{suffix}"
    codec = Codec(device="cpu")

    def xmp() -> bytes | None:
        with Image.open(path) as image:
            image.load()
            return image.info.get("xmp")

    assert cli.main(["decode", str(HEALTHY), "-o", str(path)]) == 0
    assert source_types(xmp() or b"") == [SAYS]
    assert cli.main(["decode", str(HEALTHY), "-o", str(path), "--strip", "-f"]) == 0
    assert xmp() is None
    codec.decode_file(HEALTHY, path)
    assert source_types(xmp() or b"") == [SAYS]
    codec.decode_file(HEALTHY, path, strip=True)
    assert xmp() is None and "xmp" not in codec.decode(HEALTHY).info


def test_kept_metadata_stay_beside_it(testpack: ModelPack, photo: Pixels, tmp_path: Path) -> None:
    """A packet that was kept is there byte for byte with one word more; without keep_metadata nothing of it is."""
    kept = packet(b"<dc:title>Otter</dc:title>")
    codec = Codec("testpack", device="cpu")
    picture = Picture(photo, metadata=Metadata(xmp=kept))
    for wanted, title in ((True, b"Otter"), (False, b"")):
        codec.decode_file(codec.encode(picture, keep_metadata=wanted), tmp_path / "out.webp")
        with Image.open(tmp_path / "out.webp") as image:
            xmp = image.info["xmp"]
        assert source_types(xmp) == [SAYS]
        assert (b"Otter" in xmp) is wanted and title in xmp
    before, after = kept.split(b"</r:RDF>")
    assert painted(kept).startswith(before) and painted(kept).endswith(b"</r:RDF>" + after)


def test_another_word_gives_way_and_a_stronger_one_stays() -> None:
    """A camera's word would now be false, as element and as attribute; "all of it is synthetic" says more."""
    element = f"<i:DigitalSourceType>{CAMERA}</i:DigitalSourceType>".encode()
    for camera in (packet(element), packet(b"", f'i:DigitalSourceType="{CAMERA}"'.encode())):
        assert source_types(camera) == [CAMERA]
        assert source_types(painted(camera)) == [SAYS]
    stronger = packet(element.replace(b"digitalCapture", b"trainedAlgorithmicMedia"))
    assert painted(stronger) == stronger
    once = painted(None)
    assert painted(once) == once and source_types(once) == [SAYS]


BROKEN = {
    "empty": b"",
    "text": b"no xml",
    "no-rdf": b"<x/>",
    "utf-16": "<r:RDF/>".encode("utf-16"),
    "cut": packet(b"")[:-5],
    "entities": packet(b"").replace(b"<x:x", b"<!DOCTYPE a><x:x", 1),
    "empty-rdf": f'<r:RDF xmlns:r="{RDF}"/>'.encode(),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_packet_is_no_way_to_leave_it_out(broken: bytes) -> None:
    """What no reader of XMP reads is replaced."""
    assert painted(broken) == painted(None)


def test_the_word_is_short() -> None:
    """It takes less than 600 bytes of a file."""
    assert len(painted(None)) < 600


def test_what_no_network_painted_says_nothing(photo: Pixels) -> None:
    """A file whose patch is the whole picture, and a picture of the caller's own, are not called synthetic."""
    rows = iter((photo,))
    for synthetic in (True, False):
        strips = Strips(161, 97, rows, metadata=Metadata(b"exif"), synthetic=synthetic)
        found = strips.for_file(strip=False).metadata
        assert found.exif == b"exif" and (found.xmp is not None) is synthetic
        assert strips.for_file(strip=True).metadata == Metadata()
