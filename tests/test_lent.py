"""Laws of training on a lent machine: what is carried fits and is whole, there and back."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch", reason="the training stage needs torch")

from sdrt_metrics import weights  # noqa: E402 (after importorskip, on purpose)
from sdrt_metrics.perceptual import Dists, Lpips  # noqa: E402
from sdrt_train import lent  # noqa: E402
from sdrt_train.data import list_photos, to_tensor  # noqa: E402
from sdrt_train.drawings import FONTS_VARIABLE  # noqa: E402
from sdrt_train.model import read_checkpoint  # noqa: E402
from sdrt_train.recipe import read_recipe  # noqa: E402
from sdrt_train.trainer import Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

Pixels = NDArray[np.uint8]
RECIPE = """
[model]
latent_channels = 8
encoder_widths = [8, 12, 16]
encoder_blocks = [1, 1, 1]
decoder_widths = [16, 12, 8]
decoder_blocks = [1, 1, 1]
[data]
drawn = 1.0
[[stages]]
steps = 2
batch = 2
crop_px = 64
"""


def write_photos(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (36, 40, 3), dtype=np.uint8))
        coarse.resize((320, 288), Image.Resampling.BICUBIC).save(folder / f"photo-{i:02}.webp", quality=90)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def start(tmp_path: Path, recipe: Path) -> Path:
    """A checkpoint of the recipe's model, at its first step."""
    Trainer(read_recipe(recipe)[0], torch.device("cpu")).save(tmp_path / "first.pt")
    return tmp_path / "first.pt"


@pytest.fixture
def small_parcels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few numbers in place of the metrics' weights, no fonts, parts of 20,000 bytes."""
    random = np.random.default_rng(1)
    names = ("alexnet/AlexNet_0/Conv_0/kernel", "vgg16/VGG16_0/Conv_0/kernel", "dists/alpha", "dists/beta")
    np.savez(tmp_path / "few.npz", **{name: random.normal(size=(3, 3, 2, 4)).astype(np.float32) for name in names})
    monkeypatch.setenv(weights.CARRIED_VARIABLE, str(tmp_path / "few.npz"))
    monkeypatch.setenv(FONTS_VARIABLE, str(tmp_path / "no fonts"))
    monkeypatch.setattr(lent, "PART_BYTES", 20_000)


@pytest.mark.usefixtures("small_parcels")
def test_weights_go_there_learn_and_come_back(tmp_path: Path, recipe: Path, start: Path) -> None:
    """pack, unpack, train, join: each folder keeps its limit, photographs stay on their side of the validation, the
    time limit ends a run, a second call resumes it, and what comes back are the averages in fp16."""
    write_photos(tmp_path / "photos", 40)
    limit = 30_000 + len(lent.averages(start))
    folders = lent.pack(tmp_path / "photos", start, tmp_path / "out", limit)
    assert len(folders) > 2 and all(bytes_in(folder) <= limit for folder in folders)
    assert all(list((folder / "photos").iterdir()) for folder in folders)
    work, back = tmp_path / "work", tmp_path / "back"
    for folder in folders:
        lent.unpack(folder, work)
    sides = zip(list_photos(tmp_path / "photos"), list_photos(work / "photos"), strict=True)
    for packed, unpacked in sides:
        assert sorted(p.read_bytes() for p in packed) == sorted(p.read_bytes() for p in unpacked)
    assert {p.parent for p in (tmp_path / "out").glob("*/photos/*0.webp")} == {folders[0] / "photos"}

    lent.train(recipe, work, back, seconds=0)
    lent.join(back, tmp_path / "joined.pt")
    before, state = read_checkpoint(tmp_path / "joined.pt")
    first, _ = read_checkpoint(start)
    assert state["step"] == 0
    assert all(torch.equal(b, a.half()) for a, b in zip(first.parameters(), before.half().parameters(), strict=True))
    lent.train(recipe, work, back)
    assert len(list(back.glob("average.?"))) > 2
    assert all(path.stat().st_size <= 20_000 for path in back.glob("average.?"))
    lent.join(back, tmp_path / "joined.pt")
    _, joined = read_checkpoint(tmp_path / "joined.pt")
    _, trained = read_checkpoint(work / "run" / "checkpoint.pt")
    assert joined["step"] == 2 and "resumed at step 0" in (back / "log.txt").read_text()
    assert "psnr" in (back / "validation.csv").read_text()
    for name in ("average", "average_rate"):
        assert all(torch.equal(value, trained[name][key].half()) for key, value in joined[name].items())
    assert any(not torch.equal(trained["average"][key], value) for key, value in state["average"].items())


