"""Laws of runs over many pictures: nothing is lost, nothing is done twice, nothing stops the rest.

Most are about one worker, called as Ray calls it; one run goes through a small cluster of Ray's own.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import sdrt
from sdrt.latents.kohya import read_npz, write_npz
from sdrt.latents.sample import LatentSample
from sdrt.latents.webdataset import Members, TarWriter, read_tar
from sdrt.packs.manifest import ModelPack
from sdrt_batch.__main__ import _parser, _settings
from sdrt_batch.attempts import MAX_ENDS, Attempts
from sdrt_batch.progress import Progress
from sdrt_batch.settings import Settings, with_record
from sdrt_batch.units import Unit, find_units
from sdrt_batch.worker import Actor, Row, Worker

Pixels = NDArray[np.uint8]
ROOT = Path(__file__).parents[1]
JPEG = [".jpg"]


def jpeg(rgb: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def source(testpack: ModelPack, photo: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five pictures in two folders, one of them broken; the working folder is above them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "sub/a", "sub/c")):
        (folder / f"{name}.jpg").write_bytes(jpeg(photo[: 16 * (number + 1), :32]))
    (folder / "sub" / "broken.jpg").write_bytes(jpeg(photo)[:300])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_text("no picture either")
    return folder


def settings(job: str = "encode", again: bool = False, **fields: object) -> Settings:
    known = Settings(job=job, destination="out", model="testpack", device="cpu", **fields)  # type: ignore[arg-type]
    return with_record(known, again=again)


def run(of: Settings, units: list[Unit]) -> list[Row]:
    """The rows of all units, each from a worker of its own, as after a new start."""
    return [row for unit in units for row in Worker(of).do(Unit.from_json(unit.to_json()))]


def statuses(rows: list[Row]) -> Counter[object]:
    return Counter(row["status"] for row in rows)


def files(folder: str = "out") -> dict[str, bytes]:
    """What lies in a folder, without what the run keeps for itself."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in named.items() if not name.startswith("_")}


def test_units_name_what_will_be_written(source: Path, tmp_path: Path) -> None:
    """Names follow the folders below the source or below the first part of a pattern; of two files for one name the
    second is rejected; hidden files are nobody's."""
    (unit,) = find_units([str(source)], JPEG)
    assert unit.keys == ("a", "b", "sub/a", "sub/broken", "sub/c") and not unit.rejected
    (unit,) = find_units([f"{source}/**/a.*"], JPEG)
    assert unit.keys == ("a", "sub/a")
    assert [len(unit.keys) for unit in find_units([str(source)], JPEG, files_a_unit=2)] == [2, 2, 1]
    (source / "b.png").write_bytes(b"")
    (unit,) = find_units([str(source)], [".jpg", ".png"])
    ((path, why),) = unit.rejected
    assert path.endswith("b.png") and "b.jpg is written to the same name" in why
    for nothing in ("gone", f"{source}/*.gif"):
        with pytest.raises(sdrt.MissingFileError):
            find_units([nothing], JPEG)


def test_a_bad_picture_stops_no_other_and_nothing_is_done_twice(source: Path) -> None:
    """Each picture has a row. A second run skips what is whole, makes what is cut short or gone, and tries again what
    failed."""
    units = find_units([str(source)], JPEG, files_a_unit=2)
    rows = run(settings(), units)
    assert statuses(rows) == {"done": 4, "failed": 1}
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert str(failed["source"]).endswith("broken.jpg") and failed["error"] and "\n" not in str(failed["error"])
    done = files()
    assert sorted(done) == ["a.sdl", "b.sdl", "sub/a.sdl", "sub/c.sdl"]
    assert sum(int(row["out_bytes"]) for row in rows) == sum(map(len, done.values()))
    Path("out/a.sdl").write_bytes(done["a.sdl"][:-1])
    Path("out/b.sdl").unlink()
    assert statuses(run(settings(), units)) == {"done": 2, "skipped": 2, "failed": 1}
    assert files() == done


def test_other_settings_are_not_mixed_in(source: Path) -> None:
    """A folder holds the results of one way to make them; with --force all are made anew, also after a break."""
    units = find_units([str(source / "sub")], JPEG)
    run(settings(), units)
    coarse = sdrt.EncodeOptions(quality=5)
    with pytest.raises(sdrt.OutputError, match="holds results of other settings"):
        settings(options=coarse)
    before = files()
    of = settings(again=True, options=coarse)
    assert statuses(run(of, units)) == {"done": 2, "failed": 1}
    assert all(len(data) < len(before[name]) for name, data in files().items())
    assert statuses(run(settings(options=coarse), units)) == {"skipped": 2, "failed": 1}


