"""network.devices and the codec's choice by it: the graph that suits a device, another only where it is asked for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import synthetic_photo
from tests.fake_onnxruntime import FakeRuntime

from sdrt.codec import Codec
from sdrt.errors import ArgumentError, ModelError
from sdrt.network.devices import (
    AUTO_ORDER,
    DEVICE_FACTS,
    DEVICES,
    PRECISIONS,
    devices_to_try,
    graph_precision,
    precisions_by_device,
)
from sdrt.packs.manifest import ModelPack
from sdrt_export.pack_writer import update_manifest

DOCS = Path(__file__).parents[1] / "docs"


def rows_of_the_page() -> dict[str, tuple[str, list[str]]]:
    """Device -> what it needs and the graphs that it takes, the first one first, as docs/DEVICES.md has them."""
    page = (DOCS / "DEVICES.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| `")]
    return {cells[1].strip("`"): (cells[2], [cells[3], *filter(None, cells[5].split(", "))]) for cells in rows}


def test_the_page_says_what_the_code_does() -> None:
    """docs/DEVICES.md has a row for each device, with the graphs that it takes, in order, and the pins of TensorRT.

    And docs/EFFORT.md names those beside which ``--effort`` runs on the CPU.
    """
    rows = rows_of_the_page()
    assert set(rows) == set(DEVICE_FACTS)
    for device, facts in DEVICE_FACTS.items():
        assert rows[device][1] == [f"`{name}`" for name in facts.graphs] + ["nothing else"] * facts.only_these
    pin = DEVICE_FACTS["tensorrt"].install.split("'")[-2]
    assert pin in rows["tensorrt"][0]
    beside = [f"`{device}`" for device, facts in DEVICE_FACTS.items() if facts.refines_on == "cpu"]
    words = f"beside the devices {', '.join(beside[:-1])} and {beside[-1]} on the CPU"
    assert words in " ".join((DOCS / "EFFORT.md").read_text(encoding="utf-8").split())


def test_an_extra_that_installs_a_device_is_there() -> None:
    """Each extra in a row's ``install`` is one of pyproject.toml and on the page, and brings the row's packages."""
    project = (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = {name: re.findall(r'"([\w-]+)', line) for name, line in re.findall(r"^(\w+) = (\[.*)$", section, re.M)}
    for device, facts in DEVICE_FACTS.items():
        for extra in re.findall(r"sdrt\[(\w+)\]", facts.install):
            assert f"`sdrt[{extra}]`" in rows_of_the_page()[device][0]
            wanted = [facts.wheel if facts.engine == "onnxruntime" else facts.engine, facts.plugin]
            assert {each.replace("_", "-") for each in wanted if each} <= set(extras.get(extra, ())), device


def test_each_device_takes_the_graph_that_suits_it() -> None:
    """The first of those that the page says; another that is here, unless the device takes no other; bf16 is no graph.

    So fp16 on GPUs, int8 on CPUs and NPUs; GPUs take int8 only if asked.
    """
    for here in (("w16", "fp16", "int8"), ("w16", "int8"), ("w16", "fp16"), ("w16",), ("int8",), ("fp32", "fp16")):
        chosen: dict[str, str] = {}
        for device, (_, graphs) in rows_of_the_page().items():
            others = [] if "nothing else" in graphs else here
            taken = [name for name in (*(cell.strip("`") for cell in graphs), *others) if name in here]
            chosen |= {device: taken[0]} if taken else {}
        assert precisions_by_device(here) == chosen
    many = ("w16", "fp16", "int8")
    assert graph_precision("cpu", "int8", many) == "int8"
    assert graph_precision("cuda", "fp32", many) == "fp32", "what is not here is left to the look-up to refuse"
    assert graph_precision("openvino", "bf16", many) == "w16"


def test_a_device_of_one_precision_takes_nothing_else(
    make_pack: Callable[..., ModelPack], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another precision is refused; a pack without its own is refused by the graph that it lacks, and not offered."""
    facts = dataclasses.replace(DEVICE_FACTS["qnn"], graphs=("int8",), only_these=True)
    monkeypatch.setitem(DEVICE_FACTS, "qnn", facts)
    with pytest.raises(ArgumentError, match="device qnn takes int8 alone, not w16"):
        Codec(device="qnn", precision="w16")
    assert devices_to_try("qnn", "int8") == devices_to_try("qnn", None) == ("qnn",)
    for here in (("w16", "fp16"), ()):
        assert graph_precision("qnn", None, here) == "int8"
        assert "qnn" not in precisions_by_device(here)
    runtime = FakeRuntime.install(monkeypatch, tmp_path)
    codec = Codec(make_pack("floats").folder, device="qnn")
    with pytest.raises(ModelError, match=r"has no encoder\.int8\.onnx \(it has .*encoder\.onnx"):
        codec.encode(synthetic_photo(40, 50))
    assert not runtime.opened


