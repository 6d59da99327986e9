"""sdrt_export's sources: every form in which an autoencoder is kept gives the tensors that diffusers gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from sdrt.errors import ModelError
from sdrt.network.engine import Engine
from sdrt.packs.manifest import LatentSpace
from sdrt_export import hub, spaces
from sdrt_export.classes import CLASSES
from sdrt_export.graph import export_modules
from sdrt_export.sources import Source, SourceOptions, open_source
from sdrt_export.spaces import SPACES, guess_family, resolve_space

pytest.importorskip("diffusers")

from tests import small_autoencoders as small

from sdrt_export.autoencoders import describe_space, encoder_digest
from sdrt_export.ldm_names import describe, to_diffusers

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Form:
    """A form in which people have an autoencoder, as docs/PACKS.md lists it."""

    words: str
    class_name: str
    build: Callable[[Any, Path], str]
    """Writes it below an empty folder; gives the location to export."""
    settings: dict[str, Any] = field(default_factory=dict)
    options: SourceOptions | None = None
    read_by: str = "diffusers"
    """Who reads the weights that the export is compared with."""


def _folder(**how: Any) -> Callable[[Any, Path], str]:
    def build(vae: Any, folder: Path) -> str:
        vae.save_pretrained(folder / "vae", **how)
        return str(folder)

    return build


def _file(name: str, change: Callable[[Any], dict[str, torch.Tensor]]) -> Callable[[Any, Path], str]:
    def build(vae: Any, folder: Path) -> str:
        state = {key: value.contiguous() for key, value in change(vae).items()}
        if name.endswith((".safetensors", ".sft")):
            save_file(state, folder / name)
        else:
            torch.save({"state_dict": state, "global_step": 3}, folder / name)
        return str(folder / name)

    return build


def _shards(vae: Any, folder: Path) -> str:
    (folder / "vae").mkdir()
    small.save_shards(vae, folder / "vae")
    return str(folder)


def _old_names_in_a_folder(vae: Any, folder: Path) -> str:
    vae.save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file(small.with_old_attention_names(load_file(path)), path, metadata={"format": "pt"})
    return str(folder)


def _pair(suffix: str, *, several: bool = False) -> Callable[[Any, Path], str]:
    def build(vae: Any, folder: Path) -> str:
        small.save_pair(vae, folder, "taesd", suffix)
        if several:
            small.save_pair(vae, folder, "taesdxl", suffix)
            return str(folder / f"taesd_encoder{suffix}")
        return str(folder)

    return build


def _half_precision(vae: Any, folder: Path) -> str:
    vae.half().save_pretrained(folder, safe_serialization=False, variant="fp16")
    vae.float()
    return str(folder)


FORMS = (
    Form("diffusers folder (itself, or with `vae/` in it)", "AutoencoderKL", _folder(), small.KL),
    Form("the same, weights in `.bin`", "AutoencoderKL", _folder(safe_serialization=False), small.KL),
    Form("the same, weights in `.fp16.bin` or `.fp16.safetensors`", "AutoencoderKL", _half_precision, small.KL),
    Form("the same, weights in several files with an index", "AutoencoderKL", _shards, small.KL),
    Form("the same, attention named as before diffusers 0.15", "AutoencoderKL", _old_names_in_a_folder, small.KL),
    Form(
        "whole checkpoint, `first_stage_model.` (`.safetensors`, `.sft`, `.ckpt`, `.pt`)",
        "AutoencoderKL",
        _file("model.safetensors", small.whole_checkpoint),
        small.SD_LIKE,
    ),
    Form(
        "ComfyUI's all-in-one file, `vae.`",
        "AutoencoderKL",
        _file("all.sft", lambda vae: small.to_ldm(vae.state_dict(), 2, "vae.")),
        small.SD_LIKE,
        read_by="sdrt_export",
    ),
    Form(
        "autoencoder's own file, original names",
        "AutoencoderKL",
        _file("vae.ckpt", lambda vae: small.to_ldm(vae.state_dict(), 2, "")),
        small.SD_LIKE,
    ),
    Form(
        "autoencoder's own file, diffusers' names",
        "AutoencoderKL",
        _file("vae.safetensors", lambda vae: vae.state_dict()),
        small.SD_LIKE,
    ),
    Form(
        "autoencoder's own file, attention named as before diffusers 0.15",
        "AutoencoderKL",
        _file("old.safetensors", lambda vae: small.with_old_attention_names(vae.state_dict())),
        small.SD_LIKE,
        read_by="sdrt_export",
    ),
    Form(
        "own file with other than 32 groups, `--norm-groups`",
        "AutoencoderKL",
        _file("narrow.safetensors", lambda vae: vae.state_dict()),
        {**small.SD_LIKE, "norm_num_groups": 16},
        SourceOptions(norm_groups=16),
    ),
    Form("diffusers folder", "AutoencoderKLFlux2", _folder(), small.KL),
    Form(
        "own file, original names",
        "AutoencoderKLFlux2",
        _file("flux2-vae.safetensors", lambda vae: small.to_flux2(vae.state_dict(), 2)),
        small.SD_LIKE,
        read_by="sdrt_export",
    ),
    Form("diffusers folder", "AutoencoderTiny", _folder(), small.TINY),
    Form(
        "its weights in one file",
        "AutoencoderTiny",
        _file("tiny.safetensors", lambda vae: vae.state_dict()),
        small.TINY,
        read_by="sdrt_export",
    ),
    Form(
        "TAESD's pair `NAME_encoder` and `NAME_decoder` (`.pth`, `.safetensors`)",
        "AutoencoderTiny",
        _pair(".safetensors"),
        small.TAESD_LIKE,
        read_by="sdrt_export",
    ),
    Form(
        "one of several pairs, by one of its files",
        "AutoencoderTiny",
        _pair(".pth", several=True),
        small.TAESD_LIKE,
        read_by="sdrt_export",
    ),
    Form("diffusers folder", "AutoencoderDC", _folder(), small.DC),
    Form("diffusers folder", "AutoencoderKLHunyuanImage", _folder(), small.HUNYUAN),
    Form("diffusers folder", "AutoencoderKLKVAE", _folder(), small.KVAE),
    Form("diffusers folder, one frame", "AutoencoderKLWan", _folder(), small.VIDEO),
    Form("diffusers folder, one frame", "AutoencoderKLQwenImage", _folder(), small.VIDEO),
    Form("diffusers folder, one opaque frame", "AutoencoderKLQwenImage21", _folder(), small.RGBA),
)


@pytest.mark.parametrize("form", FORMS, ids=[f"{form.class_name}: {form.words}" for form in FORMS])
def test_every_form_is_read_as_diffusers_reads_it(form: Form, tmp_path: Path) -> None:
    """Both halves give what diffusers' own class gives for the same weights; so does what ``verify`` compares with."""
    vae = small.make(form.class_name, form.settings)
    source = open_source(form.build(vae, tmp_path), form.options)
    space, reference = source.space, source.reference()
    assert source.provenance.get("class", "AutoencoderTiny") == form.class_name
    cell = space.downscale
    sample = torch.rand(2, 3, 3 * cell, 5 * cell) * 2 - 1
    latents = torch.randn(2, space.channels, 3, 5)
    given = small.through_diffusers(vae, sample, latents, space)
    # Weights that were stored in fp16 are compared in fp16's accuracy.
    tolerance = {"atol": 2e-3, "rtol": 1e-2} if "fp16" in form.words else {"atol": 1e-5, "rtol": 1e-4}
    with torch.no_grad():
        ours = source.encoder(sample)[:, : space.channels], source.decoder(latents).clamp(-1, 1)
        theirs = reference.encode(sample), reference.decode(latents).clamp(-1, 1)
    for mine, judge, wanted in zip(ours, theirs, given, strict=True):
        torch.testing.assert_close(judge, wanted, **tolerance)
        torch.testing.assert_close(mine, judge, atol=1e-5, rtol=1e-4)
    assert reference.reader == f"diffusers' {form.class_name}, weights read by {form.read_by}"