def write_tar(path: Path, samples: dict[str, Members]) -> None:
    with path.open("wb") as stream:
        writer = TarWriter(stream)
        for key, members in samples.items():
            writer.write(key, members)
        writer.close()


def test_a_tar_becomes_a_tar_whole_or_not_at_all(source: Path, photo: Pixels) -> None:
    """Captions go along, failures are kept beside it and told again by later runs, and a source that is cut short
    leaves nothing under the final name."""
    picture = jpeg(photo[:24, :32])
    write_tar(source / "s.tar", {"1": {"jpg": picture, "txt": b"one"}, "2": {"jpg": b"bad"}, "3": {"txt": b"none"}})
    (source / "cut.tar").write_bytes((source / "s.tar").read_bytes()[:2000])
    units = find_units([str(source / "*.tar")], JPEG)
    of = settings(form="tar")
    rows = run(of, units)
    assert statuses(rows) == {"done": 1, "failed": 3}
    assert sorted(files()) == ["s.tar", "s.tar.errors.json"]
    with Path("out/s.tar").open("rb") as stream:
        ((key, members),) = read_tar(stream, "s.tar")
    assert key == "1" and set(members) == {"sdl", "txt"} and sdrt.decode(members["sdl"], device="cpu").size == (32, 24)
    again = run(of, units)
    assert statuses(again) == {"skipped": 1, "failed": 3}
    assert {row["error"] for row in again} == {row["error"] for row in rows}
    write_tar(source / "cut.tar", {"1": {"jpg": picture}})
    assert statuses(run(of, units)) == {"done": 1, "skipped": 1, "failed": 2}


def test_files_become_shards_and_shards_files(source: Path) -> None:
    """Parts of a folder are made anew when the folder has other pictures; a tar of .sdl files decodes to a folder."""
    of = settings(form="tar")
    assert statuses(run(of, find_units([str(source)], JPEG))) == {"done": 4, "failed": 1}
    assert statuses(run(of, find_units([str(source)], JPEG))) == {"skipped": 4, "failed": 1}
    (source / "d.jpg").write_bytes((source / "a.jpg").read_bytes())
    assert statuses(run(of, find_units([str(source)], JPEG))) == {"done": 5, "failed": 1}
    tars = find_units(["out/*.tar"], [])
    decode = with_record(Settings(job="decode", destination="back", device="cpu"), again=False)
    assert statuses(run(decode, tars)) == {"done": 5}
    assert sorted(files("back")) == [f"part-000000/{key}.png" for key in ("a", "b", "d", "sub/a", "sub/c")]
    assert statuses(run(decode, tars)) == {"skipped": 5}


def test_decoded_pictures_state_that_they_are_synthetic(source: Path) -> None:
    """As those of ``sdrt decode``: the mark is in their XMP."""
    run(settings(), find_units([str(source / "a.jpg")], JPEG))
    decode = with_record(Settings(job="decode", destination="back", device="cpu"), again=False)
    assert statuses(run(decode, find_units(["out"], [".sdl"]))) == {"done": 1}
    assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in files("back")["a.png"]


