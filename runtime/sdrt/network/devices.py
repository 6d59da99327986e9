"""Devices and precisions: one table of what holds of each device, and the graph that a device runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from sdrt.arguments import check_count, check_range
from sdrt.errors import ArgumentError, EngineError

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "rtx", "webgpu", "qnn"]
Precision = Literal["w16", "fp32", "fp16", "int8", "bf16"]

DEVICES: tuple[Device, ...] = get_args(Device)
"""What ``--device`` takes: auto, and the rows of DEVICE_FACTS in the order of ``sdrt doctor``."""
AUTO_ORDER = ("cuda", "cpu", "openvino")
"""``auto`` takes the first that works. TensorRT is used only on request: building its engines takes minutes; and so are
plugins."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""Precisions that a caller may request. bf16 is not a graph: OpenVINO computes in it on CPUs that support it."""
MAX_THREADS = 1024
"""The most threads of an engine."""


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """What holds of a device wherever it is.

    Args:
        install: The command that installs it.
        graphs: The precisions of the graphs that it takes unasked: the first one that the pack has.
        provider: Its execution provider in ONNX Runtime; None: a plugin brings it, or it has another engine.
        plugin: The module of the plugin that brings it to the plain onnxruntime; None: no plugin.
        hardware: The type of hardware that it takes of what its plugin offers, as ONNX Runtime calls it.
        options: Of its execution provider.
        floats: The arithmetic in which it runs graphs of all precisions but int8; None: the one that its engine tells.
        engine: The module of its engine. Another than onnxruntime is opened in ``engine._open``.
        accelerator: It has hardware of its own, a GPU or an NPU: it is told a range of input sizes, large pictures come
            in tiles of one size, and no node may run on the CPU instead.
        fixed_shapes: It takes no graph with free dimensions: each shape of input has a session of its own, which is
            opened when the first such input comes.
        only_these: It takes no graph but those of ``graphs``, even if asked, or if the pack has no other.
        wheel: The package of ONNX Runtime that it comes with. All such packages have the same files: one excludes the
            others.
        refines_on: The device that runs ``--effort`` beside it; None: itself. It must be one of ONNX Runtime.
    """

    install: str
    graphs: tuple[Precision, ...]
    provider: str | None = None
    plugin: str | None = None
    hardware: Literal["GPU", "NPU"] = "GPU"
    options: Mapping[str, str] = field(default_factory=dict)
    floats: Precision | None = None
    engine: str = "onnxruntime"
    accelerator: bool = False
    fixed_shapes: bool = False
    only_these: bool = False
    wheel: str = "onnxruntime"
    refines_on: str | None = None

    def takes(self, precision: str) -> bool:
        """Whether it can be asked for this precision; bf16 is an arithmetic of OpenVINO, not a graph."""
        if precision == "bf16":
            return self.engine == "openvino"
        return not self.only_these or precision in self.graphs


