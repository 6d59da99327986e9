"""The command ``sdrt``: parses arguments, and turns each error into one line and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from sdrt import __version__
from sdrt.command import convert_arguments, desktop, install, latents_arguments, thumbnail
from sdrt.command.console import (
    USAGE,
    flush_stdout,
    in_words,
    print_stdout,
    printable,
    read_input,
    report_error,
    write_stderr,
    write_stdout,
)
from sdrt.errors import SdrtError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PROGRAM = "sdrt"
_EPILOG = """\
exit codes: 0 done, 1 unexpected, 2 wrong usage, 3 not an .sdl file, 4 not supported, 5 corrupt, 6 over a limit,
7 model pack, 8 inference engine, 9 unreadable input, 10 output, 130 interrupted. With several inputs all are tried, and
the exit code is that of the first error.
"""


class _Parser(argparse.ArgumentParser):
    """Reports help that cannot be written as an error, and wrong usage in one line without control characters."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is sys.stdout:
            write_stdout(message)  # argparse's own way ignores every error
        else:
            write_stderr(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        flush_stdout()
        super().exit(status, message)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # argparse's overloads
        """Of a command, what it does not know is an error of its own: argparse's names the help of all commands."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown and self.prog != PROGRAM:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {printable(message)} ({self.prog} --help says more)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Usage errors, help and version leave through argparse with theirs."""
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.run
        code = command(arguments)
        flush_stdout()
        return code
    except Exception as error:  # the last line of defense: a person gets a line, not a stack
        return report_error(error)


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        description="Photographs in a few kilobytes: encode pictures to .sdl files and decode them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sdrt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    convert_arguments.add_to(commands)
    latents_arguments.add_to(commands)

    info = commands.add_parser("info", help="show what .sdl files state: size, rate, model, chunks")
    info.add_argument("inputs", nargs="+", metavar="FILE", help="an .sdl file; - is stdin")
    info.add_argument("--json", action="store_true", help="one line of JSON for each file")
    info.add_argument("--truth", action="store_true", help="shares of the picture that are kept, plausible, invented")
    info.set_defaults(run=_info)

    models = commands.add_parser("models", help="list the model packs found, and the search paths")
    models.add_argument("--json", action="store_true", help="one line of JSON for each pack")
    models.set_defaults(run=_models)

    pack = commands.add_parser("pack", help="write the smallest folder or zip of a model pack, to install elsewhere")
    pack.add_argument("pack", metavar="NAME|FOLDER|ZIP")
    pack.add_argument("--out", required=True, metavar="FOLDER|FILE.zip", help="must not exist yet")
    pack.add_argument("--decoder-only", action="store_true", help="without the encoder: it decodes only")
    pack.add_argument("--precision", help="w16, fp16, int8, ... as far as the pack has it (default: what a CPU runs)")
    pack.set_defaults(run=_pack)

    install.add_to(commands)
    thumbnail.add_to(commands)
    desktop.add_to(commands, parser)

    doctor = commands.add_parser(
        "doctor", help="check the installation: versions, devices, model packs and their hashes"
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _info(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from sdrt.command.truth import truth_of
    from sdrt.file_info import info

    code = 0
    for source in arguments.inputs:
        try:
            data = read_input(source)
            about = asdict(info(data))
            if arguments.truth:
                about["truth"] = truth_of(data, as_json=arguments.json)
        except SdrtError as error:
            failure = report_error(error, source)
            code = code or failure
            continue
        if arguments.json:
            print_stdout(json.dumps({"file": source, **about}))
        else:
            print_stdout(f"{source}:")
            for key, value in about.items():
                print_stdout(f"  {key:15} {in_words(value)}")
    return code


def _models(arguments: argparse.Namespace) -> int:
    from sdrt.command import doctor

    return doctor.list_models(as_json=arguments.json)


def _pack(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from sdrt.command import ship
    from sdrt.packs import search

    shipment = ship.ship(
        search.load_pack(arguments.pack),
        Path(arguments.out),
        precision=arguments.precision,
        decoder_only=arguments.decoder_only,
    )
    print_stdout(f"{shipment.path}: {shipment.bytes:,} bytes ({', '.join(shipment.files)})")
    return 0


def _doctor(_arguments: argparse.Namespace) -> int:
    from sdrt.command import doctor

    return doctor.examine()