def test_parquet_goes_in_and_out(source: Path, photo: Pixels) -> None:
    """A unit is a row group; columns of bytes and of the datasets library's structs are read; keys are kept."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pictures = [jpeg(photo[:16, :32]), jpeg(photo[:24, :32]), b"bad"]
    plain = pyarrow.table({"id": ["x", "y", "z"], "bytes": pictures})
    structs = pyarrow.table({"image": [{"bytes": data, "path": None} for data in pictures]})
    parquet.write_table(plain, source / "plain.parquet", row_group_size=2)
    parquet.write_table(structs, source / "structs.parquet")
    units = find_units([str(source / "*.parquet")], JPEG)
    assert [unit.name for unit in units] == ["plain-00000", "plain-00001", "structs-00000"]
    of = settings(form="parquet")
    assert statuses(run(of, units)) == {"done": 4, "failed": 2}
    table = parquet.read_table("out/plain-00000.parquet").to_pydict()
    assert table["key"] == ["x", "y"] and sdrt.decode(table["sdl"][1], device="cpu").size == (32, 24)
    assert statuses(run(of, units)) == {"skipped": 4, "failed": 2}
    decode = with_record(Settings(job="decode", destination="back", device="cpu"), again=False)
    assert statuses(run(decode, find_units(["out/structs*.parquet"], []))) == {"done": 2}
    assert sorted(files("back")) == ["structs-00000-00000/00000000.png", "structs-00000-00000/00000001.png"]
    wrong = settings(again=True, form="parquet", picture_column="nothing")
    (row, *_) = run(wrong, units[:1])
    assert row["status"] == "failed" and "has no column nothing, only id, bytes" in str(row["error"])


@pytest.mark.parametrize("form", ["files", "tar"])
def test_two_pictures_of_one_key_are_not_taken_for_one(form: str, source: Path, photo: Pixels) -> None:
    """The first has its result, the second an error, in every run: none is called done that is nowhere."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = [jpeg(photo[:16, : 16 * width]) for width in (1, 2, 3)]
    parquet.write_table(pyarrow.table({"id": ["a", "b", "a"], "bytes": pictures}), source / "k.parquet")
    of, units = settings(form=form), find_units([str(source / "k.parquet")], [])
    assert [row["status"] for row in run(of, units)] == ["done", "done", "failed"]
    kept = files()
    assert statuses(run(of, units)) == {"skipped": 2, "failed": 1} and files() == kept
    if form == "tar":
        found = {key: members["sdl"] for key, members in read_tar(io.BytesIO(kept["k-00000.tar"]), "k")}
    else:
        found = {Path(name).stem: data for name, data in kept.items()}
    assert {key: sdrt.info(data).width_px for key, data in found.items()} == {"a": 16, "b": 32}


def test_a_name_with_a_dot_does_not_go_into_a_tar(source: Path) -> None:
    """Readers of a tar end a key at its first dot: they would not find the picture. The others go in."""
    (source / "v1.a.jpg").write_bytes((source / "a.jpg").read_bytes())
    of, units = settings(form="tar"), find_units([str(source)], JPEG)
    rows = run(of, units)
    (failed,) = (row for row in rows if row["key"] == "v1.a")
    assert statuses(rows) == {"done": 4, "failed": 2} and "end it at the first dot" in str(failed["error"])
    assert statuses(run(of, units)) == {"skipped": 4, "failed": 2}
    assert statuses(run(settings(again=True), units)) == {"done": 5, "failed": 1}


def test_two_shards_of_one_name_are_refused_before_the_work(source: Path, photo: Pixels) -> None:
    """Of two folders: the second would be taken for the first, done already. So would a tar that is called as the
    pictures beside it will be."""
    for folder, name in (("one", "x"), ("two", "x"), ("in", "part-000000")):
        Path(folder).mkdir(exist_ok=True)
        write_tar(Path(folder, f"{name}.tar"), {"k": {"jpg": jpeg(photo[:16, :16])}})
    for sources in (["one", "two"], ["in"]):
        with pytest.raises(sdrt.OutputError, match="would both be written"):
            find_units(sources, JPEG)
    assert len(find_units(["one/x.tar", "in/a.jpg"], JPEG)) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8")
@pytest.mark.parametrize("form", ["files", "tar"])
def test_names_that_are_no_text_stop_no_other(form: str, source: Path, photo: Pixels) -> None:
    """A picture of such a name has a row with its error, a tar of such a name too."""
    Path(os.fsdecode(b"in/\xff.jpg")).write_bytes(jpeg(photo[:16, :16]))
    write_tar(Path(os.fsdecode(b"in/\xff.tar")), {"k": {"jpg": jpeg(photo[:16, :16])}})
    rows = run(settings(form=form), find_units(["in"], JPEG))
    assert statuses(rows) == {"done": 4, "failed": 3}
    assert not any("unexpected" in str(row["error"]) for row in rows)


def test_latents_go_both_ways(source: Path) -> None:
    """A trainer's caches become .sdl files with what belongs to them, and these become caches."""
    latents = np.random.default_rng(0).normal(size=(12, 4, 6)).astype(np.float32)
    sample = LatentSample("x", latents, latents[:, :, ::-1].copy(), None, (99, 77), (1, 2, 3, 4))
    (source / "x.npz").write_bytes(write_npz(sample, (48, 32)))
    error = sdrt.EncodeOptions(latent_error=0.02)
    of = settings("latents", latent_form="sdl", options=error)
    units = find_units([str(source)], [".npz", ".sdl"])
    assert statuses(run(of, units)) == {"done": 1} and statuses(run(of, units)) == {"skipped": 1}
    assert sorted(files()) == ["x.flipped.sdl", "x.latent.json", "x.sdl"]
    back = with_record(Settings(job="latents", destination="back", model="testpack"), again=False)
    units = find_units(["out"], [".npz", ".sdl"])
    assert [unit.keys for unit in units] == [("x",)]
    assert statuses(run(back, units)) == {"done": 1}
    (read,) = read_npz(files("back")["x.npz"], "x")
    assert (read.original_size, read.crop_ltrb) == ((99, 77), (1, 2, 3, 4))
    assert np.abs(read.latents - latents).max() < 0.1 and read.flipped is not None


