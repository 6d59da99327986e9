"""The devices whose libraries are installed, and why others are not: what ``sdrt doctor`` prints."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from sdrt.errors import EngineError
from sdrt.network import onnxruntime_session, tensorrt_cache
from sdrt.network.devices import DEVICE_FACTS, DEVICES

WHEELS = tuple(
    dict.fromkeys(
        [*(facts.wheel for facts in DEVICE_FACTS.values()), "onnxruntime-openvino", "onnxruntime-directml"],
    )
)
"""Packages that hold ONNX Runtime, in the same files: those of our devices, and others that people have."""


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
    """Why a device is unavailable and what installs it; None if its libraries are installed.

    Raises EngineError where ONNX Runtime is installed and does not load.
    """
    facts = DEVICE_FACTS[device]
    if importlib.util.find_spec(facts.engine) is None:
        return f"{facts.engine} is not installed: {facts.install}"
    if facts.engine != "onnxruntime":
        return None
    ort = onnxruntime_session.load()
    wheel = ort.package_name or "onnxruntime"  # "" in a build without the file that tells
    version = f"{wheel} {ort.__version__}"
    advice = facts.install if wheel == facts.wheel else f"pip uninstall {wheel}; {facts.install}"
    if facts.plugin is None:
        if facts.provider not in ort.get_available_providers():
            return f"the installed {version} has no {facts.provider}: {advice}"
    elif importlib.util.find_spec(facts.plugin) is None:
        return f"{facts.plugin} is not installed: {advice}"
    elif not hasattr(ort, "register_execution_provider_library"):
        return f"the installed {version} is too old: {advice}"
    if device == "tensorrt":
        try:
            _machine()
        except EngineError as error:
            return str(error)
    return None


def require(device: str) -> None:
    """Raises EngineError where a device is unavailable, with what installs it, or its plugin finds no hardware."""
    why = why_absent(device)
    if why is not None:
        raise EngineError(f"device {device} is unavailable: {why}")
    plugin = DEVICE_FACTS[device].plugin
    if plugin is not None:
        onnxruntime_session.find_plugin(device, plugin, onnxruntime_session.load())


def gpu_machine() -> tensorrt_cache.Machine:
    """What a TensorRT engine is built for here. Raises EngineError without TensorRT or a GPU."""
    require("tensorrt")
    return _machine()


def _machine() -> tensorrt_cache.Machine:
    return tensorrt_cache.this_machine(str(onnxruntime_session.load().__version__))


def installed_onnxruntimes() -> list[str]:
    """The installed ONNX Runtime distributions; having more than one breaks them, as they share files."""
    from importlib import metadata

    found: list[str] = []
    for name in WHEELS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
