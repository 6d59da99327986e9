"""What sdrt_export's sources refuse: in one line, with the reason that is true and what to do instead."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdrt.errors import ModelError
from sdrt_export.classes import CLASSES
from sdrt_export.sources import SourceOptions, open_source

pytest.importorskip("diffusers")

from tests import small_autoencoders as small

from sdrt_export.autoencoders import REFUSED

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = "diffusion_pytorch_model.safetensors"


def refusal(location: Path | str, options: SourceOptions | None = None) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(ModelError) as caught:
        open_source(str(location), options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(path)
    edit(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A diffusers folder with a small AutoencoderKL, to be spoilt."""
    small.make_kl().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("class_name", ["AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLWan"])
def test_a_folder_that_lacks_a_tensor_is_refused(tmp_path: Path, class_name: str) -> None:
    """What is missing is named; before, it was exported as whatever lay in memory, with exit code 0."""
    small.make(class_name, small.SETTINGS[class_name]).save_pretrained(tmp_path)
    name = sorted(load_file(tmp_path / WEIGHTS))[0]
    change(tmp_path / WEIGHTS, lambda state: state.pop(name))
    message = refusal(tmp_path)
    assert f"{WEIGHTS} lacks {name}" in message
    assert "incomplete" in message


def test_a_folder_with_a_tensor_too_many_or_of_another_shape_is_refused(folder: Path) -> None:
    """Configuration and weights that do not belong together are not made to fit."""
    change(folder / WEIGHTS, lambda state: state.update({"decoder.extra.weight": torch.ones(2)}))
    assert "also holds decoder.extra.weight" in refusal(folder)
    change(folder / WEIGHTS, lambda state: state.pop("decoder.extra.weight"))
    change(folder / WEIGHTS, lambda state: state.update({"decoder.conv_in.bias": torch.ones(5)}))
    assert "decoder.conv_in.bias has the shape (5,)" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(folder: Path, value: float) -> None:
    """One NaN anywhere is found and named before anything is traced."""
    change(folder / WEIGHTS, lambda state: state["encoder.conv_out.bias"].fill_(value))
    assert "encoder.conv_out.bias holds values that are not finite" in refusal(folder)


def test_quantized_weights_are_refused(folder: Path) -> None:
    """Integers in the place of weights are not taken for numbers."""
    change(
        folder / WEIGHTS,
        lambda state: state.update({"encoder.conv_in.weight": state["encoder.conv_in.weight"].to(torch.int8)}),
    )
    assert "encoder.conv_in.weight is torch.int8, a quantized weight" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 334643276\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "web page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"", "empty"),
        (b"hello there " * 40, "is the download complete|could run code"),
    ],
)
def test_what_is_not_a_file_of_tensors_is_named(tmp_path: Path, folder: Path, content: bytes, words: str) -> None:
    """In a folder, alone, as weights or as configuration: the refusal says what the file is."""
    import re

    (folder / WEIGHTS).write_bytes(content)
    (tmp_path / "alone.safetensors").write_bytes(content)
    (tmp_path / "alone.ckpt").write_bytes(content)
    for location in (folder, tmp_path / "alone.safetensors", tmp_path / "alone.ckpt"):
        assert re.search(words, refusal(location))
    (folder / "config.json").write_bytes(content)
    assert re.search(f"{words}|cannot read", refusal(folder))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_half_a_download_is_named(tmp_path: Path, suffix: str) -> None:
    """A file that ends too early is said to be incomplete, in either format."""
    path = tmp_path / f"model{suffix}"
    state = {"encoder.conv_in.weight": torch.ones(64, 64)}
    if suffix == ".ckpt":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = refusal(path)
    assert str(path) in message
    assert "download" in message


def test_a_pickle_called_safetensors_is_read_as_what_it_is(tmp_path: Path) -> None:
    """The content decides: renamed files are read, and code in them is still refused."""
    path = tmp_path / "model.safetensors"
    torch.save(small.make_kl(**small.SD_LIKE).state_dict(), path)
    assert open_source(str(path)).space.channels == 4
    path.write_bytes(malicious_pickle(tmp_path / "ran"))
    assert "could run code" in refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["in_channels", "out_channels"])