def test_every_photograph_is_dealt_once(tmp_path: Path) -> None:
    """Each goes to one call; first and last are filled before others are added, and none is above the limit."""
    sizes = [*range(100, 140), 600]
    photos = [tmp_path / str(number) for number in range(len(sizes))]
    for path, size in zip(photos, sizes, strict=True):
        path.write_bytes(bytes(size))
    calls = lent.deal(photos, 300, 700, 1000)
    assert sorted(path for call in calls for path in call) == sorted(photos)
    loads = [sum(path.stat().st_size for path in call) for call in calls]
    assert loads[0] <= 700 and loads[-1] <= 300 and max(loads) <= 1000 and len(calls) > 3
    assert len(lent.deal(photos[:3], 300, 600, 1000)) == 2
    with pytest.raises(ValueError, match=r"40 \(600 bytes\) does not fit into a call of 599"):
        lent.deal(photos, 0, 0, 599)
    with pytest.raises(ValueError, match="700 bytes must go into one call of 699"):
        lent.deal(photos, 300, 700, 699)


def drop(folder: Path) -> None:
    (folder / "average.1").unlink()


def change(folder: Path) -> None:
    data = bytearray((folder / "average.1").read_bytes())
    data[7] ^= 1
    (folder / "average.1").write_bytes(data)


def shorten(folder: Path) -> None:
    (folder / "average.2").write_bytes((folder / "average.2").read_bytes()[:-1])


def forget(folder: Path) -> None:
    lines = (folder / "average.sha256").read_text().splitlines()
    (folder / "average.sha256").write_text("\n".join(lines[:-1]))


@pytest.mark.usefixtures("small_parcels")
@pytest.mark.parametrize(
    ("harm", "words"),
    [(drop, "average.1"), (change, "average.1"), (shorten, "average.2"), (forget, "does not list all parts")],
)
def test_parts_that_are_not_whole_are_refused(
    harm: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names what is missing or changed, and the weights from before stay."""
    lent.write_parts(np.random.default_rng(2).bytes(50_000), tmp_path)
    harm(tmp_path)  # type: ignore[operator]
    (tmp_path / "wide.pt").write_bytes(b"before")
    monkeypatch.setattr(sys, "argv", ["lent", "join", str(tmp_path), "--out", str(tmp_path / "wide.pt")])
    assert lent.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and (tmp_path / "wide.pt").read_bytes() == b"before"


def test_nothing_is_trained_without_the_starting_weights(tmp_path: Path, recipe: Path) -> None:
    """A machine that was not brought the last folder does not begin from nothing."""
    with pytest.raises(ValueError, match=r"neither start\.pt nor a checkpoint"):
        lent.train(recipe, tmp_path / "work", tmp_path / "back")


@pytest.mark.usefixtures("small_parcels")
def test_a_signal_ends_a_run_with_its_weights_written(tmp_path: Path, recipe: Path, start: Path) -> None:
    """SIGTERM loses nothing; and what the runtime needs beside torch, numpy and Pillow is not missed."""
    write_photos(tmp_path / "photos", 9)
    for folder in lent.pack(tmp_path / "photos", start, tmp_path / "out", 1_000_000):
        lent.unpack(folder, tmp_path / "work")
    recipe.write_text(RECIPE.replace("steps = 2", "steps = 1_000_000"))
    absent = ["constriction", "onnx", "onnxruntime", "openvino", "safetensors", "diffusers", "cv2", "matplotlib"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from sdrt_train.lent import main; exit(main())"
    arguments = ["train", str(recipe), str(tmp_path / "work"), "--out", str(tmp_path / "back")]
    command = [sys.executable, "-c", code, *arguments]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and "photographs" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    lent.join(tmp_path / "back", tmp_path / "joined.pt")
    _, state = read_checkpoint(tmp_path / "joined.pt")
    assert state["step"] < 1_000_000


def tensor(image: Image.Image) -> torch.Tensor:
    return to_tensor(np.array(image.convert("RGB"))[None])


def test_carried_metrics_measure_as_the_packages_do(
    photo: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kernels in int8 LPIPS and DISTS differ by less than 2 % from those with float kernels."""
    try:
        data = weights.carried_weights()
    except weights.MetricWeightsError as error:
        pytest.skip(str(error))
    assert len(data) < 18_000_000
    (tmp_path / "metrics.npz").write_bytes(data)
    coded = io.BytesIO()
    Image.fromarray(photo).save(coded, "JPEG", quality=20)
    pair = tensor(Image.open(coded)), tensor(Image.fromarray(photo))

    def measured() -> list[float]:
        lpips = [float(Lpips(name)(*pair)) for name in ("alexnet", "vgg16")]
        return [*lpips, float(Dists()(*((each + 1) / 2 for each in pair)))]

    with torch.inference_mode():
        exact = measured()
        monkeypatch.setenv(weights.CARRIED_VARIABLE, str(tmp_path / "metrics.npz"))
        assert measured() == pytest.approx(exact, rel=0.02)
        assert measured() != exact


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4 no archive", b"no archive"])
def test_a_file_that_holds_no_weights_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where SDRT_METRIC_WEIGHTS names what cannot be read, no package stands in for it."""
    if content is not None:
        (tmp_path / "metrics.npz").write_bytes(content)
    monkeypatch.setenv(weights.CARRIED_VARIABLE, str(tmp_path / "metrics.npz"))
    with pytest.raises(weights.MetricWeightsError, match=r"metrics\.npz', which cannot be read"):
        weights.backbone_weights("alexnet")
