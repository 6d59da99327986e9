"""The devices whose libraries are installed, and why others are not: what ``sdrt doctor`` prints."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from sdrt.errors import EngineError
from sdrt.network import onnxruntime_session, tensorrt_cache
from sdrt.network.devices import DEVICE_FACTS, DEVICES

ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


@dataclass(frozen=True)
class DeviceReport:
    """One device in the output of ``sdrt doctor``."""

    device: str
    available: bool
    detail: str


def available_devices() -> list[DeviceReport]:
    """Every device except auto: whether its libraries are installed, and if not, how to install them.

    An installed device may still fail to open a graph (no driver, for example): only loading an ``Engine`` shows it.
    """
    from importlib import metadata  # a tenth of a decoding process's start, and only reports need it

    reports: list[DeviceReport] = []
    for device in DEVICES[1:]:
        facts = DEVICE_FACTS[device]
        why = why_absent(device)
        if why:
            detail = why
        elif facts.provider is None:
            package = (facts.plugin or facts.engine).replace("_", "-")
            detail = f"{package} {metadata.version(package)}"
        else:
            detail = f"onnxruntime {onnxruntime_session.load().__version__}"
        if not why and device == "tensorrt":
            machine = gpu_machine()
            detail += f", TensorRT {machine.tensorrt}, GPU architecture {machine.architecture}"
        reports.append(DeviceReport(device, not why, detail))
    return reports


def why_absent(device: str) -> str | None:
    """Why a device is unavailable and what installs it; None if its libraries are installed."""
    facts = DEVICE_FACTS[device]
    if facts.provider is None:
        needed = [facts.engine] if facts.plugin is None else [facts.engine, facts.plugin]
        here = all(importlib.util.find_spec(name) is not None for name in needed)
        return None if here else facts.install
    if importlib.util.find_spec("onnxruntime") is None:
        return onnxruntime_session.without_provider(device, "")
    ort = onnxruntime_session.load()
    if facts.provider not in ort.get_available_providers():
        return onnxruntime_session.without_provider(device, str(ort.__version__))
    if device == "tensorrt":
        try:
            gpu_machine()
        except EngineError as error:
            return str(error)
    return None


def gpu_machine() -> tensorrt_cache.Machine:
    """What a TensorRT engine is built for here. Raises EngineError without TensorRT or a GPU."""
    return tensorrt_cache.this_machine(str(onnxruntime_session.require("tensorrt").__version__))


def installed_onnxruntimes() -> list[str]:
    """The installed ONNX Runtime distributions; having more than one breaks them, as they share files."""
    from importlib import metadata

    found: list[str] = []
    for name in ORT_PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