def test_the_page_lists_the_forms_that_were_tried() -> None:
    """The table of sources in docs/PACKS.md is the list above, row for row, with who read the weights to compare.

    Every class has one at least.
    """
    page = (ROOT / "docs" / "PACKS.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.endswith(("| diffusers |", "| sdrt_export |"))]
    assert rows == [f"| {form.words} | `{form.class_name}` | {form.read_by} |" for form in FORMS]
    assert {form.class_name for form in FORMS} == set(CLASSES)


def test_the_page_lists_the_prefixes_of_ids() -> None:
    """docs/PACKS.md names the prefix of every class's ids, in the order of the classes."""
    page = " ".join((ROOT / "docs" / "PACKS.md").read_text(encoding="utf-8").split())
    *most, last = dict.fromkeys(f"`{each.prefix}-`" for each in CLASSES.values())
    assert f"made from the encoder's weights ({', '.join(most)} or {last} and 12 hexadecimal digits" in page


def test_names_are_mapped_as_diffusers_maps_them() -> None:
    """Our renaming of the original keys agrees with diffusers' own conversion, for the depth of SD 1.5."""
    convert = pytest.importorskip("diffusers.loaders.single_file_utils").convert_ldm_vae_checkpoint
    vae = small.make_kl(**{**small.FOUR_BLOCKS, "block_out_channels": (8, 8, 16, 16)}, layers_per_block=2)
    original = small.to_ldm(vae.state_dict(), 4)
    ours = to_diffusers({key.removeprefix("first_stage_model."): value for key, value in original.items()})
    theirs = convert(original, vae.config)
    assert sorted(ours) == sorted(theirs) == sorted(vae.state_dict())
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    described = describe(ours, Path("x"), 4)
    assert described["block_out_channels"] == (8, 8, 16, 16)
    assert (described["layers_per_block"], described["latent_channels"]) == (2, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0609},
        {
            "down_block_types": ("DownEncoderBlock2D",),
            "up_block_types": ("UpDecoderBlock2D",),
            "block_out_channels": (8,),
        },
        {"mid_block_add_attention": False},
    ],
    ids=["sd3", "one_block", "no_attention"],
)
def test_the_space_is_what_the_configuration_says(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Channels, downscale factor, scale and shift are the configuration's, and the weights' file is on record."""
    vae = small.make_kl(**changes)
    vae.save_pretrained(tmp_path / "vae")
    source = open_source(str(tmp_path))
    assert source.latent_distribution
    assert source.space.channels == vae.config.latent_channels
    assert source.space.downscale == 2 ** (len(vae.config.block_out_channels) - 1)
    assert (source.space.scale, source.space.shift) == (0.18215, changes.get("shift_factor", 0.0))
    entry = source.provenance["files"]["diffusion_pytorch_model.safetensors"]
    assert entry["bytes"] == (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size


def save_kl_file(path: Path, **more: torch.Tensor) -> str:
    path.parent.mkdir(exist_ok=True)
    save_file({**small.make_kl(**small.SD_LIKE).state_dict(), **more}, path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "scale", "why"),
    [
        ("sdxl_vae.safetensors", 0.13025, "it is called sdxl_vae"),
        ("sdxl.vae.safetensors", 0.13025, "it is called"),
        ("vae-ft-mse-840000-ema-pruned.safetensors", 0.18215, "it is called"),
        ("mine.safetensors", 0.18215, "nothing in it says so"),
    ],
)
def test_the_scale_of_a_single_file_is_guessed_aloud(tmp_path: Path, name: str, scale: float, why: str) -> None:
    """A stand-alone autoencoder of SDXL is not taken for SD 1's, and every guess says its reason and its remedy."""
    source = open_source(save_kl_file(tmp_path / name))
    assert source.space.scale == scale
    (note,) = [note for note in source.notes if note.startswith("scale")]
    assert why in note and "--space" in note
    told = open_source(str(tmp_path / name), SourceOptions(scale=0.5, shift=0.25))
    assert (told.space.scale, told.space.shift) == (0.5, 0.25)
    assert not [note for note in told.notes if note.startswith("scale")]


def test_the_family_shows_in_tensors_then_metadata_then_the_name() -> None:
    """What stands in a file beside the autoencoder decides before what it says of itself, and that before its name."""

    def found(channels: int, *, tensors: tuple[str, ...] = (), architecture: str = "", name: str = "x.sft") -> str:
        guess = guess_family(
            channels, tensors=tensors, metadata={"modelspec.architecture": architecture}, file_name=name
        )
        return "" if guess is None else guess.space.id

    assert found(4, tensors=("conditioner.embedders.0.weight",), name="sd15.sft") == "sdxl"
    assert found(4, tensors=("cond_stage_model.weight",), architecture="stable-diffusion-xl-v1-base") == "sd1"
    assert found(4, architecture="stable-diffusion-xl-v1-base", name="sd15.sft") == "sdxl"
    assert found(16, tensors=("model.diffusion_model.joint_blocks.0.x",)) == "sd3"
    assert found(16, tensors=("model.diffusion_model.double_blocks.0.x",)) == "flux1"
    assert found(16, name="ae.safetensors") == "flux1"
    assert found(16, name="sd3_vae.safetensors") == "sd3"
    assert found(16) == ""
    assert found(32) == "flux2"
    assert found(7) == ""


def test_a_single_file_with_other_channels_must_be_told_its_scale(tmp_path: Path) -> None:
    """SD3 and FLUX look alike from inside: the scale is asked for, not guessed."""
    vae = small.make_kl(**small.SD_LIKE, latent_channels=16)
    save_file(small.whole_checkpoint(vae), tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="--space"):
        open_source(str(tmp_path / "m.safetensors"))
    source = open_source(str(tmp_path / "m.safetensors"), SourceOptions(scale=1.5305, shift=0.0609))
    assert (source.space.scale, source.space.shift, source.space.channels) == (1.5305, 0.0609, 16)


def test_known_weights_need_no_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sha256 of a published file names its space and its scale, whatever the file is called now."""
    location = save_kl_file(tmp_path / "renamed.safetensors")
    (digest,) = (entry["sha256"] for entry in open_source(location).provenance["files"].values())
    narrow = LatentSpace("sdxl", 4, 2, 0.13025, 0.0)
    monkeypatch.setattr(spaces, "KNOWN", (spaces.KnownSpace(narrow, {}, {digest: "sdxl_vae"}),))
    monkeypatch.setitem(SPACES, "sdxl", narrow)
    source = open_source(location)
    assert source.space == narrow
    assert not source.notes


def test_a_config_beside_a_single_file_is_believed(tmp_path: Path) -> None:
    """``folder/diffusion_pytorch_model.safetensors`` with its config.json is that folder, with its groups and scale."""
    vae = small.make_kl(scaling_factor=0.3)
    vae.save_pretrained(tmp_path)
    source = open_source(str(tmp_path / "diffusion_pytorch_model.safetensors"))
    assert source.space.scale == 0.3
    assert source.provenance["kind"] == "diffusers"


def test_one_encoder_is_one_space_whatever_the_decoder(tmp_path: Path) -> None:
    """An unknown space is named by its encoder: a tuned decoder and an fp16 copy keep it, another encoder does not."""
    vae = small.make_kl()
    first = encoder_digest(vae.encoder.state_dict())
    assert encoder_digest(vae.half().encoder.state_dict()) == first
    vae = vae.float()
    vae.save_pretrained(tmp_path / "a")
    with torch.no_grad():
        vae.decoder.conv_out.bias.add_(0.1)
    vae.save_pretrained(tmp_path / "b")
    with torch.no_grad():
        vae.encoder.conv_in.bias.add_(0.1)
    vae.save_pretrained(tmp_path / "c")
    found = [open_source(str(tmp_path / name)).space for name in "abc"]
    assert found[0] == found[1] != found[2]


def test_classes_that_share_an_encoder_share_the_space(tmp_path: Path) -> None:
    """Qwen-Image tuned the decoder of Wan's autoencoder: the same encoder is the same space under either class."""
    wan = small.make("AutoencoderKLWan", small.VIDEO)
    qwen = small.make("AutoencoderKLQwenImage", small.VIDEO, seed=2)
    wan.save_pretrained(tmp_path / "wan")
    qwen.encoder.load_state_dict(wan.encoder.state_dict())
    qwen.quant_conv.load_state_dict(wan.quant_conv.state_dict())
    qwen.save_pretrained(tmp_path / "qwen")
    assert open_source(str(tmp_path / "wan")).space == open_source(str(tmp_path / "qwen")).space


@pytest.mark.parametrize(
    "name", ["AutoencoderKL", "AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLQwenImage21"]
)
def test_all_that_decides_the_latents_decides_the_space(name: str) -> None:
    """Behind the encoder: its last projection, and the statistics that each channel is normalized with."""
    settings = small.SETTINGS[name]
    vae = small.make(name, settings)
    spaces = [describe_space(vae, None, None)]
    with torch.no_grad():
        vae.quant_conv.bias.add_(0.5)
    spaces.append(describe_space(vae, None, None))
    for statistic in ("latents_mean", "latents_std"):
        if statistic in settings:
            vae.register_to_config(**{statistic: [2 * value + 1 for value in vae.config[statistic]]})
            spaces.append(describe_space(vae, None, None))
    assert len({space.identity for space in spaces}) == len(spaces)


def test_known_weights_and_repositories_speak_their_space() -> None:
    """A known file hash decides, then the repository, then the checkpoint's own word; what is asked for comes first."""
    found = LatentSpace("kl-x", 4, 8, 0.18215, 0.0)
    xl = {"f": "63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e"}
    assert resolve_space(found) is found
    assert resolve_space(found, repository="StabilityAI/SD-VAE-ft-MSE") == SPACES["sd1"]
    assert resolve_space(found, repository="stabilityai/sd-vae-ft-mse", digests=xl) == SPACES["sdxl"]
    assert resolve_space(found, asked="sd1", digests=xl) == SPACES["sd1"]
    assert resolve_space(found, asked="mine") == LatentSpace("mine", 4, 8, 0.18215, 0.0)
    with pytest.raises(ModelError, match="16 channels at 1/8"):
        resolve_space(found, asked="sd3")


def test_every_known_space_stands_once_in_one_table() -> None:
    """Ids, repositories, weights and tiny names each lead to one space."""
    for key in ("repositories", "weights"):
        names = [name for known in spaces.KNOWN for name in getattr(known, key)]
        assert len(set(names)) == len(names)
        assert all(name == name.lower() for name in names)
    stems = [known.tiny for known in spaces.KNOWN if known.tiny]
    assert len(set(stems)) == len(stems)
    assert list(SPACES) == [known.space.id for known in spaces.KNOWN]


def test_a_tiny_autoencoder_speaks_the_large_ones_raw_latents(tmp_path: Path) -> None:
    """(raw - shift) * scale of every graph of one space is the same number: TAESD's plain output."""
    vae = small.make("AutoencoderTiny", {**small.TAESD_LIKE, "latent_channels": 16})
    vae.save_pretrained(tmp_path)
    sample = torch.rand(1, 3, 16, 24) * 2 - 1
    own, known = open_source(str(tmp_path)), open_source(str(tmp_path), SourceOptions(space="sd3"))
    space = known.space
    assert space == SPACES["sd3"]
    assert not own.latent_distribution
    judge = known.reference()
    with torch.no_grad():
        plain = vae.encode(sample).latents
        picture = vae.decode(plain).sample
        torch.testing.assert_close(own.encoder(sample), plain)
        for encoder, decoder in ((known.encoder, known.decoder), (judge.encode, judge.decode)):
            torch.testing.assert_close((encoder(sample) - space.shift) * space.scale, plain, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(decoder(plain / space.scale + space.shift), picture, atol=1e-5, rtol=1e-4)


def test_a_tiny_pairs_name_is_its_space_until_a_person_says_otherwise(tmp_path: Path) -> None:
    """``taesdxl_encoder.pth`` speaks SDXL's latents, aloud; ``--space`` comes first; another name is its own space."""
    vae = small.make("AutoencoderTiny", small.TAESD_LIKE)
    for stem in ("taesdxl", "mine"):
        (tmp_path / stem).mkdir()
        small.save_pair(vae, tmp_path / stem, stem)
    source = open_source(str(tmp_path / "taesdxl"))
    assert source.space == SPACES["sdxl"]
    assert "called taesdxl" in source.notes[0]
    assert open_source(str(tmp_path / "taesdxl"), SourceOptions(space="sd1")).space == SPACES["sd1"]
    assert open_source(str(tmp_path / "mine")).space == LatentSpace("mine", 4, 8, 1.0, 0.0)


def test_an_autoencoder_kl_of_another_scale_is_not_of_the_space(tmp_path: Path) -> None:
    """A full autoencoder whose scale disagrees with the space it is said to speak is refused."""
    small.make_kl(**small.FOUR_BLOCKS).save_pretrained(tmp_path)
    assert open_source(str(tmp_path), SourceOptions(space="sd1")).space == SPACES["sd1"]
    with pytest.raises(ModelError, match="scale"):
        open_source(str(tmp_path), SourceOptions(space="sdxl"))


def test_offline_one_line_says_what_to_get_and_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network: the files, the page they are on, and the folder in which the same command then finds them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError) as caught:
        open_source("stabilityai/sd-vae-ft-mse")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "no network",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "https://huggingface.co/stabilityai/sd-vae-ft-mse/tree/main",
        "models/sources/stabilityai/sd-vae-ft-mse/",
    ):
        assert part in message
    small.make_kl(**small.FOUR_BLOCKS).save_pretrained("models/sources/stabilityai/sd-vae-ft-mse")
    source = open_source("stabilityai/sd-vae-ft-mse")
    assert (source.space, source.license) == (SPACES["sd1"], "MIT")