@pytest.mark.parametrize("form", ["files", "tar", "parquet"])
def test_latents_of_several_grids_are_not_made_again(form: str, source: Path) -> None:
    """One cache gives a result for each grid, under a key of its own: it is done when all are there and whole, and made
    anew when one is gone. A cache that has one grid by now has no second result to wait for."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    random = np.random.default_rng(0)
    grids = {f"latents_{h}x{w}": random.normal(size=(12, h, w)).astype(np.float32) for h, w in ((4, 6), (6, 4))}
    np.savez(source / "x.npz", **grids)  # type: ignore[arg-type]
    of = settings("latents", form=form, latent_form="sdl", options=sdrt.EncodeOptions(latent_error=0.02))
    units = find_units([str(source)], [".npz"])
    (done,) = run(of, units)
    (again,) = run(of, units)
    assert (done["status"], again["status"]) == ("done", "skipped") and done["out_bytes"] == again["out_bytes"]
    if form != "files":
        return
    made = files()
    assert sorted(made) == ["x.keys.json", "x_4x6.sdl", "x_6x4.sdl"]
    Path("out/x_4x6.sdl").unlink()
    assert statuses(run(of, units)) == {"done": 1} and files() == made
    Path("out/x_4x6.sdl").unlink()
    np.savez(source / "x.npz", latents=grids["latents_6x4"])
    assert statuses(run(of, units)) == {"done": 1} and statuses(run(of, units)) == {"skipped": 1}


def test_a_zip_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers stand in another folder. What a zip is does not depend on the case of its suffix."""
    monkeypatch.chdir(tmp_path)
    for name in ("pack.zip", "PACK.ZIP"):
        arguments = _parser().parse_args(["encode", "in", "--out", "out", "--model", name])
        assert _settings(arguments, [Unit("a", "files", ())]).model == str(tmp_path / name)


@pytest.mark.parametrize("key", ["../x", "/x", "a/../../x", "a\\b", "a\nb", ""])
def test_no_key_leads_out_of_the_folder(source: Path, photo: Pixels, key: str) -> None:
    """A name in somebody's tar is no path of ours."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"key": [key], "bytes": [jpeg(photo[:16, :16])]}), source / "k.parquet")
    (row,) = run(settings(), find_units([str(source / "k.parquet")], []))
    assert (row["status"], files()) == ("failed", {}) and "is not a valid file name" in str(row["error"])
    assert not list(source.parent.rglob("*.sdl"))


def test_a_picture_that_ends_the_process_is_given_up(source: Path) -> None:
    """Ray starts an ended worker anew for ever; what it was at MAX_ENDS times when it ended is told as an error, and
    the others of its unit are done."""
    (unit,) = find_units([str(source)], JPEG)
    of = settings()
    for _ in range(MAX_ENDS):
        attempts = Attempts(of.destination, unit.name)
        assert attempts.begin("a") and attempts.begin("b")
        del attempts  # as an ended process leaves it
    rows = run(of, [unit])
    assert statuses(rows) == {"done": 3, "failed": 2}
    (given_up,) = (row for row in rows if row["key"] == "b")
    assert f"the worker's process ended {MAX_ENDS} times at this picture" in str(given_up["error"])
    assert not list(Path("out/_attempts").iterdir())


def test_a_worker_that_can_do_nothing_says_so_at_once(source: Path) -> None:
    """No pack: an error of the run, not of a million pictures."""
    with pytest.raises(sdrt.ModelError):
        with_record(Settings(job="encode", destination="out", model="nowhere"), again=False)
    nowhere = Settings(job="encode", destination="out", model="nowhere")
    with pytest.raises(sdrt.ModelError):
        Worker(nowhere)
    (unit,) = find_units([str(source)], JPEG)
    columns = Actor(nowhere)({"unit": np.array([unit.to_json()], object)})
    assert list(columns["status"]) == ["refused"] and "nowhere" in columns["error"][0]


COMMAND = [sys.executable, "-m", "sdrt_batch"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ("runtime", "batch")),
    "SDRT_MODELS": str(ROOT / "tests" / "data"),
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # Ray's workers stand back behind all others, here behind other tests
}
ENCODE = ["encode", "in", "--out", "out", "--model", "testpack", "--device", "cpu", "--workers", "1"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [*COMMAND, *arguments]
    return subprocess.run(whole, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)


def test_the_command_runs_on_a_cluster_of_its_own(source: Path) -> None:
    """A small Ray cluster is started and gone at the end; pictures, table and summary are there, with an exit code that
    says that one failed. Nothing is reported to anybody."""
    pytest.importorskip("ray", reason="needs Ray Data: pip install 'sdrt[batch]'")
    done = command(*ENCODE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("4 done, 0 there already, 1 failed; ")
    last = done.stderr.splitlines()[-1]
    assert last == "sdrt_batch: 1 failed, see out/_errors.csv" and "ray" not in done.stderr.lower()
    assert sorted(files()) == ["a.sdl", "b.sdl", "sub/a.sdl", "sub/c.sdl"]
    with Path("out/_errors.csv").open(newline="") as table:
        (row,) = csv.DictReader(table)
    assert row["key"] == "sub/broken"
    summary = json.loads(Path("out/_summary.json").read_text())
    assert summary["done"] == 4 and summary["saved_bytes"] == summary["in_bytes"] - summary["out_bytes"]
    assert not Path("out/_attempts").exists()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_wrong_usage_is_one_line(source: Path) -> None:
    """Before any cluster is started."""
    pytest.importorskip("ray", reason="needs Ray Data: pip install 'sdrt[batch]'")
    for arguments in (["encode", "gone", "--out", "out"], [*ENCODE, "-q", "101"], [*ENCODE[:-4], "--model", "nowhere"]):
        done = command(*arguments)
        assert done.returncode not in (0, 1) and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("sdrt_batch: ")


@pytest.fixture
def many(source: Path, make_photo: Callable[[int, int], Pixels]) -> int:
    """160 pictures, ten units, in place of the five."""
    data = jpeg(make_photo(128, 128))
    for path in source.rglob("*.jpg"):
        path.unlink()
    for number in range(160):
        (source / f"{number:03}.jpg").write_bytes(data)
    return 160


def descendants(process: int) -> Iterator[int]:
    """Every process under ``process``, on Linux."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == process:
            yield int(stat.parent.name)
            yield from descendants(int(stat.parent.name))


