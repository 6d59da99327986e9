"""Laws of the Python interface: its options, its errors, its files, and the life of a codec."""

from __future__ import annotations

import ast
import dataclasses
import errno
import inspect
import io
import itertools
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import sdrt
from sdrt import Codec, EncodeOptions, Picture
from sdrt.container import sdl
from sdrt.network.engine import Engine
from sdrt.options import CodecKeywords, EncodeKeywords
from sdrt.packs.manifest import ModelPack
from sdrt.pixels.metadata import ITEMS

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).parents[1]
FILE = ROOT / "tests" / "golden" / "codec" / "161x97-alpha.sdl"


# Options


def test_keywords_are_the_fields_of_what_they_stand_for() -> None:
    """The typed keywords name every field of EncodeOptions and every argument of Codec, and metadata has no others."""
    assert list(EncodeKeywords.__annotations__) == [field.name for field in dataclasses.fields(EncodeOptions)]
    assert list(CodecKeywords.__annotations__) == list(inspect.signature(Codec).parameters)
    assert list(ITEMS) == [field.name for field in dataclasses.fields(sdrt.Metadata)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"quality": -1},
        {"quality": 101},
        {"quality": float("nan")},
        {"quality": "50"},
        {"quality": True},
        {"target_bytes": 0},
        {"target_bytes": 4980.5},
        {"target_bytes": "5k"},
        {"target_bpp": -0.1},
        {"target_bpp": float("inf")},
        {"quality": 50, "target_bytes": 5000},
        {"target_bytes": 5000, "target_bpp": 1.0},
        {"keep_metadata": "yes"},
        {"exact_alpha": 1},
        {"tune": "ssim"},
        {"resampling": 3},
        {"resampling": "2"},
        {"resampling": 2.0},
        {"resampling": True},
        {"model": 5},
        {"device": "gpu"},
        {"device": ["cpu"]},
        {"precision": "int4"},
        {"device": "cpu", "precision": "bf16"},
        {"threads": 0},
        {"threads": 1.5},
        {"threads": 10**30},
        {"max_pixels": -5},
        {"tile_px": 0},
    ],
    ids=str,
)
def test_wrong_arguments_are_one_family(wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an ArgumentError, which is a ValueError, in one line, before a model is looked for or a file read."""
    monkeypatch.setattr("sdrt.packs.search.search_paths", list)
    with pytest.raises(sdrt.ArgumentError) as caught:
        sdrt.encode("no such file", **wrong)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    assert any(name in str(caught.value) for name in wrong)


def test_a_wrong_size_is_of_the_same_family(testpack: ModelPack) -> None:
    """None is no size of a thumbnail, nor of a picture that latents are of."""
    codec = sdrt.Codec("testpack", device="cpu")
    with pytest.raises(sdrt.ArgumentError, match="side_px"):
        codec.thumbnail(FILE, None)  # type: ignore[arg-type]
    with pytest.raises(sdrt.ArgumentError, match="width_px"):
        codec.encode_latents(np.zeros((12, 2, 2)), None, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize("crop", [(1, 2, 3), (0, 0, 1.5, 2), "1,2,3,4", 7, (-1, 0, 5, 5), (0, 0, 162, 97)], ids=str)
def test_a_wrong_crop_is_of_the_same_family(crop: Any, testpack: ModelPack) -> None:
    """A crop is four integers that lie in the picture."""
    with pytest.raises(sdrt.ArgumentError, match="crop"):
        sdrt.decode(FILE, crop=crop)


def test_an_unknown_keyword_is_named() -> None:
    """A misspelled keyword is Python's own TypeError."""
    for call in (partial(sdrt.encode, b""), partial(sdrt.decode, b""), sdrt.register_opener):
        with pytest.raises(TypeError, match="qualty"):
            call(qualty=50)  # type: ignore[operator]


def test_numbers_of_numpy_are_numbers() -> None:
    """Numbers out of arrays are taken as Python's."""
    assert EncodeOptions(quality=np.float32(50), resampling=np.int64(2)).quality == 50  # type: ignore[arg-type]
    assert EncodeOptions(target_bytes=np.int64(5000)).target_bytes == 5000  # type: ignore[arg-type]
    assert EncodeOptions(effort=np.int64(3)).effort == 3  # type: ignore[arg-type]


def test_options_and_keywords_give_the_same_file(testpack: ModelPack, photo: Pixels) -> None:
    """A keyword replaces the field of the options; without either the defaults hold."""
    codec = Codec("testpack", device="cpu", threads=1)
    by_options = codec.encode(photo, EncodeOptions(quality=30, tune="psnr"))
    assert codec.encode(photo, quality=30, tune="psnr") == by_options
    assert codec.encode(photo, EncodeOptions(quality=80, tune="psnr"), quality=30) == by_options
    assert sdrt.encode(photo, EncodeOptions(quality=30), model="testpack", tune="psnr") == by_options
    assert codec.encode(photo, EncodeOptions()) == codec.encode(photo) != by_options


def test_a_target_that_no_file_meets_names_the_smallest(testpack: ModelPack, photo: Pixels) -> None:
    """However small the target, the size of the smallest file is named, never a number out of nowhere."""
    codec = Codec("testpack", device="cpu", threads=1)
    for target in ({"target_bytes": 1}, {"target_bpp": 0.0}, {"target_bpp": 1e-9}):
        with pytest.raises(sdrt.UnsupportedError, match=r"smallest file of this picture has \d{2} bytes") as caught:
            codec.encode(photo, **target)  # type: ignore[arg-type]
        assert not isinstance(caught.value, sdrt.ArgumentError), "the request is sound, this picture cannot meet it"


@pytest.mark.parametrize(
    ("rgb", "alpha"),
    [
        (np.zeros((4, 5, 3), np.float32), None),
        (np.zeros((4, 5), np.uint8), None),
        (np.zeros((4, 5, 4), np.uint8), None),
        (np.zeros((0, 5, 3), np.uint8), None),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8)),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), bool)),
    ],
)
def test_a_picture_is_of_one_shape(rgb: Any, alpha: Any) -> None:
    """Arrays of any other type or shape are refused when the picture is made."""
    with pytest.raises(sdrt.ArgumentError, match="must be uint8"):
        Picture(rgb, alpha)


