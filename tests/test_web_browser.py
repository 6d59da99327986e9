"""The browser's decoder (web/) in a real headless Chromium: pixels, refusals, the element, and what leaves the page."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests import testpack
from tests.conftest import synthetic_photo
from tests.make_conformance import CASES, FOLDER
from tests.make_container_golden import bad_files
from tests.test_diseases import DISEASES
from tests.test_web import GOLDEN, ILL_AV1, ILL_SDL, TESTS, TINY, case, golden_files, sha256
from tests.web import WEB, Answer, find_node, in_browser, served, under_node

from sdrt.codec import Codec
from sdrt.command.ship import ship
from sdrt.container import sdl
from sdrt.container.alpha import encode_alpha
from sdrt.container.patches import Coding, Patches, cells, encode_patches, kept_lines
from sdrt.packs.search import load_pack
from sdrt.pixels.atlas import encode_av1, encode_vp8l

TILE_PX = 64
"""So small that a picture of 1 x 999 pixels takes three tiles of a pack that has no halo."""

ZIPS = ("/own/deflated.zip", "/own/cut.zip")

ELEMENT = """
<script type="module" src="/sdl/sdl.js"></script>
<p>above</p><sdl-img src="/golden/codec/161x97-high.sdl" pack="/packs/testpack/" alt="a test"></sdl-img>
<p id="below">below</p>
<sdl-img src="/golden/errors/checksum-wrong.sdl" pack="/packs/testpack/" id="ill"></sdl-img>
"""
ELEMENT_SCRIPT = """
const image = document.querySelector("sdl-img");
const settled = (element) => element.complete || new Promise((done) => { element.onload = element.onerror = done;
  element.addEventListener("load", done); element.addEventListener("error", done); });
const tops = [];
const known = new Promise((done) => { const look = () => image.naturalWidth
  ? (tops.push(below.getBoundingClientRect().top), done()) : requestAnimationFrame(look); look(); });
