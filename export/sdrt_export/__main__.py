"""``python -m sdrt_export``: exports autoencoders to model packs, verifies packs, and adds priors and graphs."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdrt.command.console import print_stderr, report_error
from sdrt.errors import ModelError, SdrtError
from sdrt.packs.manifest import GRADIENT
from sdrt.packs.search import load_pack
from sdrt_export import build_tensorrt, from_onnx, optimum_layout, pack_gradient
from sdrt_export.exported_pack import (
    kept_fields,
    recorded_source,
    report_exported,
    report_parities,
    write_exported,
)
from sdrt_export.spaces import SPACES

if TYPE_CHECKING:
    from sdrt_export.sources import SourceOptions

# torch and diffusers take seconds to import: each command imports what it needs.

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Errors on purpose become one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["prior"]:
            from sdrt_export import prior_command

            return prior_command.main(arguments[1:])
        if arguments[:1] == ["int8"]:
            from sdrt_export import int8

            return int8.main(arguments[1:])
        if arguments[:1] == ["effort"]:
            from sdrt_export import effort_pack

            return effort_pack.main(arguments[1:])
        options = _parser().parse_args(arguments)
        code: int = options.run(options)
        return code
    except SdrtError as error:
        return report_error(error, program="sdrt_export")
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        print_stderr(f"sdrt_export: {place}{error.strerror or error}")
        return SdrtError.exit_code
    except KeyboardInterrupt:
        goes_on = "; the same command resumes" if arguments[:1] == ["prior"] else ""
        print_stderr(f"sdrt_export: interrupted{goes_on}")
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdrt_export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    graph = commands.add_parser("graph", help="checkpoint -> graphs and manifest")
    graph.add_argument("source", help="hub repository OWNER/NAME, diffusers folder, or checkpoint file")
    graph.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the pack, for example models/sd15")
    graph.add_argument("--name", help="the pack's name (default: the folder's)")
    graph.add_argument("--precision", nargs="+", default=["w16"], choices=["w16", "fp16", "fp32"])
    graph.add_argument(
        "--allow-overflow", action="store_true", help="write fp16 even if activations exceeded its range"
    )
    _add_source_options(graph)
    graph.set_defaults(run=_graph)

    verify = commands.add_parser("verify", help="compare the pack's graphs with torch; exit code 1 if they differ")
    verify.add_argument("pack", type=Path)
    verify.add_argument("--source", help="default: the source that the manifest names")
    verify.add_argument("--device", default="auto")
    _add_source_options(verify)
    verify.set_defaults(run=_verify)

    commands.add_parser("prior", help="photographs -> the pack's prior (see: prior --help)", add_help=False)

    commands.add_parser("int8", help="photographs -> the pack's 8-bit graphs (see: int8 --help)", add_help=False)

    commands.add_parser("effort", help="build the perceptual networks for sdrt encode --effort", add_help=False)

    output = commands.add_parser("output", help="make the decoders return samples (float32) or pixels (uint8)")
    output.add_argument("pack", type=Path)
    output.add_argument("output", choices=["uint8", "float32"])
    output.set_defaults(run=_output)

    from_onnx.add_command(commands)
    pack_gradient.add_command(commands)
    optimum_layout.add_command(commands)
    build_tensorrt.add_command(commands)
    return parser


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    parser.add_argument("--subfolder", help="the autoencoder's folder in the source (default: its root, then vae)")
    parser.add_argument("--space", help=f"the latent space's id: {', '.join(SPACES)}, or any other name")
    parser.add_argument("--scale", type=float, help="override the configuration's scaling factor")
    parser.add_argument("--shift", type=float, help="override the configuration's shift factor")
    parser.add_argument("--norm-groups", type=int, help="groups of a single file's normalizations (32)")
    parser.add_argument("--license", help="the weights' license, for the manifest")


def _graph(options: argparse.Namespace) -> int:
    from sdrt_export.graph import export_modules
    from sdrt_export.sources import open_source

    source = open_source(options.source, _source_options(options))
    for note in source.notes:
        print_stderr(f"sdrt_export: assumed: {note}")
    kept = kept_fields(options.out, source.space.identity)
    exported = export_modules(
        source.encoder,
        source.decoder,
        options.out,
        space=source.space,
        latent_distribution=source.latent_distribution,
        precisions=options.precision,
        allow_overflow=options.allow_overflow,
    )
    pack = write_exported(
        options.out,
        exported,
        kept,
        name=options.name,
        space=source.space,
        source=source.provenance,
        license=source.license,
    )
    return report_exported(pack, exported)


def _verify(options: argparse.Namespace) -> int:
    from sdrt_export.sources import open_source
    from sdrt_export.verify import verify_pack

    pack = load_pack(options.pack)
    origin = recorded_source(pack)
    location = options.source or origin.get("location")
    if not location:
        raise ModelError(f"the manifest of {pack.folder} names no source that can be exported again: give --source")
    if origin.get("kind") == from_onnx.KIND and Path(location).is_dir():
        return from_onnx.verify(pack, Path(location), options.device)
    chosen = _source_options(options)
    if not options.source:
        # The options of the export are in the manifest and need not be repeated.
        chosen = replace(
            chosen,
            revision=chosen.revision or origin.get("revision"),
            subfolder=chosen.subfolder or origin.get("subfolder"),
            norm_groups=chosen.norm_groups or origin.get("norm_groups"),
            space=chosen.space or pack.space.id,
            scale=chosen.scale if chosen.scale is not None else origin.get("scale"),
            shift=chosen.shift if chosen.shift is not None else origin.get("shift"),
        )
    source = open_source(location, chosen)
    if source.space != pack.space:
        raise ModelError(f"the pack has latent space {pack.space.id}, {location} has {source.space.id}")
    against = source.reference()
    print(f"compared with {against.reader}")
    parities = verify_pack(pack, source.encoder, source.decoder, against=against, device=options.device)
    return report_parities(pack, parities)


def _output(options: argparse.Namespace) -> int:
    from sdrt_export.pixel_output import set_output

    pack = load_pack(options.pack)
    changed = set_output(pack, options.output)
    if GRADIENT in pack.files and changed:
        pack_gradient.add_to_pack(load_pack(options.pack))
    print(f"{options.pack}: {', '.join(changed) or 'no decoder'} changed to return {options.output}")
    return 0


def _source_options(options: argparse.Namespace) -> SourceOptions:
    from sdrt_export.sources import SourceOptions

    return SourceOptions(
        revision=options.revision,
        subfolder=options.subfolder,
        space=options.space,
        scale=options.scale,
        shift=options.shift,
        norm_groups=options.norm_groups,
        license=options.license,
    )


def process() -> int:
    """`main` of the process of the command. An interrupted one dies of SIGINT, so that a shell's loop ends as well."""
    code = main()
    if code == _INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    return code


if __name__ == "__main__":
    sys.exit(process())