# Sources


class Dribble(io.RawIOBase):
    """A stream that gives three bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, 3))


def test_files_are_read_from_streams(testpack: ModelPack) -> None:
    """decode, decode_picture, symbols and info read a binary stream as they read the file's bytes."""
    data = FILE.read_bytes()
    codec = Codec(device="cpu", threads=1)
    expected = np.asarray(codec.decode(data))
    with FILE.open("rb") as stream:
        for source in (stream, io.BytesIO(data), Dribble(data)):
            np.testing.assert_array_equal(np.asarray(codec.decode(source)), expected)
    assert sdrt.info(io.BytesIO(data)) == codec.info(Dribble(data)) == sdrt.info(FILE)
    np.testing.assert_array_equal(codec.symbols(io.BytesIO(data)), codec.symbols(FILE))
    with pytest.raises(sdrt.ImageError, match="text, not bytes"):
        codec.decode(io.StringIO("SDL"))  # type: ignore[arg-type]
    with pytest.raises(sdrt.ArgumentError, match="from a int"):
        codec.decode(5)  # type: ignore[arg-type]


def test_a_stream_takes_memory_by_what_it_gives() -> None:
    """No read asks for more than a megabyte, whatever the limit of a file's size."""
    asked: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(-1 if size is None else size)
            return super().read(size)

    sdrt.info(Watched(FILE.read_bytes()))
    assert min(asked) > 0 and max(asked) <= 1 << 20


@pytest.mark.parametrize("call", ["encode", "decode", "info", "load", "decode_many"])
def test_a_missing_file_is_a_file_not_found(call: str, testpack: ModelPack, tmp_path: Path) -> None:
    """It is an ImageError for who catches sdrt's errors, and the builtin for who catches Python's; it can be sent."""
    path = tmp_path / "gone"
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: sdrt.encode(path, model="testpack"),
        "decode": lambda: sdrt.decode(path),
        "info": lambda: sdrt.info(path),
        "load": lambda: sdrt.load(path),
        "decode_many": lambda: next(sdrt.decode_many([path])),
    }
    with pytest.raises(FileNotFoundError) as caught:
        calls[call]()
    assert isinstance(caught.value, sdrt.ImageError) and caught.value.errno == errno.ENOENT
    assert str(caught.value) == f"cannot read {path}: no such file"
    sent = pickle.loads(pickle.dumps(caught.value))
    assert type(sent) is type(caught.value) and str(sent) == str(caught.value)


@pytest.mark.parametrize("one", ["photo.sdl", b"SDL", Path("photo.sdl"), None])
def test_one_name_is_not_many(one: Any) -> None:
    """A string would be taken letter by letter: it is refused at once, and the list that is meant is named."""
    for many in (sdrt.encode_many, sdrt.decode_many):
        with pytest.raises(sdrt.ArgumentError, match="give a list"):
            many(one)


# Files


def test_encode_file_writes_and_says_what_info_reads(
    testpack: ModelPack, photo: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """encode_file writes what encode returns, and tells of it what info does, without parsing it."""
    path = tmp_path / "photo.sdl"
    rgba = np.dstack([photo, np.where(photo[:, :, 0] > 128, 255, 0).astype(np.uint8)])
    with monkeypatch.context() as patch:
        patch.setattr(sdl, "unpack", lambda *_, **__: pytest.fail("the file just written was parsed"))
        about = sdrt.encode_file(rgba, path, model="testpack", target_bytes=1500)
    assert path.read_bytes() == sdrt.encode(rgba, model="testpack", target_bytes=1500)
    assert about == sdrt.info(path) and about.alpha and about.file_bytes <= 1500


def test_decode_file_is_decode_in_a_file(testpack: ModelPack, tmp_path: Path) -> None:
    """The picture written is the one that decode returns; a crop is a crop."""
    for crop in (None, (10, 20, 30, 40)):
        sdrt.decode_file(FILE, tmp_path / "back.png", crop=crop)
        with Image.open(tmp_path / "back.png") as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(sdrt.decode(FILE, crop=crop)))


