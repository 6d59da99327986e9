"""network.devices and the codec's choice by it: the graph that suits a device, another only where it is asked for."""

from __future__ import annotations

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
    devices_to_try,
    graph_precision,
    precisions_by_device,
)
from sdrt.packs.manifest import ModelPack
from sdrt_export.pack_writer import update_manifest


def test_each_device_takes_the_graph_that_suits_it() -> None:
    """fp16 on GPUs, int8 on CPUs and NPUs, where they are here; bf16 is no graph; GPUs take int8 only if asked."""
    many = ("w16", "fp16", "int8")
    chosen = {"cpu": "int8", "openvino": "int8", "qnn": "int8"}
    chosen |= {"cuda": "fp16", "tensorrt": "fp16", "rtx": "fp16", "webgpu": "w16"}
    assert precisions_by_device(many).items() >= chosen.items()
    assert precisions_by_device(("w16", "int8"))["cuda"] == "w16" and precisions_by_device(("w16",))["cpu"] == "w16"
    assert precisions_by_device(("w16", "fp16"))["qnn"] == "fp16"
    assert set(precisions_by_device(("int8",)).values()) == {"int8"}
    assert graph_precision("cpu", "int8", many) == "int8"
    assert graph_precision("cuda", "fp32", many) == "fp32", "what is not here is left to the look-up to refuse"
    assert graph_precision("openvino", "bf16", many) == "w16"


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


def test_the_page_says_what_the_code_does() -> None:
    """docs/DEVICES.md lists every device with the graphs that it takes, in order, and the pins of TensorRT."""
    page = (Path(__file__).parents[1] / "docs" / "DEVICES.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(" `"): cells for line in page.splitlines() if len(cells := line.split("|")) == 7}
    for device, facts in DEVICE_FACTS.items():
        first, *others = facts.graphs
        assert rows[device][3].strip() == f"`{first}`"
        assert rows[device][5].strip() == ", ".join(f"`{name}`" for name in others)
    pin = DEVICE_FACTS["tensorrt"].install.split("'")[-2]
    assert pin in rows["tensorrt"][2]
