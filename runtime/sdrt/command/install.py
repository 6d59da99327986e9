"""``sdrt install``: a model pack becomes one that ``--model`` and files find."""

from __future__ import annotations

import argparse
from typing import Any

from sdrt.command.console import say, tell


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the parser of this command."""
    parser = commands.add_parser("install", help="a model pack -> the user's folder of packs, verified")
    parser.add_argument("pack", metavar="FILE.zip|FOLDER", help="as sdrt pack writes them; nothing is ever downloaded")
    parser.add_argument("--name", help="what --model shall call it (default: the name of the zip or folder)")
    parser.add_argument("-f", "--force", action="store_true", help="replace a pack of that name")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from sdrt.packs import search
    from sdrt.packs.install import install

    done = install(Path(arguments.pack), name=arguments.name, replace=arguments.force)
    pack = done.pack
    tell(f"{pack.folder}: {len(pack.files)} files as the manifest says; --model {pack.called}")
    first = search.load_pack(pack.called)
    if first.folder != pack.folder:
        say(f"{first.folder} comes first where {pack.called} is asked for: --model {pack.folder} is this one")
    if done.lost_priors:
        lost = ", ".join(identity.hex() for identity in done.lost_priors)
        say(f"files written with prior {lost} have lost their pack: the one that was here had it")
    return 0
