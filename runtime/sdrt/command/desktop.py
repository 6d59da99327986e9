"""``sdrt desktop``: integrates .sdl files with file managers, shells, ``man`` and ``file``.

Everything is a small file below the user's data folder (or $XDG_DATA_HOME) and made here: nothing is downloaded, and
nothing that other programs have written is changed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdrt.command.console import print_stderr, print_stdout
from sdrt.container import sdl
from sdrt.errors import OutputError
from sdrt.user_folders import DATA, user_folder

_NAME = "sdrt"
_VERSION_AT = len(sdl.MAGIC)
_FLAGS_AT = _VERSION_AT + 2
"""Offset of the byte whose upper five bits are reserved, and 0 in every version so far."""


def add_to(commands: argparse._SubParsersAction[Any], parser: argparse.ArgumentParser) -> None:
    """Adds the parser of this command to ``parser``, that of ``sdrt``, which manual and completions are made from."""
    desktop = commands.add_parser(
        "desktop", help="thumbnails in file managers, a manual page and completions, for this user"
    )
    desktop.add_argument("action", choices=("install", "remove"))
    desktop.add_argument("--dry-run", action="store_true", help="only print what would be written or removed")
    desktop.set_defaults(run=lambda arguments: _run(arguments, parser))


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        data = Path(user_folder(*DATA)).expanduser()
    except RuntimeError:
        raise OutputError("this user's data folder is unknown: set XDG_DATA_HOME or HOME") from None
    files = desktop_files(parser, command_words())
    would = "would " if arguments.dry_run else ""
    for name, content in files.items():
        path = data / name
        if arguments.action == "install":
            print_stdout(f"{would}write {path}")
            if not arguments.dry_run:
                _write(path, content)
        elif os.path.lexists(path):  # unlike Path.exists, it is False of what cannot be looked at
            print_stdout(f"{would}remove {path}")
            if not arguments.dry_run:
                _remove(path)
    if not arguments.dry_run:
        _update_mime_database(data / "mime")
        if arguments.action == "install":
            print_stderr(f"zsh looks for completions in $fpath: add {data / 'zsh/site-functions'} to it")
            print_stderr(f"file(1) looks for magic in ~/.magic: append {data / 'sdrt/magic'} to it")
    return 0


def command_words() -> list[str]:
    """The command line that starts sdrt, with an absolute path: a file manager's $PATH differs from a shell's."""
    import shutil

    started = Path(sys.argv[0])
    found = str(started.absolute()) if started.name == _NAME and started.is_file() else shutil.which(_NAME)
    return [sys.executable, "-m", _NAME] if found is None else [found]


def desktop_files(parser: argparse.ArgumentParser, command: Sequence[str]) -> dict[str, str]:
    """Path below the data folder -> content.

    Args:
        parser: Of ``sdrt``.
        command: How a file manager starts ``sdrt``: the program's absolute path and its first arguments.
    """
    from sdrt import __version__
    from sdrt.command import manual

    return {
        f"mime/packages/{_NAME}.xml": _mime_type(),
        f"thumbnailers/{_NAME}.thumbnailer": _thumbnailer(command),
        f"man/man1/{_NAME}.1": manual.manual(parser, __version__),
        f"bash-completion/completions/{_NAME}": manual.bash_completion(parser),
        f"zsh/site-functions/_{_NAME}": manual.zsh_completion(parser),
        f"fish/vendor_completions.d/{_NAME}.fish": manual.fish_completion(parser),
        f"{_NAME}/magic": _magic(),
    }


def _mime_type() -> str:
    """Source: https://specifications.freedesktop.org/shared-mime-info-spec/latest/"""
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="{sdl.MEDIA_TYPE}">
    <comment>sdrt image</comment>
    <generic-icon name="image-x-generic"/>
    <glob pattern="*{sdl.SUFFIX}"/>
    <magic priority="60">
      <match type="string" offset="0" value="{sdl.MAGIC.decode("ascii")}">
        <match type="byte" offset="{_VERSION_AT}" value="{sdl.VERSION}">
          <match type="byte" offset="{_FLAGS_AT}" mask="0xf8" value="0"/>
        </match>
      </match>
    </magic>
  </mime-type>
</mime-info>
"""


def _thumbnailer(command: Sequence[str]) -> str:
    """The program's path stands between quotes where a desktop entry wants them; % begins what is filled in.

    Source: https://specifications.freedesktop.org/desktop-entry-spec/latest/exec-variables.html
    """
    words = [
        word if re.fullmatch(r"[\w/.+-]+", word) else '"' + re.sub(r'(["`$\\])', r"\\\1", word) + '"'
        for word in command
    ]
    return f"""\
[Thumbnailer Entry]
TryExec={command[0]}
Exec={" ".join(words).replace("%", "%%")} thumbnail %i %o %s
MimeType={sdl.MEDIA_TYPE};
"""


def _magic() -> str:
    """One test for file(1): magic(5)."""
    return f"""\
0\tstring\t{sdl.MAGIC.decode("ascii")}
>{_VERSION_AT}\tubyte\t{sdl.VERSION}
>>{_FLAGS_AT}\tubyte&0xf8\t0\tsdrt image, version {sdl.VERSION}
!:mime\t{sdl.MEDIA_TYPE}
!:ext\t{sdl.SUFFIX.lstrip(".")}
"""


def _write(path: Path, content: str) -> None:
    from sdrt.atomic import make_folder, write_atomic

    make_folder(path.parent)
    write_atomic(path, content.encode())


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from None


def _update_mime_database(folder: Path) -> None:
    """Runs the program that compiles MIME packages into the database that file managers read, if it is installed."""
    import shutil
    import subprocess

    program = shutil.which("update-mime-database")
    if program is None:
        print_stderr(
            "update-mime-database is not installed: thumbnails appear after it has run, or after the next login"
        )
        return
    if os.path.isdir(folder):  # noqa: PTH112 (Path.is_dir raises where it cannot look)
        print_stdout(f"run {program} {folder}")
        try:
            subprocess.run([program, folder], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            print_stderr(f"{program} cannot be run: {error.strerror or error}")