def test_an_rgba_autoencoder_is_refused(tmp_path: Path, key: str) -> None:
    """Pictures of four channels are not RGB, in a folder or alone."""
    vae = small.make_kl(**{**small.SD_LIKE, key: 4})
    vae.save_pretrained(tmp_path / "m")
    save_file(vae.state_dict(), tmp_path / "vae.safetensors")
    for location in (tmp_path / "m", tmp_path / "vae.safetensors"):
        message = refusal(location)
        assert f"pictures of 4 channels ({key})" in message
        assert "only RGB" in message


def test_norm_groups_that_cannot_be_are_asked_for(tmp_path: Path) -> None:
    """A narrow file cannot have 32 groups: the option is named; in a folder the configuration says it."""
    save_file(small.make_kl().state_dict(), tmp_path / "narrow.safetensors")
    message = refusal(tmp_path / "narrow.safetensors")
    assert "8 channels cannot be normalized in 32 groups" in message
    assert "--norm-groups" in message
    small.make_kl().save_pretrained(tmp_path / "m")
    assert "--norm-groups is for single files" in refusal(tmp_path / "m", SourceOptions(norm_groups=4))


def test_the_number_of_groups_is_taken_for_granted_aloud(tmp_path: Path) -> None:
    """Where 32 groups are possible they are assumed, and that is told."""
    save_file(small.make_kl(**small.SD_LIKE).state_dict(), tmp_path / "vae.safetensors")
    notes = open_source(str(tmp_path / "vae.safetensors")).notes
    assert any("32 groups" in note and "--norm-groups" in note for note in notes)


@pytest.mark.parametrize(
    ("class_name", "why"),
    [("UNet2DConditionModel", "are supported"), (None, "describes None"), *REFUSED.items()],
)
def test_other_classes_are_refused_with_the_reason(folder: Path, class_name: str | None, why: str) -> None:
    """A class without an adapter is named, with why it cannot be and which can."""
    (folder / "config.json").write_text(json.dumps({"_class_name": class_name}))
    message = refusal(folder)
    assert why in message
    assert "AutoencoderKL, " in message


def test_a_configuration_that_its_class_refuses_is_refused(folder: Path) -> None:
    """What diffusers says against a configuration is passed on."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "down_block_types": ["NoSuchBlock"]}))
    assert "not a configuration of AutoencoderKL: NoSuchBlock does not exist" in refusal(folder)
    wan = {"_class_name": "AutoencoderKLWan", **small.VIDEO, "is_residual": True}
    (folder / "config.json").write_text(json.dumps(wan))
    assert "Wan 2.2" in refusal(folder)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("config.json",), "no diffusion_pytorch_model.safetensors nor another form of it; nothing else is there"),
        (("config.json", "diffusion_flax_model.msgpack"), "Flax"),
        (("config.json", "notes.txt"), "there is notes.txt"),
        (("model.ckpt",), "give the file, for example"),
        (("vae_decoder/model.onnx",), "from-onnx"),
        (("manifest.json",), "a model pack already"),
        (("unet/config.json",), "there is unet"),
        ((), "nothing else is there"),
    ],
)
def test_a_folder_says_what_it_has_instead(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    """ "There is none" is never all: what lies there in another form is named, and the way to it."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"_class_name": "AutoencoderKL"}')
    assert words in refusal(tmp_path)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    """An index without one of its files, or with a tensor that is in none, is an incomplete download."""
    small.save_shards(small.make_kl(), tmp_path)
    (tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    assert "lists diffusion_pytorch_model-00002-of-00002.safetensors, which is not beside it" in refusal(tmp_path)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    first = "diffusion_pytorch_model-00001-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": {"encoder.nowhere": first}}))
    assert "lists encoder.nowhere, not found" in refusal(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    assert "not beside it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_out_channels": (32, 256)}, "cannot be averaged"),
        ({"block_out_channels": (64, 96)}, "cannot be averaged"),
        ({"downsample_match_channel": False}, "from 32 to 64 channels; the number may change only where the sides do"),
        ({"upsample_match_channel": False}, "from 64 to 32 channels; the number may change only where the sides do"),
        ({"spatial_compression_ratio": 1}, "from 32 to 64 channels; the number may change only where the sides do"),
    ],
    ids=["too wide", "no multiple", "downsample", "upsample", "not halved"],
)
def test_widths_that_diffusers_cannot_run_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """HunyuanImage's class builds them and fails on every picture; the message names the setting."""
    settings = {**small.HUNYUAN, "block_out_channels": (32, 64), "spatial_compression_ratio": 2, **changes}
    vae = small.make("AutoencoderKLHunyuanImage", settings)
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        vae(torch.zeros(1, 3, 8, 8))
    vae.save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "diffusers cannot run an autoencoder of these block_out_channels" in message
    assert words in message