await known;
const early = image.complete;
await settled(image);
tops.push(below.getBoundingClientRect().top);
const text = () => ill.shadowRoot.querySelector("[role=alert]")?.textContent;
while (!text()) await new Promise((done) => setTimeout(done, 20));
const box = image.getBoundingClientRect();
return { early, tops, size: [image.naturalWidth, image.naturalHeight, box.width, box.height], error: text() };
"""
UPGRADE = """
<img src="/golden/codec/161x97-low.sdl" data-pack="/packs/testpack/" id="good" alt="good">
<img src="/golden/errors/truncated-payload.sdl" data-pack="/packs/testpack/" id="ill" alt="ill">
<img src="/golden/codec/161x97-high.sdl" data-pack="/packs/testpack/" id="changed">
<script type="module" src="/sdl/sdl.js"></script>
"""
UPGRADE_SCRIPT = """
const until = async (isSo) => { while (!isSo()) await new Promise((done) => setTimeout(done, 5)); };
const other = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
await until(() => changed.src.startsWith("data:"));
changed.src = other; // while it is decoded
await until(() => good.src.startsWith("blob:") && ill.title);
await good.decode();
const { decode } = await import("/sdl/sdl.js");
await decode("/golden/codec/1x1.sdl", { pack: "/packs/testpack/" }); // the worker takes one after another
await new Promise((done) => setTimeout(done, 100));
const kept = changed.src === other;
changed.src = "/golden/codec/161x97-high.sdl";
await until(() => changed.src.startsWith("blob:"));
return { size: [good.naturalWidth, good.naturalHeight], alt: ill.alt, kept };
"""


THREADS_SCRIPT = """
const { decode } = await import("/sdl/sdl.js");
await decode("/golden/codec/1x1.sdl", { pack: "/packs/testpack/" });
return { isolated: crossOriginIsolated, threads: Math.min(navigator.hardwareConcurrency, 8) };
"""
ENCODE_SCRIPT = """
const { encode } = await import("/sdl/sdl.js");
const ticks = [];
const timer = setInterval(() => ticks.push(performance.now()), 5);
const base64 = async ({ file }) => btoa(String.fromCharCode(...new Uint8Array(await file.arrayBuffer())));
const png = async (name) => (await fetch(`/own/${name}.png`)).blob();
const asked = async (...given) => encode(...given).then(base64, ({ name }) => name);
const answer = {
  photo: await asked(await png("photo"), { pack: "/encoder.zip", quality: 70 }),
  alpha: await asked(await png("alpha"), { pack: "/packs/testpack/", quality: 90 }),
  whole: await asked(await png("photo"), { pack: "/packs/testpack/" }),
  tiled: await asked(await png("photo"), { pack: "/packs/testpack/", tilePx: 32 }),
  told: await asked(await png("photo"), { pack: "/own/told/", quality: 30 }),
  edge: await asked(new ImageData(1, 1), { pack: "/packs/testpack/", quality: 0 }),
  quality: await asked(new ImageData(1, 1), { pack: "/packs/testpack/", quality: 101 }),
  decoderOnly: await asked(new ImageData(1, 1), { pack: "/sdl/pack.zip" }),
  text: await asked(new Blob(["no picture"]), { pack: "/packs/testpack/" }),
};
clearInterval(timer);
return { ...answer, ticks: ticks.length };
"""
DROP_SCRIPT = """
const photograph = new File([await (await fetch("/own/photo.png")).blob()], "photo.png", { type: "image/png" });
const dropped = new DataTransfer();
dropped.items.add(photograph);
chooser.files = dropped.files;
chooser.dispatchEvent(new Event("change"));
while (flip.disabled) await new Promise((done) => setTimeout(done, 20));
flip.click();
return { facts: facts.textContent, shown: [original.hidden, picture.hidden], note: note.textContent };
"""
NO_AVIF_SCRIPT = """
const { unpack } = await import("/source/container.js");
const { Overlay } = await import("/source/overlay.js");
const file = unpack(new Uint8Array(await (await fetch("/golden/codec/161x97-patches.sdl")).arrayBuffer()));
window.createImageBitmap = async () => { throw new DOMException("no", "InvalidStateError"); };
return Overlay.of(file).then(() => "no error", ({ name, message }) => `${name}: ${message}`);
"""


def golden_cases() -> list[dict[str, Any]]:
    cases = [{"pack": "/packs/testpack/", "url": f"/golden/codec/{name}"} for name in golden_files()]
    wide = [name for name, case in CASES.items() if case.pack == "wide"]
    return cases + [{"pack": "/conformance/wide/", "url": f"/conformance/wide/{name}.sdl"} for name in wide]


def with_alpha() -> Image.Image:
    """A picture (150, 131), transparent in one place, where it is black, and half so in another."""
    rgb, alpha = synthetic_photo(150, 131).copy(), np.full((150, 131), 255, np.uint8)
    alpha[20:90, 30:60], alpha[100:, 64:] = 0, 77
    rgb[alpha == 0] = 0  # as browsers have it
    return Image.fromarray(np.dstack([rgb, alpha]))


def patched_files(plain: sdl.SdlFile) -> dict[str, bytes]:
    """``plain`` under patches: of either coding, over a few cells, over many, at a half of their sides, over all."""
    sides = plain.height_px, plain.width_px
    rgb, rng, files = synthetic_photo(*sides), np.random.default_rng(3), dict[str, bytes]()
    for name, share, feather_px, subsampling in (
        ("few", 0.1, 8, "4:2:0"),
        ("many", 0.8, 2, "4:4:4"),
        ("exact", 0.5, 4, None),
        ("halved", 0.3, 0, None),
        ("all", 1, 0, "4:2:0"),
    ):
        mask = rng.random(cells(*sides)) < share
        rows, columns = kept_lines(mask, *sides)
        atlas = rgb[np.ix_(rows, columns)]
        stored = atlas[::2, ::2] if name == "halved" else atlas
        coding: Coding = "av1" if subsampling else "vp8l"
        stream = encode_av1(stored, 60, speed=9, subsampling=subsampling) if subsampling else encode_vp8l(stored)
        patches = encode_patches(Patches(mask, feather_px, coding, stream, name == "halved"))
        chunks = (sdl.Chunk(sdl.ALPHA, b"\x00\x80"), sdl.Chunk(sdl.PATCHES, patches))
        files[name] = sdl.pack(replace(plain, chunks=chunks[name != "many" :]))
    return files


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that is asked of one browser."""
    folder = tmp_path_factory.mktemp("web")
    testpack.write(folder / "everywhere", halo=None)
    testpack.write(folder / "told", quality_input=True, distribution=True)
    with Image.open(TESTS.parent / "bench" / "photos" / "astronaut.webp") as image:
        photo = image.convert("RGB").crop((90, 40, 90 + 203, 40 + 155))
    photo.save(folder / "photo.png")
    with_alpha().save(folder / "alpha.png")
    (folder / "photo.sdl").write_bytes(Codec(TINY, device="cpu", threads=1).encode(photo, quality=70, protect="none"))
    plain = sdl.unpack((GOLDEN / "161x97-high.sdl").read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (97, 161)).astype(np.uint8)
    chunk = sdl.Chunk(sdl.ALPHA, encode_alpha(noise, max_error=0))
    (folder / "noise.sdl").write_bytes(sdl.pack(replace(plain, chunks=(chunk,))))
    archive = folder / "deflated.zip"
    ship(load_pack(testpack.FOLDER), archive, decoder_only=True)
    (folder / "cut.zip").write_bytes(archive.read_bytes()[:-100])
    for name, file in patched_files(plain).items():
        (folder / f"{name}.sdl").write_bytes(file)
    ill = [{"pack": "/packs/testpack/", "url": f"/golden/errors/{name}.sdl"} for name in bad_files()]
    ill += [{"pack": "/packs/testpack/", "url": f"/diseases/{name}"} for name in ILL_SDL]
    tiled = [
        {"pack": "/conformance/wide/", "url": "/conformance/wide/wide-map.sdl", "tilePx": 32},
        {"pack": "/own/everywhere/", "url": "/golden/codec/1x999.sdl", "tilePx": TILE_PX},
        {"pack": "/packs/testpack/", "url": "/own/noise.sdl"},
        *({"pack": "/packs/testpack/", "url": f"/own/{name}.sdl"} for name in patched_files(plain)),
        {"url": "/own/photo.sdl"},
        {"pack": "/golden/", "url": "/own/photo.sdl"},
        {"pack": "/packs/testpack/", "url": "/own/absent.sdl"},
        *({"pack": pack, "url": "/golden/codec/161x97-high.sdl", "tilePx": 2**12} for pack in ZIPS),
    ]
    return {
        "pack": str(TINY),
        "folders": {
            "packs": str(TESTS / "data"),
            "golden": str(TESTS / "golden"),
            "conformance": str(FOLDER),
            "diseases": str(DISEASES),
            "own": str(folder),
            "source": str(WEB / "sdl"),
        },
        "cases": golden_cases() + ill + tiled,
        "pages": [
            {"html": ELEMENT, "script": ELEMENT_SCRIPT},
            {"html": UPGRADE, "script": UPGRADE_SCRIPT},
            {"html": "", "script": THREADS_SCRIPT, "isolated": True},
            {"html": "", "script": NO_AVIF_SCRIPT},
            {"html": "", "script": ENCODE_SCRIPT},
            {"path": "/index.html", "script": DROP_SCRIPT},
        ],
    }


