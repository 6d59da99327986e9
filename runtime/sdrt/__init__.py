"""sdrt: photographs in a few kilobytes, painted back by a small network, without torch.

    data = sdrt.encode("photo.jpg", target_bytes=5000)
    picture = sdrt.decode(data)

``encode`` and ``decode`` load a model for every call; a ``Codec`` keeps it for many pictures. Everything that is
raised on purpose is an ``SdrtError``. Importing sdrt loads neither numpy nor an inference engine: parts are loaded
when they are first used.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.5.0"

TYPE_CHECKING = False
"""As in typing, whose import would take longer than all else that happens before the command heeds Ctrl-C."""

if TYPE_CHECKING:
    from sdrt.codec import Codec as Codec
    from sdrt.codec import decode as decode
    from sdrt.codec import encode as encode
    from sdrt.errors import CorruptError as CorruptError
    from sdrt.errors import EngineError as EngineError
    from sdrt.errors import ImageError as ImageError
    from sdrt.errors import LimitError as LimitError
    from sdrt.errors import ModelError as ModelError
    from sdrt.errors import NotSdlError as NotSdlError
    from sdrt.errors import OutputError as OutputError
    from sdrt.errors import SdrtError as SdrtError
    from sdrt.errors import UnsupportedError as UnsupportedError
    from sdrt.file_info import Info as Info
    from sdrt.file_info import info as info

_HOMES = {
    "Codec": "codec",
    "decode": "codec",
    "encode": "codec",
    "Info": "file_info",
    "info": "file_info",
    "SdrtError": "errors",
    "NotSdlError": "errors",
    "UnsupportedError": "errors",
    "CorruptError": "errors",
    "LimitError": "errors",
    "ModelError": "errors",
    "EngineError": "errors",
    "ImageError": "errors",
    "OutputError": "errors",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 (names are strings, loaded by __getattr__)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sdrt' has no attribute {name!r}")
    return getattr(import_module(f"sdrt.{home}"), name)


def __dir__() -> list[str]:
    return __all__