def test_an_encoder_that_diffusers_cuts_in_half_is_refused(tmp_path: Path) -> None:
    """KVAE's without ``double_z`` gives as many numbers as the decoder takes, and diffusers drops half of them."""
    vae = small.make("AutoencoderKLKVAE", {**small.KVAE, "double_z": False})
    with pytest.raises(RuntimeError):
        vae(torch.zeros(1, 3, 8, 8))
    vae.save_pretrained(tmp_path)
    assert "without double_z" in refusal(tmp_path)


@pytest.mark.parametrize("class_name", ["AutoencoderKLWan", "AutoencoderKLQwenImage21"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [({"patch_size": 2}, "with patch_size"), ({"attn_scales": [0.5], "is_residual": False}, "with attn_scales")],
    ids=["patches", "attention"],
)
def test_frames_that_diffusers_cannot_run_are_refused(
    tmp_path: Path, class_name: str, changes: dict[str, Any], words: str
) -> None:
    """The video classes build them and fail on every picture; the message names the setting."""
    vae = small.make(class_name, {**small.SETTINGS[class_name], **changes})
    with pytest.raises((RuntimeError, TypeError)):
        vae(torch.zeros(1, vae.config.in_channels, 1, 32, 32))
    vae.save_pretrained(tmp_path)
    assert words in refusal(tmp_path)


def test_an_rgba_class_of_rgb_pictures_is_refused(tmp_path: Path) -> None:
    """What is exported without its fourth channel must have one."""
    small.make("AutoencoderKLQwenImage21", {**small.RGBA, "out_channels": 3}).save_pretrained(tmp_path)
    assert "pictures of 3 channels (out_channels): AutoencoderKLQwenImage21 has 4, RGBA" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"unet.conv.weight": 1, "clip.x": 1}, "it holds clip.x, unet.conv"),
        ({"decoder.conv_in.weight": 1}, "a decoder and no encoder"),
        ({"lora_unet_x.lora_up.weight": 1}, "a LoRA"),
        ({"1.weight": 1, "3.conv.0.weight": 1}, "one half of a tiny autoencoder"),
        (
            {"decoder.middle.0.residual.0.gamma": 1},
            "it is an AutoencoderKLQwenImage or AutoencoderKLWan or AutoencoderKLQwenImage21 in one file",
        ),
        ({"a.encoder.conv_in.weight": 1, "a.decoder.x": 1, "b.encoder.conv_in.weight": 1, "b.decoder.x": 1}, "several"),
    ],
)
def test_a_file_without_a_known_autoencoder_says_what_it_holds(
    tmp_path: Path, state: dict[str, int], words: str
) -> None:
    """The parts of the file that are there, in the words of those who have it."""
    save_file({name: torch.ones(1) for name in state}, tmp_path / "x.safetensors")
    assert words in refusal(tmp_path / "x.safetensors")