DEVICE_FACTS = {
    # int8 comes first on CPUs: packs have it only if its pictures passed the tests, and it takes half the time or less.
    # Otherwise CPUs compute in float32 whatever the graph stores, so the smallest file of full quality comes next.
    "cpu": DeviceFacts(
        install="pip install 'sdrt[cpu]'", graphs=("int8", "w16", "fp32"), provider="CPUExecutionProvider"
    ),
    "openvino": DeviceFacts(
        install="pip install 'sdrt[openvino]'", graphs=("int8", "w16", "fp32"), engine="openvino", refines_on="cpu"
    ),
    "cuda": DeviceFacts(
        install="pip install 'sdrt[gpu]'",
        graphs=("fp16", "w16", "fp32"),
        provider="CUDAExecutionProvider",
        options={
            # Its default tries every algorithm for every new shape, which takes seconds a shape and gigabytes.
            "cudnn_conv_algo_search": "HEURISTIC",
            # Its default doubles the memory held at every growth and never gives it back.
            "arena_extend_strategy": "kSameAsRequested",
        },
        accelerator=True,
        wheel="onnxruntime-gpu",
    ),
    "tensorrt": DeviceFacts(
        install="pip install 'sdrt[gpu]' 'tensorrt-cu13>=10.13,<11'",
        graphs=("fp16", "w16", "fp32"),
        provider="TensorrtExecutionProvider",
        accelerator=True,
        wheel="onnxruntime-gpu",
        refines_on="cuda",  # an engine is of one graph, and takes minutes to build
    ),
    "rtx": DeviceFacts(
        install="pip install 'sdrt[rtx]'",
        graphs=("fp16", "w16", "fp32"),
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
        accelerator=True,
    ),
    "webgpu": DeviceFacts(
        install="pip install 'sdrt[webgpu]'",
        graphs=("w16", "fp32"),  # not every card that it runs on computes in fp16
        plugin="onnxruntime_ep_webgpu",
        accelerator=True,
    ),
    "qnn": DeviceFacts(
        install="pip install 'sdrt[qnn]'",
        graphs=("int8", "fp16", "w16", "fp32"),  # NPUs are made for 8 bits; of floats they know fp16 alone
        plugin="onnxruntime_qnn",
        hardware="NPU",  # it offers the GPU and the CPU of the machine too
        options={"backend_type": "htp"},  # the library QnnHtp, whose file has another name on each system
        floats="fp16",
        accelerator=True,
        fixed_shapes=True,
        refines_on="cpu",  # gradients in fp16 lead nowhere, and their graph has free dimensions
    ),
}
"""Every device but ``auto``."""


@dataclass(frozen=True)
class Sides:
    """Height and width of a graph's input on a GPU, in input cells: pixels of an encoder, latents of a decoder.

    Args:
        min: The smallest that is taken, at least 1.
        opt: The one that kernels are tuned for.
        max: The largest that is taken, at most 65536.

    Raises:
        EngineError: They do not rise, or are out of range.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= 1 << 16:
            raise EngineError(f"sides must be 1 <= min <= opt <= max <= 65536, got {self.min}, {self.opt}, {self.max}")


def devices_to_try(device: str, precision: str | None) -> tuple[str, ...]:
    """The concrete devices of ``device``, in order: itself, or for ``auto`` all that support the precision.

    Raises ArgumentError for an unknown device or precision, or a device that cannot compute in it.
    """
    if device not in DEVICES:
        raise ArgumentError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    if precision is not None and precision not in PRECISIONS:
        raise ArgumentError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    devices = AUTO_ORDER if device == "auto" else (device,)
    able = tuple(name for name in devices if precision is None or DEVICE_FACTS[name].takes(precision))
    if not able and precision == "bf16":
        raise ArgumentError(f"bf16 is an arithmetic of device openvino, not of {device}")
    if not able:
        raise ArgumentError(f"device {device} takes {' and '.join(DEVICE_FACTS[device].graphs)} alone, not {precision}")
    return able


def precisions_by_device(available: Sequence[str]) -> dict[str, str]:
    """Device -> the precision that it runs by default, out of those that a pack has. A device that takes none of them
    is left out."""
    chosen = {device: graph_precision(device, None, available) for device in DEVICE_FACTS}
    return {device: precision for device, precision in chosen.items() if precision in available}


def graph_precision(device: str, wanted: str | None, available: Sequence[str]) -> str:
    """The precision of the graph that a device runs.

    Args:
        device: Any but ``auto``.
        wanted: The requested precision, which is returned even if the pack lacks it: opening it then raises an error
            that lists what the pack has. None, or "bf16", which is not a graph: the device's default, likewise if the
            pack has none that the device takes.
        available: The precisions of the pack's graphs.
    """
    if wanted is not None and wanted != "bf16":
        return wanted
    facts = DEVICE_FACTS[device]
    preferred = [name for name in facts.graphs if name != "int8" or wanted != "bf16"]
    others = [] if facts.only_these else available
    return next((name for name in (*preferred, *others) if name in available), preferred[0])


def check_threads(threads: int | None) -> None:
    """Accept None and integers from 1 to MAX_THREADS. Raises ArgumentError."""
    check_count("threads", threads)
    check_range("threads", threads, 1, MAX_THREADS)