@pytest.mark.parametrize("device", DEVICE_FACTS)
def test_each_precision_is_run_or_refused(device: str) -> None:
    """A device that is asked for by name with a precision is that device or an error, never another one."""
    for precision in PRECISIONS:
        if DEVICE_FACTS[device].takes(precision):
            assert devices_to_try(device, precision) == (device,)
        else:
            with pytest.raises(ArgumentError, match=f"(?=.*{precision}).*{device}"):
                devices_to_try(device, precision)


def test_the_table_and_the_names_agree() -> None:
    """Each name of ``Device`` has a row; a row says how its graphs are opened; ``--effort`` runs in ONNX Runtime.

    And on a device that takes free dimensions, which its graphs have.
    """
    assert DEVICES[0] == "auto" and set(DEVICES[1:]) == set(DEVICE_FACTS)
    for device, facts in DEVICE_FACTS.items():
        ways = facts.provider is not None, facts.plugin is not None, facts.engine != "onnxruntime"
        assert sum(ways) == 1, device
        refining = DEVICE_FACTS[facts.refines_on or device]
        assert refining.engine == "onnxruntime" and not refining.fixed_shapes, device


def test_bf16_belongs_to_openvino() -> None:
    """``auto`` with bf16 is OpenVINO; any other device named with it is refused, and so is an unknown precision."""
    assert devices_to_try("auto", "bf16") == devices_to_try("openvino", "bf16") == ("openvino",)
    assert devices_to_try("auto", None) == devices_to_try("auto", "w16") == AUTO_ORDER
    with pytest.raises(ArgumentError, match="bf16 is an arithmetic of device openvino, not of cpu"):
        devices_to_try("cpu", "bf16")
    with pytest.raises(ArgumentError, match="unknown precision 'int4'"):
        devices_to_try("cpu", "int4")


def test_the_precision_is_the_device_s_unless_asked_for(
    make_pack: Callable[..., ModelPack], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With w16 and fp16 in the pack: the CPU runs w16, CUDA fp16, and an explicit precision is run or refused."""
    pack = make_pack("both")
    for half in ("encoder", "decoder"):
        remark = b"\x32\x04half"  # the field 6 of a model: a graph told from the other
        (pack.folder / f"{half}.fp16.onnx").write_bytes((pack.folder / f"{half}.onnx").read_bytes() + remark)
    pack = update_manifest(pack.folder)
    codec = Codec(pack.folder, device="cpu")
    file = codec.encode(synthetic_photo(40, 50))
    assert (codec.used_device, codec.used_precision) == ("cpu", "w16")
    asked = Codec(pack.folder, device="cpu", precision="fp16")
    asked.decode(file)
    assert asked.used_precision == "fp16"
    with pytest.raises(ModelError, match=r"has no decoder\.int8\.onnx"):
        Codec(pack.folder, device="cpu", precision="int8").decode(file)
    runtime = FakeRuntime.install(monkeypatch, tmp_path)
    with pytest.raises(ModelError, match="the decoder returns shape"):  # the fake's
        Codec(pack.folder, device="cuda").decode(file)
    assert runtime.opened[-1].data == pack.decoder_path("fp16").read_bytes()