def test_classes_that_one_file_does_not_describe_are_sent_to_their_folder(tmp_path: Path) -> None:
    """Where the tensors do not say the configuration, the class is named: each of its marks is enough."""
    undescribed = [each for each in CLASSES.values() if not each.single_file]
    assert len(undescribed) > 3
    for kind in undescribed:
        path = tmp_path / f"{kind.name}.safetensors"
        save_file(small.make(kind.name, small.SETTINGS[kind.name]).state_dict(), path)
        message = refusal(path)
        assert kind.name in message
        assert "in one file: give the folder with its config.json" in message
        for mark in kind.marks:
            save_file({f"x.{mark}": torch.ones(1)}, path)
            assert kind.name in refusal(path)
    video = {f"{half}.conv_in.weight": torch.zeros(4, 3, 3, 3, 3) for half in ("encoder", "decoder")}
    save_file(video, tmp_path / "video.safetensors")
    assert "is a video autoencoder in one file" in refusal(tmp_path / "video.safetensors")
    # HunyuanImage's as its authors publish it has AutoencoderKL's original names, and other shapes.
    shapes = {"encoder.conv_in": 3, "decoder.conv_in": 3, "encoder.down.0.downsample.conv": 32}
    tensors = {f"vae.{name}.weight": torch.zeros(16, inputs, 3, 3) for name, inputs in shapes.items()}
    save_file(tensors, tmp_path / "original.safetensors")
    assert "is an AutoencoderKLHunyuanImage in one file" in refusal(tmp_path / "original.safetensors")


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    """A single file is read as strictly as a folder."""
    state = small.make_kl(**small.SD_LIKE).state_dict()
    del state["decoder.conv_out.weight"]
    save_file(state, tmp_path / "part.safetensors")
    assert "lacks decoder.conv_out.weight" in refusal(tmp_path / "part.safetensors")


def test_several_tiny_pairs_want_a_name(tmp_path: Path) -> None:
    """A clone with all of its author's autoencoders lists them and says how to name one."""
    vae = small.make("AutoencoderTiny", small.TAESD_LIKE)
    for stem in ("taesd", "taesdxl"):
        small.save_pair(vae, tmp_path, stem)
    message = refusal(tmp_path)
    assert "several tiny autoencoders (taesd, taesdxl): name one" in message
    assert str(tmp_path / "taesd_encoder.pth") in message
    (tmp_path / "taesd_decoder.pth").unlink()
    (tmp_path / "taesdxl_decoder.pth").write_bytes((tmp_path / "taesdxl_encoder.pth").read_bytes())
    assert "taesdxl_decoder.pth is not a tiny decoder" in refusal(tmp_path)


def test_real_weights_in_a_wrong_pair_are_refused(shared: Path, tmp_path: Path) -> None:
    """A decoder in the place of an encoder is named."""
    folder = shared / "weights" / "taef2"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not here")
    (tmp_path / "x_encoder.pth").write_bytes((folder / "taef2_decoder.pth").read_bytes())
    (tmp_path / "x_decoder.pth").write_bytes((folder / "taef2_decoder.pth").read_bytes())
    assert "x_encoder.pth lacks" in refusal(tmp_path)


@pytest.mark.parametrize("location", ["/nowhere/at/all", "nowhere.safetensors", "a/b/c", "../up"])
def test_a_source_that_is_nothing_is_refused(location: str) -> None:
    """What is neither here nor a repository's name never reaches the network."""
    assert "neither a folder" in refusal(location)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The suffixes that are taken are listed."""
    (tmp_path / "x.txt").write_text("x")
    assert "is not a checkpoint: .safetensors, .sft, .ckpt" in refusal(tmp_path / "x.txt")


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
    assert ".safetensors" in refusal(path)
    small.make_kl().save_pretrained(tmp_path / "m")
    (tmp_path / "m" / WEIGHTS).unlink()
    (tmp_path / "m" / "diffusion_pytorch_model.bin").write_bytes(path.read_bytes())
    assert ".safetensors" in refusal(tmp_path / "m")
    assert not (tmp_path / "ran").exists()