@pytest.fixture(scope="module")
def browser(job: dict[str, Any]) -> Answer:
    return in_browser(job)


@pytest.fixture(scope="module")
def by_url(job: dict[str, Any], browser: Answer) -> dict[tuple[str, int | None], Answer]:
    keys = [(case["url"], case.get("tilePx")) for case in job["cases"]]
    return dict(zip(keys, browser["cases"], strict=True))


@pytest.fixture(scope="module")
def by_pack(job: dict[str, Any], browser: Answer) -> dict[str, Answer]:
    return {case.get("pack", ""): answer for case, answer in zip(job["cases"], browser["cases"], strict=True)}


ByUrl = dict[tuple[str, int | None], Answer]


def pixels(answer: Answer, channels: int) -> NDArray[np.int16]:
    assert "error" not in answer, answer
    rgba = np.frombuffer(base64.b64decode(answer["rgba"]), np.uint8).reshape(*answer["size"], 4)
    assert channels == 4 or (rgba[:, :, 3] == 255).all()
    return rgba[:, :, :channels].astype(np.int16)


def near(answer: Answer, wanted: Image.Image) -> None:
    """Within two levels; alpha exact."""
    reference = np.asarray(wanted, np.int16)
    found = pixels(answer, reference.shape[2])
    assert found.shape == reference.shape
    assert np.abs(found - reference).max() <= 2
    assert (found[:, :, 3:] == reference[:, :, 3:]).all()


def test_every_golden_picture(by_url: ByUrl) -> None:
    """Alpha, a step map, a smaller coded picture, a pack that is told the quality level: the runtime's pictures."""
    for one in golden_cases():
        folder = GOLDEN if "golden" in one["url"] else FOLDER / "wide"
        with Image.open((folder / Path(one["url"]).name).with_suffix(".png")) as wanted:
            near(by_url[one["url"], None], wanted)


