"""An onnxruntime that offers every provider and plugin, records what sessions are told, builds TensorRT of air."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdrt.network import onnxruntime_session, tensorrt_cache
from sdrt.network.devices import DEVICE_FACTS
from sdrt.network.tensorrt_cache import Machine

VERSION = "1.31.0"
MACHINE = Machine(VERSION, "10.13.2", 90)


def provider_of(device: str) -> str:
    """The name of a device's provider here; a plugin's is called as its module."""
    facts = DEVICE_FACTS[device]
    return str(facts.provider or facts.plugin)


@dataclass(frozen=True)
class Opened:
    """One session: what it was given, a graph's bytes or its path, and the shapes that it ran."""

    data: bytes | None
    path: Path | None
    providers: list[tuple[str, dict[str, str]]]
    options: Any
    enable_fallback: int
    shapes: list[tuple[int, ...]] = field(default_factory=list)


class FakeRuntime(ModuleType):
    """``broken``: provider -> the message with which it does not start. ``partial``: TensorRT takes half of a graph.

    ``hardware``: what plugins find, a provider's name and the type of the hardware.
    """

    __version__ = VERSION
    package_name = "onnxruntime"
    GraphOptimizationLevel = SimpleNamespace(ORT_ENABLE_ALL=99, ORT_DISABLE_ALL=0)

    class SessionOptions(SimpleNamespace):
        def add_session_config_entry(self, key: str, value: str) -> None:
            setattr(self, key, value)

        def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
            self.sizes = {**vars(self).get("sizes", {}), name: size}

        def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
            self.plugin = [(device.ep_name, options) for device in devices]
            self.runs_on = [device.device.type.name for device in devices]

    def __init__(self, broken: Mapping[str, str]) -> None:
        super().__init__("onnxruntime")
        self.broken = broken
        self.partial = False
        self.opened: list[Opened] = []
        self.plugins: list[tuple[str, str]] = []
        plugins = [facts for facts in DEVICE_FACTS.values() if facts.plugin is not None]
        self.hardware = [(str(facts.plugin), facts.hardware) for facts in plugins]

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch, cache: Path, **broken: str) -> FakeRuntime:
        """In place of the real one, on a machine with every device, a GPU of architecture 90 and an empty cache."""
        runtime = cls(broken)
        runtime.__spec__ = SimpleNamespace()  # type: ignore[assignment] # find_spec only asks whether there is one
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        monkeypatch.setattr(onnxruntime_session, "_registered", set())
        for name, _ in runtime.hardware:
            plugin = ModuleType(name)
            plugin.__spec__ = SimpleNamespace()  # type: ignore[assignment]
            plugin.get_ep_name = lambda name=name: name  # type: ignore[attr-defined]
            plugin.get_library_path = lambda name=name: f"/a/{name}.so"  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, name, plugin)
        monkeypatch.setattr(tensorrt_cache, "this_machine", lambda version: Machine(version, "10.13.2", 90))
        monkeypatch.setenv("SDRT_CACHE", str(cache))
        return runtime

    def get_available_providers(self) -> list[str]:
        return [facts.provider for facts in DEVICE_FACTS.values() if facts.provider is not None]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if name in self.broken:
            raise RuntimeError(self.broken[name])
        assert name not in dict(self.plugins), "the real one refuses a second time"
        self.plugins.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=name, device=SimpleNamespace(type=SimpleNamespace(name=kind)))
            for name, kind in (("CPUExecutionProvider", "CPU"), *self.hardware)
        ]

    def InferenceSession(  # noqa: N802 (the real one's name)
        self,
        source: str | bytes,
        sess_options: Any,
        enable_fallback: int,
        providers: list[tuple[str, dict[str, str]]] | None = None,
    ) -> Any:
        providers = sess_options.plugin if providers is None else providers
        graph = (source, None) if isinstance(source, bytes) else (None, Path(source))
        opened = Opened(*graph, providers, sess_options, enable_fallback)
        self.opened.append(opened)
        first, options = providers[0]
        if first in self.broken:
            raise RuntimeError(f"{self.broken[first]}\nstack\nstack")
        for key, value in options.items():
            # As the real binding does (onnxruntime_pybind_state.cc).
            if not value or (key.endswith(("_enable", "_fallback", "_model")) and value not in ("True", "False")):
                raise RuntimeError(f"[ERROR] [TensorRT] The value for the key '{key}' should be 'True' or 'False'")
        if options.get("trt_dump_ep_context_model") == "True" and not self.partial:
            context = Path(options["trt_ep_context_file_path"])
            context.write_bytes(b"a graph of one node")
            (context.parent / "all_sm90.engine").write_bytes(b"kernels")
        port = SimpleNamespace(name="latent_sample", type="tensor(float)", shape=["n", 4, "h", "w"])

        def run(_outputs: None, feeds: dict[str, Any]) -> list[Any]:
            opened.shapes.append(feeds["latent_sample"].shape)
            return [np.zeros((1, 3, 8, 8), np.float32)]

        return SimpleNamespace(
            get_providers=lambda: [name for name, _ in providers],
            get_inputs=lambda: [port],
            get_outputs=lambda: [port],
            run=run,
        )