@pytest.mark.parametrize("sharded", [False, True])
def test_only_the_autoencoders_files_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    """Of a whole repository exactly the configuration and its weights are asked for, at the given revision."""
    from huggingface_hub.errors import EntryNotFoundError

    snapshot = tmp_path / "snapshots" / ("ab" * 20)
    (snapshot / "vae").mkdir(parents=True)
    if sharded:
        small.save_shards(small.make_kl(), snapshot / "vae")
    else:
        small.make_kl().save_pretrained(snapshot / "vae")
    fetched: list[str] = []

    def fetch(repository: str, name: str, revision: str | None, subfolder: str | None, offline: bool) -> Path:
        path = snapshot / (subfolder or "") / name
        assert (repository, revision, offline) == ("some/repository", "main", False)
        if not path.is_file():
            raise EntryNotFoundError("not there")
        fetched.append(path.relative_to(snapshot).as_posix())
        return path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_is_reachable", lambda endpoint: True)
    monkeypatch.setattr(hub, "_fetch", fetch)
    source = open_source("some/repository", SourceOptions(revision="main"))
    assert sorted(fetched) == sorted(path.relative_to(snapshot).as_posix() for path in (snapshot / "vae").iterdir())
    assert source.provenance["revision"] == "ab" * 20
    assert (source.provenance["location"], source.provenance["subfolder"]) == ("some/repository", "vae")
    with pytest.raises(ModelError, match="no autoencoder there"):
        open_source("some/repository", SourceOptions(revision="main", subfolder="unet"))