def test_files_are_whole_or_as_they_were(testpack: ModelPack, photo: Pixels, tmp_path: Path) -> None:
    """Where anything fails nothing is left behind, and an existing file is replaced only on request."""
    there = tmp_path / "there.png"
    there.write_bytes(b"kept")
    codec = Codec("testpack", device="cpu", threads=1)
    failing: list[tuple[type[Exception], Callable[[], object]]] = [
        (sdrt.OutputError, lambda: codec.decode_file(FILE, there, overwrite=False)),
        (sdrt.OutputError, lambda: codec.encode_file(photo, there, overwrite=False)),
        (sdrt.OutputError, lambda: codec.encode_file(photo, tmp_path / "no" / "folder.sdl")),
        (sdrt.OutputError, lambda: codec.decode_file(FILE, tmp_path / "back.xyz")),
        (sdrt.OutputError, lambda: codec.decode_file(FILE, tmp_path / "transparent.jpg")),
        (sdrt.NotSdlError, lambda: codec.decode_file(b"not a file of ours", there)),
        (sdrt.ImageError, lambda: codec.encode_file(b"not a picture", there)),
        (sdrt.UnsupportedError, lambda: codec.encode_file(photo, there, target_bytes=5)),
    ]
    for error, call in failing:
        with pytest.raises(error):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"] and there.read_bytes() == b"kept"
    codec.decode_file(FILE, there)
    assert there.read_bytes()[1:4] == b"PNG"


# A codec's life


def test_a_closed_codec_lets_its_sessions_go(
    testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving the block frees the engines; strips that were begun are finished; a later call opens engines anew."""
    opened: list[weakref.ref[Engine]] = []
    original = Engine.__init__

    def watched(self: Engine, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        opened.append(weakref.ref(self))

    monkeypatch.setattr(Engine, "__init__", watched)
    with Codec("testpack", device="cpu", threads=1, tile_px=64) as codec:
        data = codec.encode(photo)
        whole = codec.decode_picture(data).rgb
        strips = codec.decode_strips(data)
        first = next(strips.rows)
    np.testing.assert_array_equal(np.concatenate([first, *strips.rows]), whole)
    del strips
    assert len(opened) == 2 and all(engine() is None for engine in opened)
    assert codec.encode(photo) == data and len(opened) == 3


def test_a_used_codec_can_be_sent(testpack: ModelPack, photo: Pixels) -> None:
    """Pickled with all its settings, without its sessions, it makes the same file."""
    codec = Codec("testpack", device="cpu", threads=1, max_pixels=97 * 161)
    data = codec.encode(photo, quality=20)
    sent = pickle.loads(pickle.dumps(codec))
    assert sent.encode(photo, quality=20) == data
    with pytest.raises(sdrt.LimitError):
        sent.encode(np.zeros((98, 161, 3), np.uint8))


FORK = """
import os, sys, threading
import numpy as np
import sdrt
from sdrt.pixels.pillow_state import reading
codec = sdrt.Codec("testpack", device="cpu", threads=2)
data = codec.encode(np.zeros((40, 50, 3), np.uint8))
expected = np.asarray(codec.decode(data))
inside, leave = threading.Event(), threading.Event()
def hold():
    with codec._models._lock, reading(None):
        inside.set()
        leave.wait()
threading.Thread(target=hold, daemon=True).start()
inside.wait()
with reading(10**9):
    child = os.fork()
if child == 0:
    same = np.array_equal(np.asarray(codec.decode(data)), expected) and sdrt.load(sys.argv[1]).rgb.size > 0
    from PIL import Image
    sys.exit(0 if same and Image.MAX_IMAGE_PIXELS is not None else 1)
_, status = os.waitpid(child, 0)
leave.set()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_goes_on(testpack: ModelPack, photo: Pixels, tmp_path: Path) -> None:
    """A codec used before a fork decodes in the child, whoever held a lock or read at that moment, also the
    thread that forks; both end."""
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK, path], env=environment, timeout=60, check=False)
    assert done.returncode == 0


# Names


def test_every_public_name_exists_for_python_and_for_type_checkers() -> None:
    """``__all__``, what can be had, and what type checkers are told are the same names."""
    tree = ast.parse((ROOT / "runtime" / "sdrt" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = [alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(["__version__", *map(str, told)]) == sorted(sdrt.__all__)
    assert all(getattr(sdrt, name) is not None for name in sdrt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sdrt.nonsense


def test_public_calls_say_what_they_take_and_raise() -> None:
    """Whatever is public and can be called has a docstring; methods of Codec that take a picture list their errors."""
    for name in sdrt.__all__:
        value = getattr(sdrt, name)
        if callable(value) and getattr(value, "__module__", "").startswith("sdrt"):
            assert inspect.getdoc(value), name
    methods = [Codec.encode, Codec.encode_file, Codec.encode_many, Codec.decode, Codec.decode_file, Codec.decode_many]
    for method, heading in itertools.product(methods, ("Args:", "Raises:")):
        assert heading in (inspect.getdoc(method) or ""), method
