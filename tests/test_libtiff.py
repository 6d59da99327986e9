"""Laws of what libtiff says: it becomes one note of the picture that it is about, and stderr stays the caller's."""

from __future__ import annotations

import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from sdrt.errors import ImageError
from sdrt.pixels.libtiff import overheard
from sdrt.pixels.load import load

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Pillow's libtiff is a part of it there")


@pytest.fixture
def damaged() -> bytes:
    """A fax of which libtiff says a dozen lines and Pillow nothing."""
    fax = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((64, 64)) > 0.5).save(fax, "TIFF", compression="group4")
    return fax.getvalue()[:60] + b"\xff" * 8 + fax.getvalue()[68:]


def test_a_damaged_picture_has_one_note(damaged: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """For callers in Python as for the command, from bytes as from an image that Pillow has opened."""
    for source in (damaged, Image.open(io.BytesIO(damaged))):
        (note,) = load(source).notes
        assert note.startswith("decoder warning: Bad code word at line 4")
    assert capfd.readouterr().err == ""


def test_what_is_said_elsewhere_goes_where_it_went(damaged: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """In other threads of the caller while we read, and everywhere after it."""

    def read_with_pillow() -> None:
        Image.open(io.BytesIO(damaged)).load()

    with overheard() as words:
        thread = threading.Thread(target=read_with_pillow)
        thread.start()
        thread.join()
    meanwhile = capfd.readouterr().err
    read_with_pillow()
    assert words == [] and "Bad code word" in meanwhile and capfd.readouterr().err == meanwhile


def test_each_of_many_readers_has_its_own_note(damaged: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """Sound and damaged pictures side by side, and one that cannot be read at all."""
    sound = io.BytesIO()
    Image.new("1", (64, 64)).save(sound, "TIFF", compression="group4")
    broken = damaged[:100]
    counts: list[int] = []

    def read(data: bytes) -> None:
        for _ in range(20):
            try:
                counts.append(len(load(data).notes) - (data is damaged))
            except ImageError:
                counts.append(0 if data is broken else -1)

    threads = [threading.Thread(target=read, args=(data,)) for data in (sound.getvalue(), damaged, broken) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(counts) == {0} and len(counts) == 120
    assert capfd.readouterr().err == ""
