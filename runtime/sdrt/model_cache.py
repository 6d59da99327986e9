"""Model packs, their priors and their sessions, each loaded once. Safe for calls from several threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar
from weakref import WeakSet

from sdrt.bitstream import LatentCoder
from sdrt.container.sdl import SdlFile
from sdrt.errors import EngineError, ModelError
from sdrt.network import refine, viewer
from sdrt.network.devices import DEVICE_FACTS, Device, Precision, graph_precision
from sdrt.network.engine import Engine
from sdrt.network.graph import Graph
from sdrt.network.onnxruntime_session import NamedRunner, open_named
from sdrt.network.refine import Recipe, Refinement
from sdrt.network.transform import accelerator_sides
from sdrt.packs import search
from sdrt.packs.archive import is_archive
from sdrt.packs.effort import read_effort_graph
from sdrt.packs.manifest import ModelPack

DEFAULT_MODEL = "tiny"

_Loaded = TypeVar("_Loaded")


class ModelCache:
    """What a codec keeps between pictures. The arguments are those of ``Codec``.

    Every method raises ModelError for a pack that is missing, altered or of another latent space.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None,
        *,
        device: Device,
        precision: Precision | None,
        threads: int | None,
    ) -> None:
        self._model = model if model is None or isinstance(model, str) else Path(model)
        self._device = device
        self._precision = precision
        self._threads = threads
        self._renew()
        _CACHES.add(self)

    def _renew(self) -> None:
        self._lock = threading.RLock()  # re-entrant: loading one thing may ask for another
        self._packs: dict[Hashable, ModelPack] = {}
        self._coders: dict[Hashable, LatentCoder] = {}
        self._engines: dict[Hashable, Engine] = {}
        self._graphs: dict[Hashable, NamedRunner] = {}

    def clear(self) -> None:
        """Drop everything; it is loaded again when needed. Strips in progress keep their session."""
        with self._lock:
            self._packs.clear()
            self._coders.clear()
            self._engines.clear()
            self._graphs.clear()

    def encoding_pack(self) -> ModelPack:
        """The pack that encodes: the requested one, or the default."""
        model = DEFAULT_MODEL if self._model is None else self._model
        return self._once(self._packs, model, lambda: search.load_pack(model))

    def decoding_pack(self, file: SdlFile, *, to_paint: bool = True) -> ModelPack:
        """The pack that decodes: the requested one, if it has the file's latent space; without a request the one
        that the file names.

        ``to_paint`` False: its decoder need not be usable.
        """
        if self._model is None:
            return self._named_pack(file, to_paint=to_paint)
        pack = self.encoding_pack()
        if pack.space.identity != file.space_identity:
            raise ModelError(
                f"the file needs latent space {file.space_identity.hex()}, "
                f"model {pack.name} has {pack.space.identity.hex()} ({pack.space.id})"
            )
        return pack

    def coder(self, pack: ModelPack, identity: bytes | None = None) -> LatentCoder:
        """The coder with the prior of ``pack`` that has this identity; None: the one that encodes."""
        identity = pack.prior_identity if identity is None else identity  # one coder, whichever way it is asked for
        return self._once(self._coders, (pack.folder, identity), lambda: LatentCoder(pack, identity))

    def coder_of(self, file: SdlFile) -> LatentCoder:
        """The coder with the prior that ``file`` names: of the decoding pack, or of another one of the same space."""
        pack = self.decoding_pack(file, to_paint=False)
        if file.prior_identity not in pack.priors:
            pack = self._named_pack(file)
        return self.coder(pack, file.prior_identity)

    def engine(self, pack: ModelPack, half: Literal["encoder", "decoder"]) -> Engine:
        """The session of one of the pack's graphs. Raises EngineError where the device is unavailable."""

        def graph(device: str) -> Graph:
            precision = graph_precision(device, self._precision, pack.graph_precisions(half))
            if device == "tensorrt" and is_archive(pack.folder):
                raise EngineError(f"TensorRT cannot read graphs from a zip: unpack it with sdrt install {pack.folder}")
            path = pack.encoder_path(precision) if half == "encoder" else pack.decoder_path(precision)
            return Graph(path, search.read_verified(pack, path.name))

        def load() -> Engine:
            return Engine(
                graph,
                device=self._device,
                precision=self._precision,
                threads=self._threads,
                sides=accelerator_sides(pack, half),
            )

        return self._once(self._engines, (pack.folder, half), load)

    def refinement(self, pack: ModelPack, recipe: Recipe) -> Refinement:
        """The graphs that a recipe needs: in ONNX Runtime, on the hardware that the encoder runs on.

        Raises EngineError where that is unavailable.
        """
        device = self.engine(pack, "encoder").device
        device = DEVICE_FACTS[device].refines_on or device

        def opened(read: Callable[[], tuple[Path, bytes]], ends: ModuleType) -> NamedRunner:
            graph = Graph(*read())
            graph.check_alone()
            return open_named(graph, device, self._threads, inputs=ends.INPUTS, outputs=ends.OUTPUTS)

        def gradient() -> NamedRunner:
            return opened(lambda: search.read_gradient(pack), refine)

        networks = None
        if recipe.eyes_weight:  # first: it is what may not be here
            networks = self._once(self._graphs, "networks", lambda: opened(read_effort_graph, viewer))
        return Refinement(recipe, self._once(self._graphs, (pack.folder, "gradient"), gradient), networks)

    def _named_pack(self, file: SdlFile, *, to_paint: bool = False) -> ModelPack:
        """The first pack with both identities of ``file`` whose prior can be used, and, ``to_paint``, its decoder."""

        def check(pack: ModelPack) -> None:
            self.coder(pack, file.prior_identity)
            if to_paint:
                self.engine(pack, "decoder")

        identities = file.space_identity, file.prior_identity
        return self._once(self._packs, (*identities, to_paint), lambda: search.find_pack(*identities, check))

    def _once(self, kept: dict[Hashable, _Loaded], key: Hashable, load: Callable[[], _Loaded]) -> _Loaded:
        with self._lock:
            if key not in kept:
                kept[key] = load()
            return kept[key]


_CACHES: WeakSet[ModelCache] = WeakSet()


def _after_fork_in_child() -> None:
    """Resets the caches in a forked child, where the threads that hold locks or serve engines do not exist."""
    import ctypes

    for cache in list(_CACHES):
        # Never to be freed, not even at exit: an engine would wait for its threads for ever.
        for kept in (cache._engines, cache._graphs):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        cache._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