@pytest.fixture(scope="module")
def taef2(shared: Path) -> Source:
    """The real pretrained tiny autoencoder; its tests are skipped where the weights are absent."""
    folder = shared / "weights" / "taef2"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not here")
    return open_source(str(folder))


@pytest.mark.parametrize(("number", "expected_db"), [(1, 27.18), pytest.param(2, 31.44, marks=pytest.mark.slow)])
def test_real_weights_round_trip_through_our_engine(
    taef2: Source, kodak: list[Path], tmp_path: Path, number: int, expected_db: float
) -> None:
    """Kodak images come back with the PSNR that the weights' README gives, through the exported graphs."""
    modules: tuple[nn.Module, nn.Module] = (taef2.encoder, taef2.decoder)
    exported = export_modules(*modules, tmp_path, space=taef2.space)
    assert exported.halo is None
    encoder, decoder = (Engine(exported.files[f"{half}.onnx"], device="cpu") for half in ("encoder", "decoder"))
    pixels = np.asarray(Image.open(kodak[number - 1]).convert("RGB"), dtype=np.float32)
    sample = pixels.transpose(2, 0, 1)[None] / 127.5 - 1
    back = np.clip(np.rint((decoder.run(encoder.run(sample)) + 1) * 127.5), 0, 255)[0].transpose(1, 2, 0)
    assert abs(10 * np.log10(255**2 / np.square(back - pixels).mean()) - expected_db) < 0.02


@pytest.mark.parametrize("name", ["vae_prefix", "vae_old_attention_names", "vae_narrow"])
def test_the_cases_that_were_collected_are_read(shared: Path, name: str) -> None:
    """Files as people have them: behind ``vae.``, with old attention names, and narrow with few groups."""
    path = shared / "cases" / "checkpoints" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"needs {path}, which is not here")
    options = SourceOptions(norm_groups=4 if name == "vae_narrow" else None)
    source = open_source(str(path), options)
    sample = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(source.encoder(sample)[:, :4], source.reference().encode(sample))
