"""Checkpoints -> model pack: ``python -m sdrt_train.pack training/runs/NAME/checkpoint.pt --out models/tiny``.

Exports the averaged weights, of several checkpoints their mean, through the export stage's one exporter and writes the
run's settings into the manifest. The prior is fitted afterwards: ``python -m sdrt_export prior models/tiny --images
FOLDER``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from sdrt.errors import ModelError, SdrtError
from sdrt.packs.manifest import LatentSpace, ModelPack, is_prior
from sdrt_export.graph import export_modules
from sdrt_export.pack_gradient import add_to_pack
from sdrt_export.pack_writer import update_manifest, write_pack
from sdrt_export.verify import report, verify_pack
from sdrt_train.folded import UNIT_LOG2_STEP, fold
from sdrt_train.model import DOWNSCALE, LOG2_STEPS, Autoencoder, mean_weights, read_checkpoint

STEPS_PER_OCTAVE = 64
_DEFAULT_LOG2_STEP = 6.5
UNIT_STEP_INDEX = 512  # a step of 2 ** UNIT_LOG2_STEP 8-bit levels


def _index(log2_step: float) -> int:
    return UNIT_STEP_INDEX + round((log2_step - UNIT_LOG2_STEP) * STEPS_PER_OCTAVE)


def space_of(model: Autoencoder) -> LatentSpace:
    """A latent space is what its encoder makes it, so its id carries the hash of the encoder's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    channels, unit = model.config.latent_channels, 2.0**-UNIT_LOG2_STEP
    return LatentSpace(f"sdrt-wide-{digest.hexdigest()[:8]}", channels, DOWNSCALE, unit, 0.0)


def read_checkpoints(paths: Sequence[Path]) -> tuple[Autoencoder, dict[str, object]]:
    """The mean of the checkpoints' models, in evaluation mode, and what the manifest says of the last one's training.

    Raises ModelError for what is no checkpoint of ``sdrt_train.train``, and for models of different shapes.
    """
    read = []
    for path in paths:
        try:
            read.append(read_checkpoint(path))
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    model, state = read[-1]
    if any(other.config != model.config for other, _ in read):
        raise ModelError("the checkpoints are of different models")
    model.load_state_dict(mean_weights([other.state_dict() for other, _ in read]))
    training = {
        "stage": state["stage"],
        "steps": state["step"],
        "hours": round(state["seconds"] / 3600, 3),
        "recipe": state["recipe"],
    }
    return model.eval(), training if len(read) == 1 else {**training, "mean_of": len(read)}


def write(checkpoints: Sequence[Path], folder: Path, photos: str) -> ModelPack:
    """Writes graphs and manifest of checkpoints. Raises ModelError or OutputError."""
    model, training = read_checkpoints(checkpoints)
    space = space_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.npz"):
        if is_prior(path.name):  # of other latents
            path.unlink()
    halves = fold(model)
    exported = export_modules(*halves, folder, space=space, quality_input=model.config.quality)
    pack = write_pack(
        folder,
        name=folder.name,
        space=space,
        files=dict(exported.files),
        latent_distribution=exported.latent_distribution,
        quality_input=model.config.quality,
        halo=exported.halo,
        quality_range=(_index(LOG2_STEPS[1]), _index(LOG2_STEPS[0])),
        default_step=_index(_DEFAULT_LOG2_STEP),
        source={"trained_by": "training/sdrt_train", "photographs": photos},
        graphs=exported.graphs,
        training=training,
        license="Apache-2.0",
    )
    return add_to_pack(_verified(pack, *halves))


def _verified(pack: ModelPack, encoder: nn.Module, decoder: nn.Module) -> ModelPack:
    """The pack with its parity against torch in the manifest. Raises ModelError if the graphs miss their tolerance."""
    parities = verify_pack(pack, encoder, decoder, device="cpu")
    if not all(parity.passed for parity in parities):
        raise ModelError(f"{pack.folder}: the graphs differ from torch by more than is allowed: {report(parities)}")
    return update_manifest(pack.folder, verified=report(parities))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.pack", description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="of several, the mean of their weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack; its last part is the pack's name")
    parser.add_argument("--photographs", default="see training/README.md", help="what it was trained on, in words")
    arguments = parser.parse_args()
    try:
        pack = write(arguments.checkpoints, arguments.out, arguments.photographs)
    except SdrtError as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return error.exit_code
    sizes = ", ".join(f"{path.name} {path.stat().st_size:,} bytes" for path in sorted(pack.folder.iterdir()))
    print(f"{pack.name}: space {pack.space.id}; {sizes}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
