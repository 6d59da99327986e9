"""sdrt_export's sources: every road by which an autoencoder comes in gives the same tensors, or one line why not."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from sdrt.errors import ModelError
from sdrt.network.engine import Engine
from sdrt.packs.manifest import LatentSpace
from sdrt_export import hub, spaces
from sdrt_export.checkpoint import describe, read_checkpoint, to_diffusers
from sdrt_export.graph import export_modules
from sdrt_export.sources import Source, Wish, open_source
from sdrt_export.spaces import SPACES, encoder_digest, resolve_space

diffusers = pytest.importorskip("diffusers")

KL: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
ONE_BLOCK = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
FOUR_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
SD_LIKE: dict[str, Any] = {**KL, "block_out_channels": (32, 64), "norm_num_groups": 32}
"""Single files carry no number of groups: 32, as in every Stable Diffusion."""


pytestmark = pytest.mark.usefixtures("one_thread")


def make_kl(**changes: Any) -> Any:
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(**{**KL, **changes}).eval()


def make_tiny(**changes: Any) -> Any:
    torch.manual_seed(2)
    small: dict[str, Any] = {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    }
    return diffusers.AutoencoderTiny(**{**small, **changes}).eval()


def to_ldm(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """diffusers' names -> the original ones, attention as 1x1 convolutions, behind the checkpoint's prefix."""
    renames = (
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    )
    original: dict[str, Tensor] = {}
    for name, tensor in state.items():
        key = name
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
        key = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{blocks - 1 - int(found[1])}.block.", key)
        key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda f: f"up.{blocks - 1 - int(f[1])}.upsample", key)
        linear = "attn_1" in key and key.endswith("weight") and tensor.ndim == 2
        original[f"first_stage_model.{key}"] = (tensor[:, :, None, None] if linear else tensor).contiguous().clone()
    return original


def whole_checkpoint(vae: Any) -> dict[str, Tensor]:
    """An autoencoder inside a Stable Diffusion checkpoint, with tensors of other parts around it."""
    others = {
        "model.diffusion_model.out.weight": torch.ones(3),
        "cond_stage_model.weight": torch.ones(2),
        "first_stage_model.loss.discriminator.weight": torch.ones(2),
    }
    return {**to_ldm(vae.state_dict(), len(vae.config.block_out_channels)), **others}


def assert_same_halves(source: Source, vae: Any) -> None:
    sample = torch.rand(1, 3, 16, 24) * 2 - 1
    latents = torch.randn(2, vae.config.latent_channels, 3, 5)
    with torch.no_grad():
        torch.testing.assert_close(source.encoder(sample), vae.encode(sample).latent_dist.parameters)
        torch.testing.assert_close(source.decoder(latents), vae.decode(latents).sample)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0609},
        {**ONE_BLOCK, "block_out_channels": (8,)},
        {"mid_block_add_attention": False},
    ],
    ids=["sd", "sd3", "one_block", "no_attention"],
)
def test_a_diffusers_folder_is_read_as_diffusers_reads_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Both halves compute what AutoencoderKL computes, and the space is what the configuration says."""
    vae = make_kl(**changes)
    vae.save_pretrained(tmp_path / "vae")
    source = open_source(str(tmp_path))
    assert_same_halves(source, vae)
    assert source.latent_distribution
    assert source.space.channels == vae.config.latent_channels
    assert source.space.downscale == 2 ** (len(vae.config.block_out_channels) - 1)
    assert (source.space.scale, source.space.shift) == (0.18215, changes.get("shift_factor", 0.0))
    entry = source.provenance["files"]["diffusion_pytorch_model.safetensors"]
    assert entry["bytes"] == (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size


def test_old_pickled_weights_are_read_without_running_code(tmp_path: Path) -> None:
    """A folder with only a .bin is read too; a .bin that holds code is refused."""
    vae = make_kl()
    vae.save_pretrained(tmp_path, safe_serialization=False)
    assert_same_halves(open_source(str(tmp_path)), vae)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(malicious_pickle(tmp_path / "ran"))
    with pytest.raises(ModelError):
        open_source(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_gives_the_same_autoencoder(tmp_path: Path, suffix: str) -> None:
    """From a whole checkpoint in the original layout only the autoencoder is read, and it computes the same."""
    vae = make_kl(**SD_LIKE)
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(whole_checkpoint(vae), path)
    else:
        torch.save({"state_dict": whole_checkpoint(vae), "global_step": 3}, path)
    source = open_source(str(path))
    assert_same_halves(source, vae)
    assert (source.space.scale, source.force_upcast) == (0.18215, False)


def test_an_autoencoders_own_file_needs_no_prefix(tmp_path: Path) -> None:
    """A file that holds nothing but the autoencoder is read under the original names and under diffusers'."""
    vae = make_kl(**SD_LIKE)
    bare = {key.removeprefix("first_stage_model."): value for key, value in to_ldm(vae.state_dict(), 2).items()}
    for name, state in (("ldm", bare), ("diffusers", vae.state_dict())):
        save_file(dict(state), tmp_path / f"{name}.safetensors")
        assert_same_halves(open_source(str(tmp_path / f"{name}.safetensors")), vae)


def test_names_are_mapped_as_diffusers_maps_them() -> None:
    """Our renaming of the original keys agrees with diffusers' own conversion, for the depth of SD 1.5."""
    convert = pytest.importorskip("diffusers.loaders.single_file_utils").convert_ldm_vae_checkpoint
    vae = make_kl(block_out_channels=(8, 8, 16, 16), layers_per_block=2, **FOUR_BLOCKS)
    original = to_ldm(vae.state_dict(), 4)
    ours = to_diffusers({key.removeprefix("first_stage_model."): value for key, value in original.items()})
    theirs = convert(original, vae.config)
    assert sorted(ours) == sorted(theirs) == sorted(vae.state_dict())
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    described = describe(ours)
    assert described["block_out_channels"] == (8, 8, 16, 16)
    assert (described["layers_per_block"], described["latent_channels"]) == (2, 4)


def test_sdxl_is_told_from_sd_by_its_text_encoders(tmp_path: Path) -> None:
    """A whole SDXL checkpoint has SDXL's scale and is marked as unsafe for fp16."""
    state = {**whole_checkpoint(make_kl(**SD_LIKE)), "conditioner.embedders.0.weight": torch.ones(1)}
    save_file(state, tmp_path / "xl.safetensors")
    source = open_source(str(tmp_path / "xl.safetensors"))
    assert (source.space.scale, source.force_upcast) == (0.13025, True)


def test_a_single_file_with_other_channels_must_be_told_its_scale(tmp_path: Path) -> None:
    """SD3 and FLUX look alike from inside: the scale is asked for, not guessed."""
    vae = make_kl(**SD_LIKE, latent_channels=16)
    save_file(whole_checkpoint(vae), tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="--space"):
        open_source(str(tmp_path / "m.safetensors"))
    source = open_source(str(tmp_path / "m.safetensors"), Wish(scale=1.5305, shift=0.0609))
    assert (source.space.scale, source.space.shift, source.space.channels) == (1.5305, 0.0609, 16)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def malicious_pickle(target: Path) -> bytes:
    """A pickle that would create ``target`` when it is loaded; checked by the test of that name."""
    return pickle.dumps({"state_dict": Payload(target)}, protocol=2)  # torch warns of newer ones


def test_the_malicious_pickle_is_malicious(tmp_path: Path) -> None:
    """The refusals below mean something: a plain unpickling does run the payload."""
    pickle.loads(malicious_pickle(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("container", ["legacy", "zip"])
@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_checkpoint_with_code_is_refused_unopened(tmp_path: Path, suffix: str, container: str) -> None:
    """Nothing in a checkpoint can make us run it, and the refusal is one line that names a safe form."""
    path = tmp_path / f"evil{suffix}"
    if container == "legacy":
        path.write_bytes(malicious_pickle(tmp_path / "ran"))
    else:
        torch.save({"state_dict": Payload(tmp_path / "ran")}, path)
    with pytest.raises(ModelError, match=r"\.safetensors") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("disease", ["empty", "text", "truncated"])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, suffix: str, disease: str) -> None:
    """Damage in a checkpoint is a ModelError of one line that names the file."""
    path = tmp_path / f"model{suffix}"
    state = {"encoder.conv_in.weight": torch.ones(64, 64)}
    if suffix == ".ckpt":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello there " * 40, "truncated": whole[: len(whole) // 2]}[disease])
    with pytest.raises(ModelError, match="model") as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_autoencoder_is_refused(tmp_path: Path) -> None:
    """A file of other tensors, and one with an autoencoder of another kind, are told apart and refused."""
    save_file({"unet.weight": torch.ones(2)}, tmp_path / "unet.safetensors")
    with pytest.raises(ModelError, match="holds no autoencoder"):
        read_checkpoint(tmp_path / "unet.safetensors")
    state = make_kl(**SD_LIKE).state_dict()
    del state["decoder.conv_out.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match="another autoencoder"):
        open_source(str(tmp_path / "part.safetensors"))


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("/nowhere/at/all", "neither a folder"),
        ("nowhere.safetensors", "neither a folder"),
        ("a/b/c", "neither a folder"),
        ("../up", "neither a folder"),
    ],
)
def test_a_source_that_is_nothing_is_refused(location: str, word: str) -> None:
    """What is neither here nor a repository's name never reaches the network."""
    with pytest.raises(ModelError, match=word):
        open_source(location)


def test_folders_and_files_of_other_things_are_refused(tmp_path: Path) -> None:
    """Each refusal says what was expected in its place."""
    with pytest.raises(ModelError, match=r"no config\.json"):
        open_source(str(tmp_path))
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ModelError, match="no checkpoint"):
        open_source(str(tmp_path / "x.txt"))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(ModelError, match="UNet2DConditionModel"):
        open_source(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ModelError, match="has no weights"):
        open_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read"):
        open_source(str(tmp_path))


def test_only_the_files_own_word_forbids_fp16(tmp_path: Path) -> None:
    """diffusers' default for force_upcast is True; a configuration that says nothing (SD 1.x) must not inherit it."""
    make_kl().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    assert '"force_upcast": true' in path.read_text()
    assert open_source(str(tmp_path)).force_upcast
    path.write_text(path.read_text().replace('"force_upcast": true', '"sample_size": 32'))
    assert not open_source(str(tmp_path)).force_upcast


def test_one_encoder_is_one_space_whatever_the_decoder(tmp_path: Path) -> None:
    """An unknown space is named by its encoder: a tuned decoder and an fp16 copy keep it, another encoder does not."""
    vae = make_kl()
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


def test_known_weights_and_repositories_speak_their_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known file hash decides, then the repository, then the checkpoint's own word; what is asked for comes first."""
    found = LatentSpace("kl-x", 4, 8, 0.18215, 0.0)
    monkeypatch.setitem(spaces.WEIGHTS, "ab" * 32, "sdxl")
    assert resolve_space(found) is found
    assert resolve_space(found, repository="StabilityAI/SD-VAE-ft-MSE") == SPACES["sd1"]
    assert resolve_space(found, repository="stabilityai/sd-vae-ft-mse", digests={"f": "ab" * 32}) == SPACES["sdxl"]
    assert resolve_space(found, asked="sd1", digests={"f": "ab" * 32}) == SPACES["sd1"]
    assert resolve_space(found, asked="mine") == LatentSpace("mine", 4, 8, 0.18215, 0.0)
    with pytest.raises(ModelError, match="16 channels at 1/8"):
        resolve_space(found, asked="sd3")


def test_sd_vae_and_its_first_edition_and_taesd_are_one_space() -> None:
    """The weights named in field.md are recognised wherever they lie, as one space."""
    names = {spaces.WEIGHTS[digest] for digest in spaces.WEIGHTS}
    assert names == {"sd1"}
    repositories = ("stabilityai/sd-vae-ft-mse", "compvis/stable-diffusion-v1-4", "madebyollin/taesd")
    assert {spaces.REPOSITORIES[name] for name in repositories} == {"sd1"}


def test_a_tiny_autoencoder_speaks_the_large_ones_raw_latents(tmp_path: Path) -> None:
    """(raw - shift) * scale of every graph of one space is the same number: TAESD's plain output."""
    vae = make_tiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        latent_channels=16,
    )
    vae.save_pretrained(tmp_path)
    sample = torch.rand(1, 3, 16, 24) * 2 - 1
    own, known = open_source(str(tmp_path)), open_source(str(tmp_path), Wish(space="sd3"))
    space = known.space
    assert space == SPACES["sd3"]
    assert not own.latent_distribution
    with torch.no_grad():
        plain = vae.encode(sample).latents
        torch.testing.assert_close(own.encoder(sample), plain)
        torch.testing.assert_close((known.encoder(sample) - space.shift) * space.scale, plain, atol=1e-5, rtol=1e-4)
        picture = vae.decode(plain).sample
        torch.testing.assert_close(known.decoder(plain / space.scale + space.shift), picture, atol=1e-5, rtol=1e-4)


