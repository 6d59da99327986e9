"""``sdrt install``: installs a model pack for ``--model`` and for decoding."""

from __future__ import annotations

import argparse
from typing import Any

from sdrt.command.console import print_stderr, print_stdout


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the parser of this command."""
    parser = commands.add_parser("install", help="verify a model pack and copy it to the user's pack folder")
    parser.add_argument("pack", metavar="FILE.zip|FOLDER", help="as sdrt pack writes it; nothing is downloaded")
    parser.add_argument("--name", help="its name for --model (default: the name of the zip or folder)")
    parser.add_argument("-f", "--force", action="store_true", help="replace a pack of that name")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from sdrt.packs import search
    from sdrt.packs.install import install

    done = install(Path(arguments.pack), name=arguments.name, replace=arguments.force)
    pack = done.pack
    print_stdout(f"{pack.folder}: {len(pack.files)} files verified; --model {pack.called}")
    first = search.load_pack(pack.called)
    if first.folder != pack.folder:
        print_stderr(f"--model {pack.called} still finds {first.folder} first; for this pack use --model {pack.folder}")
    if done.lost_priors:
        lost = ", ".join(identity.hex() for identity in done.lost_priors)
        print_stderr(f"the replaced pack had prior {lost}: files written with it can no longer be decoded")
    return 0
