"""The arguments of ``sdrt encode`` and ``sdrt decode``, apart from their work, which loads numpy."""

from __future__ import annotations

import argparse
from typing import Any

from sdrt.container.sdl import RESAMPLINGS
from sdrt.errors import ArgumentError
from sdrt.limits import DEFAULT_MAX_PIXELS
from sdrt.network.devices import DEVICES, MAX_THREADS, PRECISIONS
from sdrt.options import MAX_EFFORT, Region

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "ki": 1024, "mi": 1024**2}


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the parsers of both commands."""
    _add_encode(commands)
    _add_decode(commands)


def _add_encode(commands: argparse._SubParsersAction[Any]) -> None:
    """What is named as a field of ``EncodeOptions`` becomes that field."""
    encode = commands.add_parser("encode", help="pictures -> .sdl files")
    _add_files(encode, "a picture that Pillow opens; - is stdin", "photo.jpg -> photo.sdl beside it")
    rate = encode.add_mutually_exclusive_group()
    rate.add_argument("-q", "--quality", type=parse_quality, metavar="0..100", help="default: the model's own")
    rate.add_argument(
        "--target-size",
        dest="target_bytes",
        type=parse_size,
        metavar="BYTES",
        help="the largest size of the file; never exceeded. 4980, 5k (5000), 4.9k, 2Ki (2048), 1M",
    )
    rate.add_argument("--target-bpp", type=parse_bpp, metavar="BITS", help="the same in bits per pixel")
    rate.add_argument(
        "--latent-error",
        type=parse_number,
        metavar="E",
        help="the largest RMS error of the latents, relative to their RMS, .001 to 1; caches for training use .03",
    )
    metadata = encode.add_mutually_exclusive_group()
    metadata.add_argument(
        "--keep-metadata", action="store_true", help="keep metadata, as EXIF and XMP; they count towards the size"
    )
    metadata.add_argument("--strip", action="store_true", help="keep no metadata (the default)")
    encode.add_argument(
        "--alpha",
        choices=("near", "exact"),
        default="near",
        help="near (default): partly transparent pixels within 8 of 255 levels; fully transparent and opaque are exact",
    )
    encode.add_argument(
        "--tune",
        choices=("eyes", "psnr"),
        default="eyes",
        help="psnr: fewer bytes at equal squared error, one step for the whole picture; less sharp to the eye",
    )
    encode.add_argument(
        "--effort",
        type=int,
        choices=range(MAX_EFFORT + 1),
        default=0,
        metavar=f"0..{MAX_EFFORT}",
        help="better pictures at the same size for seconds to minutes of encoding; needs the pack's gradient.onnx, "
        "which python -m sdrt_export gradient PACK makes (default: 0, none)",
    )
    encode.add_argument(
        "--resampling",
        type=int,
        choices=RESAMPLINGS,
        help="code the picture at this fraction of its sides (default: 1, or what a small target needs)",
    )
    encode.add_argument(
        "--protect",
        choices=("auto", "text", "faces", "none"),
        default="auto",
        help="text: store type and screens as patches where the network would get them wrong; faces: give them more "
        "bytes (needs OpenCV); auto (default): whatever helps; none: neither",
    )
    encode.add_argument(
        "--roi",
        dest="regions",
        type=parse_region,
        action="append",
        default=[],
        metavar="X,Y,W,H[,WEIGHT]",
        help="a part of the picture that gets more of the bytes: its step is divided by WEIGHT, 1/3 to 3 (default: 2)",
    )
    encode.add_argument("--truth", action="store_true", help="store in the file how far each part is from the original")
    _add_engine(encode, "name, folder or zip of the model pack (default: tiny)")
    encode.set_defaults(run=_encode)


def _add_decode(commands: argparse._SubParsersAction[Any]) -> None:
    decode = commands.add_parser("decode", help=".sdl files -> pictures")
    _add_files(decode, "an .sdl file; - is stdin", "photo.sdl -> photo.png beside it; its suffix chooses the format")
    decode.add_argument(
        "--format", metavar="NAME", help="format if the output has no suffix: png (default), jpg, webp, ..."
    )
    decode.add_argument("--crop", type=parse_crop, metavar="X,Y,W,H", help="decode this part only")
    decode.add_argument(
        "--strip", action="store_true", help="write no metadata, not even the mark that parts are synthetic"
    )
    decode.add_argument("--truth", metavar="FILE", help="also write a copy with plausible and invented parts tinted")
    _add_engine(decode, "name, folder or zip of the model pack (default: the one that the file names)")
    decode.set_defaults(run=_decode)


def _add_files(parser: argparse.ArgumentParser, source: str, destination: str) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=source)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", metavar="FILE", help=f"default: {destination}; - is stdout")
    where.add_argument("--out-dir", metavar="FOLDER", help="write to this folder, under the inputs' names")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite files that exist")


def _add_engine(parser: argparse.ArgumentParser, model: str) -> None:
    parser.add_argument("--model", metavar="NAME|FOLDER|ZIP", help=model)
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto: the best that works; others fail if unavailable"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="default: fp16 on GPUs; elsewhere int8 where the pack has it, else w16 (bf16 in openvino where it can)",
    )
    parser.add_argument("--threads", type=parse_threads, metavar="N", help="threads of the inference engine")
    parser.add_argument(
        "--tile", type=parse_side, metavar="PX", help="side of the tiles of large pictures: smaller takes less memory"
    )
    add_max_pixels(parser)
    words = parser.add_mutually_exclusive_group()
    words.add_argument("-v", "--verbose", action="store_true", help="a line for each file: size, rate, device, time")
    words.add_argument("--quiet", action="store_true", help="errors only: no notes, no progress")


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Adds --max-pixels, whose value is that of ``Codec(max_pixels=...)``."""
    parser.add_argument(
        "--max-pixels",
        type=parse_max_pixels,
        default=DEFAULT_MAX_PIXELS,
        metavar="N",
        help="refuse larger pictures (0: no limit)",
    )