def test_alpha_of_many_bytes(by_url: ByUrl, job: dict[str, Any]) -> None:
    """A header of 16 kB: the size is known from its first bytes, the alpha plane comes back exactly."""
    file = Path(job["folders"]["own"]) / "noise.sdl"
    assert file.stat().st_size > 15_000
    near(by_url["/own/noise.sdl", None], Codec(testpack.FOLDER, device="cpu").decode(file))


@pytest.mark.parametrize("name", ["few", "many", "exact", "halved", "all"])
def test_patches(by_url: ByUrl, job: dict[str, Any], name: str) -> None:
    """Either coding, every feather, under alpha, at a half of the sides, over all: the runtime's pictures."""
    file = Path(job["folders"]["own"]) / f"{name}.sdl"
    near(by_url[f"/own/{name}.sdl", None], Codec(testpack.FOLDER, device="cpu").decode(file))


def test_ill_files_get_the_same_names(by_url: ByUrl) -> None:
    """Every golden error, every ill file, and a file that is not there: the name of the runtime's error."""
    wanted = {f"/golden/errors/{name}.sdl": leaf for name, (leaf, _) in bad_files().items()}
    wanted |= {f"/diseases/{name}": leaf for name, leaf in ILL_SDL.items() if name != ILL_AV1}
    assert {url: by_url[url, None].get("error") for url in wanted} == wanted
    assert by_url["/own/absent.sdl", None]["error"] == "ImageError"


def test_a_pack_that_is_not_there(browser: Answer, job: dict[str, Any]) -> None:
    """A folder without a manifest is a ModelError, which names what was sought."""
    answer = browser["cases"][[case.get("pack") for case in job["cases"]].index("/golden/")]
    assert answer["error"] == "ModelError" and "manifest.json" in answer["message"]


def test_the_default_pack(job: dict[str, Any], browser: Answer) -> None:
    """A photograph by the pack that is shipped, in the precision that a page gets."""
    at = job["cases"].index({"url": "/own/photo.sdl"})
    near(browser["cases"][at], Codec(TINY, device="cpu", threads=1).decode(Path(job["folders"]["own"]) / "photo.sdl"))


def test_tiles_show_nothing(by_url: ByUrl, job: dict[str, Any]) -> None:
    """Tiles of a graph with a halo give the whole picture; those of another are blended as the runtime blends them."""
    url = "/conformance/wide/wide-map.sdl"
    assert by_url[url, 32]["strips"] > 1
    assert np.abs(pixels(by_url[url, 32], 3) - pixels(by_url[url, None], 3)).max() <= 1
    everywhere = Path(job["folders"]["own"]) / "everywhere"
    tiled = Codec(everywhere, device="cpu", tile_px=TILE_PX).decode(GOLDEN / "1x999.sdl")
    assert by_url["/golden/codec/1x999.sdl", TILE_PX]["strips"] > 1
    near(by_url["/golden/codec/1x999.sdl", TILE_PX], tiled)


def test_the_element(browser: Answer) -> None:
    """It has its size from the header before the picture is there, and nothing moves later; errors are text."""
    found = browser["pages"][0]["value"]
    assert found["size"] == [161, 97, 161, 97]
    assert not found["early"] and found["tops"][0] == found["tops"][1]
    assert "CorruptError: " in found["error"]


def test_images_are_upgraded(browser: Answer) -> None:
    """An <img> whose source is an .sdl shows it; one that is refused says why. What a page puts in its place stays, and
    the .sdl may come back."""
    found = browser["pages"][1]["value"]
    assert found["size"] == [161, 97] and "CorruptError" in found["alt"]
    assert found["kept"]


def test_an_isolated_page_has_threads(browser: Answer) -> None:
    """As many workers as it may use cores, ours among them: the script serves them all."""
    page = browser["pages"][2]
    assert page["value"]["isolated"] and page["workers"] == page["value"]["threads"]


def test_a_browser_without_avif(browser: Answer) -> None:
    """Such a file is refused in one line: nothing is wrong with it."""
    assert browser["pages"][3]["value"].startswith("UnsupportedError: ") and "AVIF" in browser["pages"][3]["value"]


@pytest.fixture(scope="module")
def encoded(browser: Answer) -> Answer:
    answer: Answer = browser["pages"][4]["value"]
    return answer


def step_map_of(file: bytes) -> bytes | None:
    return sdl.unpack(file).chunk(sdl.STEP_MAP)


