"""sdrt: photographs in a few kilobytes, decoded by a small network, without torch.

    data = sdrt.encode("photo.jpg", target_bytes=5000)
    image = sdrt.decode(data)

``encode`` and ``decode`` load a model for every call; a ``Codec`` keeps it for many pictures. Everything that is
raised on purpose is an ``SdrtError``. Importing sdrt loads neither numpy nor an inference engine: parts are loaded
when they are first used.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.11.0"

TYPE_CHECKING = False
"""As in typing, whose import would take longer than all else that happens before the command heeds Ctrl-C."""

if TYPE_CHECKING:
    from sdrt.api import decode as decode
    from sdrt.api import decode_file as decode_file
    from sdrt.api import decode_many as decode_many
    from sdrt.api import encode as encode
    from sdrt.api import encode_file as encode_file
    from sdrt.api import encode_many as encode_many
    from sdrt.api import truth_map as truth_map
    from sdrt.codec import Codec as Codec
    from sdrt.container.truth_map import Truth as Truth
    from sdrt.errors import ArgumentError as ArgumentError
    from sdrt.errors import CorruptError as CorruptError
    from sdrt.errors import EngineError as EngineError
    from sdrt.errors import ImageError as ImageError
    from sdrt.errors import LimitError as LimitError
    from sdrt.errors import MissingFileError as MissingFileError
    from sdrt.errors import ModelError as ModelError
    from sdrt.errors import NotSdlError as NotSdlError
    from sdrt.errors import OutputError as OutputError
    from sdrt.errors import SdrtError as SdrtError
    from sdrt.errors import UnsupportedError as UnsupportedError
    from sdrt.file_info import Info as Info
    from sdrt.file_info import info as info
    from sdrt.network.devices import Device as Device
    from sdrt.network.devices import Precision as Precision
    from sdrt.options import EncodeOptions as EncodeOptions
    from sdrt.options import Protect as Protect
    from sdrt.options import Region as Region
    from sdrt.options import Resampling as Resampling
    from sdrt.options import Tune as Tune
    from sdrt.pillow_plugin import register_opener as register_opener
    from sdrt.pixels.load import load as load
    from sdrt.pixels.metadata import Metadata as Metadata
    from sdrt.pixels.picture import Crop as Crop
    from sdrt.pixels.picture import Picture as Picture
    from sdrt.pixels.picture import Strips as Strips
    from sdrt.pixels.save import save as save

_NAMES = {
    "api": "decode decode_file decode_many encode encode_file encode_many truth_map",
    "codec": "Codec",
    "container.truth_map": "Truth",
    "errors": "ArgumentError CorruptError EngineError ImageError LimitError MissingFileError ModelError NotSdlError"
    " OutputError SdrtError UnsupportedError",
    "file_info": "Info info",
    "network.devices": "Device Precision",
    "options": "EncodeOptions Protect Region Resampling Tune",
    "pillow_plugin": "register_opener",
    "pixels.load": "load",
    "pixels.metadata": "Metadata",
    "pixels.picture": "Crop Picture Strips",
    "pixels.save": "save",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 (names are strings, loaded by __getattr__)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sdrt' has no attribute {name!r}")
    return getattr(import_module(f"sdrt.{home}"), name)


def __dir__() -> list[str]:
    return __all__
