"""What a run does to each picture, the same in every worker and in every attempt."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from sdrt import EncodeOptions, OutputError
from sdrt.atomic import write_atomic
from sdrt.latent_cache import OWN
from sdrt.model_cache import DEFAULT_MODEL
from sdrt.network.devices import Device, Precision
from sdrt.options import LatentForm
from sdrt.packs.search import load_pack
from sdrt_batch.units import Kind

Job = Literal["encode", "decode", "latents"]
RECORD = "_run.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The job for every picture, and the form of its results.

    Args:
        job: What is done.
        destination: The folder of results; every worker sees it under this path.
        form: How results are kept: a file each, or in the shards that they came in.
        model: Name or folder of the pack; None: as ``sdrt.Codec``.
        device, precision, threads, max_pixels: As of ``sdrt.Codec``.
        options: Of .sdl files that are written.
        picture_format: Of pictures that are written, such as "png".
        latent_form: What latents are written as.
        picture_column, key_column: Of Parquet files; None: what is found there.
        pack: Identities of the space and the prior that .sdl files are written with; "" where none are.
        since_ns: A result that was last changed before this time of the file system is of other settings.
    """

    job: Job
    destination: str
    form: Kind = "files"
    model: str | None = None
    device: Device = "auto"
    precision: Precision | None = None
    threads: int | None = 1
    max_pixels: int | None = None
    options: EncodeOptions = field(default_factory=EncodeOptions)
    picture_format: str = "png"
    latent_form: LatentForm = "npz"
    picture_column: str | None = None
    key_column: str | None = None
    pack: str = ""
    since_ns: int = 0

    @property
    def extensions(self) -> tuple[str, ...]:
        """Suffixes of the files of one result; it is done if the first one exists."""
        if self.job == "latents" and self.latent_form == "sdl":
            return OWN
        return (self.extension,)

    @property
    def extension(self) -> str:
        """Suffix of the file whose existence means that a picture is done."""
        if self.job == "encode":
            return "sdl"
        return self.picture_format if self.job == "decode" else self.latent_form.partition("-")[0]


def with_record(settings: Settings, *, again: bool) -> Settings:
    """Records the settings in the destination, and refuses to mix them with others.

    Returns:
        The settings with ``since_ns``, the time at which the word was written: it stays as long as settings do.

    Raises:
        OutputError: An earlier run with other settings wrote there; ``again``: its results count for nothing.
        ModelError: The pack is missing or altered.
    """
    writes_sdl = settings.job == "encode" or (settings.job == "latents" and settings.latent_form == "sdl")
    if writes_sdl:
        pack = load_pack(settings.model or DEFAULT_MODEL)
        settings = replace(settings, pack=f"{pack.space.identity.hex()} {pack.prior_identity.hex()}")
    other = {"destination", "device", "threads", "max_pixels", "since_ns"}  # they change nothing that a result means
    word = {name: value for name, value in asdict(settings).items() if name not in other}
    text = json.dumps(word, indent=1, sort_keys=True)
    path = Path(settings.destination) / RECORD
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text("utf-8", "replace") if path.exists() else None
        if before not in (text, None) and not again:
            raise OutputError(
                f"{settings.destination} holds results of other settings ({RECORD} has them): choose another folder, "
                "or --force to redo them"
            )
        if before != text:
            write_atomic(path, text.encode("utf-8"))
        return replace(settings, since_ns=path.stat().st_mtime_ns)
    except OSError as error:
        raise OutputError(f"cannot write to {settings.destination}: {error.strerror or error}") from None
