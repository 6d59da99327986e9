"""Laws of several threads: one codec serves them all, pictures are read side by side, many are coded in order."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import sdrt
from sdrt import Codec
from sdrt.network.engine import Engine
from sdrt.packs.manifest import ModelPack
from sdrt.parallel import InOrder
from sdrt.pixels import load as load_module
from sdrt.pixels.pillow_state import reading

Pixels = NDArray[np.uint8]
WORKERS = 6
WAIT_S = 20
"""For what should come at once: a test that would wait for ever fails instead."""


def together(*works: Callable[[], Any]) -> list[Any]:
    """The results of works that begin at the same moment, each in a thread of its own."""
    start = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        start.wait(WAIT_S)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(WAIT_S) for future in [pool.submit(begin, work) for work in works]]


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_one_codec_serves_many_threads(
    device: Any, testpack: ModelPack, make_photo: Callable[[int, int], Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that use a new codec at once open each graph once, and each gets what it would have got alone."""
    if device == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    alone = Codec("testpack", device=device, threads=1)
    photos = [make_photo(40 + 8 * item, 90 - 9 * item) for item in range(WORKERS)]
    files = [alone.encode(photo, target_bytes=700) for photo in photos]
    pictures = [alone.decode_picture(file).rgb for file in files]
    opened: list[str] = []
    original = Engine.__init__

    def watched(self: Engine, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        opened.append(self.path.name)

    monkeypatch.setattr(Engine, "__init__", watched)
    shared = Codec("testpack", device=device, threads=1)
    assert together(*(lambda photo=photo: shared.encode(photo, target_bytes=700) for photo in photos)) == files
    decoded = together(*(lambda file=file: shared.decode_picture(file).rgb for file in files))
    for picture, expected in zip(decoded, pictures, strict=True):
        np.testing.assert_array_equal(picture, expected)
    assert sorted(opened) == ["decoder.onnx", "encoder.onnx"]


def test_many_are_one_after_another(testpack: ModelPack, make_photo: Callable[[int, int], Pixels]) -> None:
    """encode_many and decode_many give, in order, what encode and decode give; module and codec alike."""
    photos = [make_photo(30 + item, 50) for item in range(7)]
    codec = Codec("testpack", device="cpu", threads=1)
    files = [codec.encode(photo, quality=40) for photo in photos]
    assert list(codec.encode_many(photos, quality=40, workers=3)) == files
    assert list(sdrt.encode_many(iter(photos), sdrt.EncodeOptions(quality=40), model="testpack", device="cpu")) == files
    for many in (codec.decode_many(files, workers=3), sdrt.decode_many(files, device="cpu")):
        images = list(many)
        assert [image.height for image in images] == [30 + item for item in range(7)]
        np.testing.assert_array_equal(np.asarray(images[3]), np.asarray(codec.decode(files[3])))
    assert list(codec.decode_many([])) == []


def test_wrong_options_for_many_are_refused_at_once(testpack: ModelPack) -> None:
    """Before the first picture is taken."""
    codec = Codec("testpack", device="cpu", threads=1)
    for call in (lambda: codec.encode_many([], quality=101), lambda: codec.encode_many([], workers=0)):
        with pytest.raises(sdrt.ArgumentError):
            call()


def test_one_bad_file_does_not_stop_the_others(testpack: ModelPack, photo: Pixels) -> None:
    """Its error comes in its place, and the pictures after it can still be taken."""
    file = sdrt.encode(photo, model="testpack", device="cpu")
    results = Codec(device="cpu", threads=1).decode_many([file, file[:-1], b"", file], workers=2)
    assert next(results).size == (161, 97)
    with pytest.raises(sdrt.CorruptError):
        next(results)
    with pytest.raises(sdrt.NotSdlError):
        next(results)
    assert next(results).size == (161, 97)
    with pytest.raises(StopIteration):
        next(results)


def test_items_are_taken_as_results_are() -> None:
    """At most two items for each worker are ahead of the results taken: an endless supply takes no memory."""
    taken: list[int] = []

    def supply() -> Iterator[int]:
        for item in range(10**9):
            taken.append(item)
            yield item

    results = InOrder(lambda item: item * item, supply(), 2)
    assert taken == []
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(taken) <= 5 + 2 * 2


def test_workers_work_at_the_same_time() -> None:
    """As many functions run at once as there are workers, and the results stay in order."""
    meeting = threading.Barrier(3)

    def meet(item: int) -> int:
        meeting.wait(WAIT_S)
        time.sleep(0.02 * (item == 0))
        return item

    assert list(InOrder(meet, range(6), 3)) == list(range(6))


def test_an_abandoned_iterator_ends_its_threads() -> None:
    """Work that has begun is finished, what waits for a thread is not begun, and no thread is left."""
    begun: list[int] = []
    go_on = threading.Event()
    workers: set[threading.Thread] = set()

    def work(item: int) -> int:
        workers.add(threading.current_thread())
        begun.append(item)
        assert item == 0 or go_on.wait(WAIT_S)
        return item

    results = InOrder(work, range(100), 2)
    assert next(results) == 0
    del results
    go_on.set()
    for worker in list(workers):
        worker.join(WAIT_S)
        assert not worker.is_alive()
    assert len(begun) <= 3, "the one taken, and one for each worker"


# Reading


def test_pictures_are_read_side_by_side(photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads are in the middle of reading at the same time, also where Pillow's limit has to give way."""
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")
    inside = threading.Barrier(2)
    read_metadata = load_module.read_metadata

    def meet(image: Image.Image) -> Any:
        inside.wait(WAIT_S)
        return read_metadata(image)

    monkeypatch.setattr(load_module, "read_metadata", meet)
    for limits in ((10**6, 10**6), (None, 10**6), (None, 10**9)):
        works = [partial(sdrt.load, data.getvalue(), max_pixels=limit) for limit in limits]
        for picture in together(*works):
            np.testing.assert_array_equal(picture.rgb, photo)


def test_the_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """While anybody reads, nobody is warned and Pillow's limit is wide enough; after the last, both are as before."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    warnings.simplefilter("error")
    before = list(warnings.filters)
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(reading(150))
    assert Image.MAX_IMAGE_PIXELS == 100, "Pillow's own limit, which it refuses at twice, is wide enough"
    second.enter_context(reading(10_000))
    assert Image.MAX_IMAGE_PIXELS == 10_000
    second.enter_context(reading(None))
    assert Image.MAX_IMAGE_PIXELS is None
    first.close()
    with pytest.raises(KeyError), second:
        warnings.warn("an error in this test's session, were it heard", stacklevel=1)
        raise KeyError
    assert Image.MAX_IMAGE_PIXELS == 100 and list(warnings.filters) == before


def test_each_reader_keeps_its_own_limit(photo: Pixels) -> None:
    """A reader with a small limit refuses what another one, at the same time, may read."""
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "PNG")
    with reading(None):
        with pytest.raises(sdrt.LimitError):
            sdrt.load(stream.getvalue(), max_pixels=100)
        assert sdrt.load(stream.getvalue(), max_pixels=None).rgb.shape == photo.shape