def test_an_autoencoder_kl_of_another_scale_is_not_of_the_space(tmp_path: Path) -> None:
    """A full autoencoder whose scale disagrees with the space it is said to speak is refused."""
    make_kl(block_out_channels=(8,) * 4, **FOUR_BLOCKS).save_pretrained(tmp_path)
    assert open_source(str(tmp_path), Wish(space="sd1")).space == SPACES["sd1"]
    with pytest.raises(ModelError, match="scale"):
        open_source(str(tmp_path), Wish(space="sdxl"))


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
    make_kl(block_out_channels=(8,) * 4, **FOUR_BLOCKS).save_pretrained("models/sources/stabilityai/sd-vae-ft-mse")
    source = open_source("stabilityai/sd-vae-ft-mse")
    assert (source.space, source.licence) == (SPACES["sd1"], "MIT")


def test_only_the_autoencoders_files_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole repository exactly the configuration and one weights file are asked for, at the given revision."""
    from huggingface_hub.errors import EntryNotFoundError

    snapshot = tmp_path / "snapshots" / ("ab" * 20)
    make_kl().save_pretrained(snapshot / "vae")
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
    source = open_source("some/repository", Wish(revision="main"))
    assert fetched == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert source.provenance["revision"] == "ab" * 20
    assert (source.provenance["location"], source.provenance["subfolder"]) == ("some/repository", "vae")
    with pytest.raises(ModelError, match="no autoencoder there"):
        open_source("some/repository", Wish(revision="main", subfolder="unet"))


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


def test_real_weights_in_a_wrong_pair_are_refused(shared: Path, tmp_path: Path) -> None:
    """A decoder in the place of an encoder is named."""
    folder = shared / "weights" / "taef2"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not here")
    (tmp_path / "x_encoder.pth").write_bytes((folder / "taef2_decoder.pth").read_bytes())
    (tmp_path / "x_decoder.pth").write_bytes((folder / "taef2_decoder.pth").read_bytes())
    with pytest.raises(ModelError, match=r"x_encoder\.pth has other layers"):
        open_source(str(tmp_path))
