"""Laws of copies: forked processes go on where their parent was, pickled codecs start afresh."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.command import ENVIRONMENT

from sdrt.codec import Codec
from sdrt.packs.manifest import ModelPack

CHILD = """
pid = os.fork()
if pid == 0:
    signal.alarm(30)  # a child that hangs dies of it
    print(child(), flush=True)
    sys.exit(0)
print(os.waitpid(pid, 0)[1])
"""


def fork(code: str) -> list[str]:
    """What is printed by a process that runs ``code``, by its forked child in ``child``, and how the child ended."""
    code = f"import os, signal, sys, threading, time\nimport numpy as np\nimport sdrt\n{code}{CHILD}"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    return done.stdout.decode().split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_picture_is_read_reads_pictures() -> None:
    """The lock that another thread holds at that moment is free in the child, and Pillow's limit is its own again."""
    code = """
from PIL import Image
from sdrt.pixels import load
limit = Image.MAX_IMAGE_PIXELS
def read():
    with load._pillow("slow", 10**9):
        entered.set(); time.sleep(0.5)
entered = threading.Event()
threading.Thread(target=read).start()
entered.wait()
def child():
    return load.load(Image.new("RGB", (3, 2))).rgb.shape == (2, 3, 3) and Image.MAX_IMAGE_PIXELS == limit
"""
    assert fork(code) == ["True", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_used_codec_goes_on_in_a_forked_child(threads: int) -> None:
    """It gives the same picture, and the child ends when it should: a session's threads stay with the parent."""
    code = f"""
codec = sdrt.Codec("testpack", device="cpu", threads={threads})
picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
data = codec.encode(picture)
right = np.asarray(codec.decode(data))
def child():
    return codec.encode(picture) == data and (np.asarray(codec.decode(data)) == right).all()
"""
    assert fork(code) == ["True", "0"]


def test_a_used_codec_can_be_pickled_and_copied(testpack: ModelPack, photo: NDArray[np.uint8]) -> None:
    """What it was told goes along, its sessions do not; the copy writes the same bytes."""
    codec = Codec("testpack", device="cpu", threads=1, max_pixels=photo.shape[0] * photo.shape[1])
    data = codec.encode(photo)
    right = codec.decode_picture(data).rgb
    for twin in (pickle.loads(pickle.dumps(codec)), copy.copy(codec), copy.deepcopy(codec)):
        assert twin.used_device is None
        assert twin.encode(photo) == data and (twin.decode_picture(data).rgb == right).all()
        assert twin.used_device == "cpu"
    assert (codec.decode_picture(data).rgb == right).all()