def parse_size(text: str) -> int:
    """``4980``, ``5k`` (5000), ``4.9k``, ``2Ki`` (2048), ``1M``, ``5kB`` -> bytes, rounded down."""
    number = text.strip().lower().removesuffix("b")
    unit = number.lstrip("0123456789.")
    try:
        return _at_least_one(float(number.removesuffix(unit)) * _UNITS[unit])
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write 4980, 5k, 4.9k, 2Ki or 1M") from None


def _at_least_one(size: float) -> int:
    if not 1 <= size < 2**40:
        raise ValueError(size)
    return int(size)


def parse_crop(text: str) -> tuple[int, int, int, int]:
    """``x,y,w,h`` in pixels."""
    try:
        x, y, width_px, height_px = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a crop: write x,y,width,height in pixels") from None
    return x, y, width_px, height_px


def parse_region(text: str) -> Region:
    """``x,y,w,h`` in pixels, or these and a weight."""
    try:
        x, y, width_px, height_px, *weight = text.split(",")
        return Region(int(x), int(y), int(width_px), int(height_px), *map(float, weight))
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a region: write x,y,width,height[,weight]") from None


def parse_quality(text: str) -> float:
    """A quality, 0 to 100."""
    number = parse_number(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 100")
    return number


def parse_bpp(text: str) -> float:
    """Bits per pixel, above 0 and below 1000."""
    number = parse_number(text)
    if not 0 < number < 1000:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below 1000")
    return number


def parse_number(text: str) -> float:
    """A floating-point number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def parse_threads(text: str) -> int:
    """A number of threads, 1 to MAX_THREADS."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_THREADS}")
    return int(text)


def parse_max_pixels(text: str) -> int | None:
    """A number of pixels, 1 or more; None for 0: no limit."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels (0 or more)")
    return int(text) or None


def parse_side(text: str) -> int:
    """The side of a tile in pixels, 1 to 2**21."""
    if not text.isdecimal() or not 1 <= int(text) <= 2**21:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels from 1 to 2097152")
    return int(text)


def _encode(arguments: argparse.Namespace) -> int:
    from sdrt.command import convert

    return convert.encode_files(arguments)


def _decode(arguments: argparse.Namespace) -> int:
    from sdrt.command import convert

    return convert.decode_files(arguments)