def test_encoding(encoded: Answer, job: dict[str, Any]) -> None:
    """A photograph by the default pack: a file of the runtime's size, its step map, and nearly all of its integers."""
    file, codec = base64.b64decode(encoded["photo"]), Codec(TINY, device="cpu", threads=1)
    native = (Path(job["folders"]["own"]) / "photo.sdl").read_bytes()
    assert step_map_of(file) == step_map_of(native) is not None
    found, wanted = codec.symbols(file), codec.symbols(native)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() <= 2
    assert (found == wanted).mean() > 0.97
    assert abs(len(file) / len(native) - 1) < 0.03
    (answer,) = under_node([case(file, TINY)])
    assert answer["sha256"] == sha256(found.astype("<i4"))


def test_encoding_in_tiles(encoded: Answer) -> None:
    """Tiles of a graph with a halo show nothing: the same file."""
    assert encoded["tiled"] == encoded["whole"]


def test_encoding_with_a_pack_that_is_told(encoded: Answer, job: dict[str, Any]) -> None:
    """The level is a channel of the decoder's input alone, means come before variances: the runtime's integers, and
    its step map."""
    own = Path(job["folders"]["own"])
    codec = Codec(own / "told", device="cpu")
    file, native = base64.b64decode(encoded["told"]), codec.encode(own / "photo.png", quality=30, protect="none")
    assert step_map_of(file) == step_map_of(native) is not None
    assert (codec.symbols(file) == codec.symbols(native)).mean() > 0.99


def test_encoding_keeps_alpha(encoded: Answer) -> None:
    """Alpha comes back exactly, colors where there is something to see of them; one pixel is a picture."""
    codec = Codec(testpack.FOLDER, device="cpu")
    found = np.asarray(codec.decode(base64.b64decode(encoded["alpha"])))
    wanted = np.asarray(with_alpha())
    np.testing.assert_array_equal(found[:, :, 3], wanted[:, :, 3])
    opaque = wanted[:, :, 3] == 255
    native = np.asarray(codec.decode(codec.encode(with_alpha(), quality=90, protect="none")))
    ours, theirs = (np.abs(one[opaque] - wanted[opaque].astype(int)).mean() for one in (found, native))
    assert ours < 1.1 * theirs
    assert codec.decode(base64.b64decode(encoded["edge"])).size == (1, 1)


def test_encoding_refuses(encoded: Answer) -> None:
    """By the runtime's names; and the page goes on living while the worker works."""
    assert (encoded["quality"], encoded["decoderOnly"], encoded["text"]) == (
        "ArgumentError",
        "ModelError",
        "ImageError",
    )
    assert encoded["ticks"] > 10


def test_the_page(browser: Answer) -> None:
    """A photograph that is dropped is encoded and painted, and flipped against what came of it."""
    found = browser["pages"][5]["value"]
    assert "photo.sdl" in found["facts"] and "203 × 155" in found["facts"]
    assert found["shown"] == [False, True] and "photo.png" in found["note"]


def test_packs_travel(by_pack: dict[str, Answer], job: dict[str, Any], tmp_path: Path) -> None:
    """A zip by `sdrt pack` serves a page, the page's own serves the runtime, and a cut one is a ModelError."""
    with Image.open(GOLDEN / "161x97-high.png") as wanted:
        near(by_pack["/own/deflated.zip"], wanted)
    assert by_pack["/own/cut.zip"]["error"] == "ModelError"
    command = [find_node(), WEB / "site.mjs", "--pack", testpack.FOLDER, "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    names = ["ort-wasm-simd-threaded.wasm", "pack.zip", "sdl.js"]
    assert sorted(path.name for path in (tmp_path / "sdl").iterdir()) == names
    codec = Codec(tmp_path / "sdl" / "pack.zip", device="cpu")
    assert codec.decode(GOLDEN / "161x97-high.sdl").size == (161, 97)


def test_the_server_outlives_any_address(tmp_path: Path) -> None:
    """One that is malformed, or that no file can have, is refused; the next is answered."""
    (tmp_path / "index.html").write_text("here")
    addresses = ["/%E0%A4%A", "//", "/%00", "/" + "x" * 300, "/gone", "/../../etc/passwd", "/%2e%2e%2fpasswd", "/"]
    assert served(tmp_path, addresses) == [400, 400, 400, 400, 404, 404, 404, 200]


def test_it_is_small(browser: Answer) -> None:
    """All modules of ours together are at most 60 kB when minified."""
    done = subprocess.run(["npm", "run", "--silent", "size"], cwd=WEB, capture_output=True, text=True, check=True)
    assert 20_000 < int(done.stdout) <= 60_000


def test_nothing_leaves_the_site(browser: Answer) -> None:
    """One worker decodes, and no request goes to another host."""
    assert browser["hosts"] == [] and browser["workers"] == 1
