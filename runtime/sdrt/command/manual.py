"""The manual page and shell completions, generated from the argument parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One option or positional of a command.

    Attributes:
        flags: As typed, ``-q`` and ``--quality``; empty for a positional.
        value: The placeholder of its value, "" if it takes none.
        choices: The values that it accepts; empty for any.
        help: One line, or "".
    """

    flags: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Command:
    """One command of ``sdrt``: its name, its help, and its arguments in the order of the help."""

    name: str
    help: str
    words: tuple[Word, ...]

    @property
    def flags(self) -> list[str]:
        return [flag for word in self.words for flag in word.flags]


def commands_of(parser: argparse.ArgumentParser) -> list[Command]:
    """The commands of the parser of ``sdrt``."""
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return [
        Command(name, helps[name], tuple(_words(command)))
        for name, command in subparsers.choices.items()
        if name in helps
    ]


def _words(parser: argparse.ArgumentParser) -> Iterator[Word]:
    for action in parser._actions:
        choices = tuple(str(choice) for choice in action.choices or ())
        value = ""
        if action.nargs != 0:
            value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
            value = "|".join(choices) if choices and action.metavar is None else value
        yield Word(tuple(action.option_strings), value, choices, (action.help or "") % vars(action))


def manual(parser: argparse.ArgumentParser, version: str) -> str:
    """``sdrt.1``, in the macros of man(7)."""
    lines = [
        f'.TH SDRT 1 "" "sdrt {version}" "User Commands"',
        ".SH NAME",
        f"sdrt \\- {_roff((parser.description or '').rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B sdrt",
        ".I COMMAND",
        "[options] ...",
    ]
    for command in commands_of(parser):
        lines += [f".SH SDRT {command.name.upper()}", f"{_roff(command.help)}."]
        for word in command.words:
            flags = ", ".join(f"\\fB{_roff(flag)}\\fR" for flag in word.flags)
            value = f"\\fI{_roff(word.value)}\\fR" if word.value else ""
            lines += [".TP", " ".join(part for part in (flags, value) if part), _roff(word.help) or "\\&"]
    lines += [".SH EXIT STATUS", _roff(" ".join((parser.epilog or "").removeprefix("exit codes:").split()))]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def bash_completion(parser: argparse.ArgumentParser) -> str:
    """A bash completion: commands, their options, the choices of options; file names elsewhere."""
    commands = commands_of(parser)
    lines = [
        "# Made by sdrt desktop install.",
        "_sdrt() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=",
        "    case ${COMP_CWORD:-1},${COMP_WORDS[1]},$before in",
        f"        1,*) words='{' '.join(command.name for command in commands)} --help --version' ;;",
    ]
    for command in commands:
        for word in command.words:
            if word.choices and word.flags:
                cases = "|".join(f"*,{command.name},{flag}" for flag in word.flags)
                lines.append(f"        {cases}) words='{' '.join(word.choices)}' ;;")
        known = [choice for word in command.words if not word.flags for choice in word.choices]
        options = " ".join(command.flags)
        if known:
            lines.append(f"        *,{command.name},*) words='{' '.join(known)} {options}' ;;")
        else:
            lines.append(f"        *,{command.name},*) [[ $word == -* ]] && words='{options}' ;;")
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _sdrt sdrt",
    ]
    return "\n".join(lines) + "\n"


def zsh_completion(parser: argparse.ArgumentParser) -> str:
    """The same for zsh, as a file in a folder of $fpath: wraps bash's function, which zsh can run."""
    head = "#compdef sdrt\nautoload -U +X bashcompinit && bashcompinit\n"
    return head + bash_completion(parser) + "_bash_complete -o default -F _sdrt\n"  # the first time; later zsh does so


def fish_completion(parser: argparse.ArgumentParser) -> str:
    """The same for fish, with the help of each command and option."""
    lines = ["# Made by sdrt desktop install."]
    for command in commands_of(parser):
        lines.append(f"complete -c sdrt -n __fish_use_subcommand -f -a {command.name} -d {_quoted(command.help)}")
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        for word in command.words:
            names = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in word.flags)
            known = f" -a {_quoted(' '.join(word.choices))}" if word.choices else ""
            kind = (" -x" if known else " -r") if names and word.value else " -f" if known else ""
            about = f" -d {_quoted(word.help)}" if word.help else ""
            if names or known:
                lines.append(f"complete -c sdrt {seen} {names}{kind}{known}{about}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
