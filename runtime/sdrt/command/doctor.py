"""``sdrt doctor`` and ``sdrt models``: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Protocol

from sdrt import __version__
from sdrt.command.console import in_words, print_stdout, report_error
from sdrt.errors import EngineError, ModelError
from sdrt.network.devices import DEVICE_FACTS, DEVICES, precisions_by_device
from sdrt.packs import search
from sdrt.packs.manifest import PRIOR

PROBLEM = 1
COLUMN = len("device ") + max(map(len, DEVICES))
"""The width of what was checked; the name of a pack may be longer."""


class Report(Protocol):
    """Prints one line: what was checked, and the result."""

    def __call__(self, what: str, says: str, *, good: bool = True) -> None: ...


def list_models(*, as_json: bool) -> int:
    """Print the usable packs on stdout, each by its name for ``--model``, and on stderr why others cannot be used.

    Returns the exit code.
    """
    packs, refusals = search.scan_packs()
    places: dict[str, Path] = {}  # of the pack that a name finds: the first
    for pack in packs:
        model = pack.called if pack.folder == places.setdefault(pack.called, pack.folder) else str(pack.folder)
        about = {
            "model": model,
            "name": pack.name,
            "space": pack.space.id,
            "channels": pack.space.channels,
            "downscale": pack.space.downscale,
            "precisions": list(pack.precisions),
            "runs": precisions_by_device(pack.precisions),
            "bytes": sum(entry["bytes"] for entry in pack.manifest["files"].values()),
            "space_identity": pack.space.identity.hex(),
            "prior_identity": pack.prior_identity.hex() if PRIOR in pack.files else None,
            "priors": [identity.hex() for identity in pack.priors],
            "encodes": any(name.startswith("encoder.") for name in pack.files),
            "folder": str(pack.folder),
        }
        if as_json:
            print_stdout(json.dumps(about))
        else:
            print_stdout(model)
            for key, value in about.items():
                print_stdout(f"  {key:15} {in_words(value)}")
    if not packs and not as_json:
        print_stdout("no model packs; searched:")
        for path in search.search_paths():
            print_stdout(f"  {path}")
    return max([report_error(refusal) for refusal in refusals], default=0)


def examine() -> int:
    """Print a report on stdout; every problem begins with "!" and says what to do. Returns 1 if there was any."""
    problems = 0

    def report(what: str, says: str, *, good: bool = True) -> None:
        nonlocal problems
        problems += not good
        print_stdout(f"{' ' if good else '!'} {what:{COLUMN}} {says}")

    report("sdrt", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("numpy", "pillow", "constriction"):
        try:
            report(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            report(package, f"is not installed: pip install {package}", good=False)
    _examine_engines(report)
    _examine_packs(report)
    print_stdout(f"{problems or 'no'} problem{'s' * (problems != 1)} found")
    return PROBLEM if problems else 0


def _examine_engines(report: Report) -> None:
    from sdrt.network import installed

    onnxruntimes = installed.installed_onnxruntimes()
    if len(onnxruntimes) > 1:
        names = " ".join(entry.split()[0] for entry in onnxruntimes)
        installs = dict.fromkeys(facts.install for facts in DEVICE_FACTS.values() if facts.engine == "onnxruntime")
        report(
            "onnxruntime",
            f"{' and '.join(onnxruntimes)} are both installed and overwrite each other's files: "
            f"pip uninstall -y {names}, then {' or '.join(installs)}",
            good=False,
        )
    elif onnxruntimes:
        report("onnxruntime", onnxruntimes[0])
    try:
        devices = installed.available_devices()
    except EngineError as error:
        report("engine", str(error), good=False)
        return
    from sdrt.network import probe

    for device in devices:
        why = probe.failure(device.device) if device.available else None
        works = device.available and why is None
        report(f"device {device.device}", f"{'yes' if works else 'no'}, {why or device.detail}", good=why is None)
    if not any(device.available for device in devices):
        report("engine", f"none is installed: {DEVICE_FACTS['cpu'].install}", good=False)


def _examine_packs(report: Report) -> None:
    packs, refusals = search.scan_packs()
    for refusal in refusals:
        report("pack", str(refusal), good=False)
    for pack in packs:
        try:
            for name in pack.files:
                search.read_verified(pack, name)
        except ModelError as error:
            report(f"pack {pack.name}", str(error), good=False)
        else:
            runs = in_words(precisions_by_device(pack.precisions))
            report(f"pack {pack.name}", f"{len(pack.files)} files verified; {runs}; in {pack.folder}")
    if not packs:
        searched = ", ".join(str(path) for path in search.search_paths())
        report("pack", f"none found; searched {searched}", good=False)