def wait_for(count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many results are there."""
    limit_s = time.monotonic() + 240
    while len(list(Path("out").glob("*.sdl"))) < count:
        assert process.poll() is None and time.monotonic() < limit_s
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_worker_is_started_anew(many: int) -> None:
    """Its unit is done by the next one; no picture is lost and none fails."""
    pytest.importorskip("ray", reason="needs Ray Data: pip install 'sdrt[batch]'")
    process = subprocess.Popen([*COMMAND, *ENCODE], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_for(10, process)
    workers = [of for of in descendants(process.pid) if b"MapWorker" in Path(f"/proc/{of}/cmdline").read_bytes()]
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert process.wait(300) == 0
    assert len(files()) == many
    assert process.stdout is not None and b" 0 failed" in process.stdout.read()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_run_goes_on(many: int) -> None:
    """What has a name is whole when the driver is killed; the same command skips it and makes the rest."""
    pytest.importorskip("ray", reason="needs Ray Data: pip install 'sdrt[batch]'")
    process = subprocess.Popen(
        [*COMMAND, *ENCODE], env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    wait_for(10, process)
    under = list(descendants(process.pid))
    process.kill()
    process.wait()
    limit_s = time.monotonic() + 60
    while any(Path(f"/proc/{of}/exe").exists() for of in under) and time.monotonic() < limit_s:
        time.sleep(0.1)
    before = files()
    for data in before.values():
        sdrt.info(data)
    assert 10 <= len(before) < many
    done = command(*ENCODE)
    assert done.returncode == 0, done.stderr
    assert f"{len(before):,} there already, 0 failed" in done.stdout
    assert len(files()) == many and {name: files()[name] for name in before} == before


def test_progress_counts_from_the_first_picture() -> None:
    """The time that workers take to start says nothing about the time that is left."""
    now_s = [0.0]
    stream = io.StringIO()
    progress = Progress(1000, stream=stream, clock=lambda: now_s[0])
    for second, pictures in ((50, 1), (100, 101), (110, 121)):
        now_s[0] = second
        progress.reach(pictures, 1)
    assert stream.getvalue().splitlines() == [
        "1 of 1,000 pictures, 1 failed, 0.0 a second",
        "101 of 1,000 pictures, 1 failed, 2.0 a second, about 7 min left",
    ]
