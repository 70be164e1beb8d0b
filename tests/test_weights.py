"""Every weight of a model came from a file, or the run does not begin; and other weights are another run."""

import json
import shutil
import time
import warnings

import pytest
import single_file
import tiny
import torch
from diffusers import DiffusionPipeline
from helpers import answers, subset
from safetensors.torch import load_file, save_file

from diffusion import InputError
from diffusion.core.process import Process
from diffusion.models import checkpoint
from diffusion.models.loading import check_weights, load_model, read_card

SCRIPT = "eval_prob_adaptive.py"
ARGS = ["--dataset", "digits", "--device", "cpu", "--to_keep", 1, "--n_samples", 2]
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture
def folder(tmp_path, model_folder):
    """A copy of the embedded model, to be changed."""
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def base(model_folder):
    return answers(load_model(str(model_folder)))


def change(path, how) -> None:
    """Write `how(tensors)` in place of the tensors of a file."""
    save_file({key: value.contiguous() for key, value in how(load_file(path)).items()}, path, {"format": "pt"})


def without(word: str):
    return lambda tensors: {key: value for key, value in tensors.items() if word not in key}


@pytest.mark.parametrize("part, prefix", [
    ("unet", "_orig_mod."), ("unet", "ema_model.module."), ("vae", "module._orig_mod."), ("text_encoder", "module."),
    ("text_encoder", "model."),
])  # fmt: skip
def test_what_training_leaves_before_keys(folder, base, part, prefix):
    """Is taken off, once said, and the bits are those of before."""
    change(folder / FILES[part], lambda tensors: {prefix + key: value for key, value in tensors.items()})
    card = read_card(str(folder))
    with pytest.warns(match=prefix):
        check_weights(card)
    assert torch.equal(answers(load_model(card)), base)


def test_a_wrapper_inside(folder, base):
    """As compiled blocks leave it."""
    change(folder / FILES["unet"], lambda tensors: {k.replace("resnets.0.", "resnets.0._orig_mod."): v for k, v in tensors.items()})  # fmt: skip # noqa: E501
    assert torch.equal(answers(load_model(str(folder))), base)


def test_unexpected_keys(folder, base):
    """Of older versions pass; others are named."""
    change(folder / FILES["text_encoder"], lambda t: t | {"embeddings.position_ids": torch.arange(77)[None]})
    card = read_card(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_weights(card)
    change(folder / FILES["unet"], lambda tensors: tensors | {"what.weight": torch.zeros(2)})
    with pytest.warns(match=r"1 of its tensors are not the unet's and are not used: what\.weight"):
        check_weights(card)
    assert torch.equal(answers(load_model(card)), base)


# ---- as repositories are laid out ----


def laid_out(folder, variant=None, shards=1, safe=True) -> None:
    """Save the pipeline again: as another variant, in shards, as .bin."""
    pipe = DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for part, old in FILES.items():
        (folder / old).unlink()
        module = getattr(pipe, part)
        size = 1 + sum(p.nbytes for p in module.parameters()) // shards
        more = {"variant": variant, "max_shard_size": size}
        if part == "text_encoder" and not safe:
            torch.save(module.state_dict(), folder / part / ".".join(filter(None, ["pytorch_model", variant, "bin"])))
            continue
        if part != "text_encoder":
            more["safe_serialization"] = safe
        module.save_pretrained(folder / part, **more)


@pytest.mark.parametrize("how", [{"shards": 3}, {"variant": "fp16", "shards": 2}, {"safe": False, "variant": "fp16"}])
def test_layouts(folder, base, how):
    laid_out(folder, **how)
    card = read_card(str(folder))
    check_weights(card)  # float32 is used where it lies in a file, and some CPUs round by where that is
    torch.testing.assert_close(answers(load_model(card)), base, rtol=1e-5, atol=1e-6)


def test_a_shard_is_gone(folder):
    laid_out(folder, shards=3)
    sorted((folder / "unet").glob("*of*"))[1].unlink()
    with pytest.raises(InputError, match=r"unet: .* shards, .*-00001-of-"):
        read_card(folder)


def test_plain_before_variants_safetensors_before_bin(folder):
    names = ["config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"]
    assert checkpoint.weight_files(names) == ["diffusion_pytorch_model.bin"]
    names.append("diffusion_pytorch_model.safetensors")
    assert checkpoint.weight_files(names) == ["diffusion_pytorch_model.safetensors"]
    assert checkpoint.weight_files(["model.fp16.safetensors", "model.bf16.safetensors"]) == ["model.fp16.safetensors"]
    old = [f"model-0000{k}-of-00002.fp16.safetensors" for k in (1, 2)]
    assert checkpoint.weight_files(old) == old


# ---- the same name, other weights ----


def test_other_weights_of_the_same_name(run_main, tmp_path, folder):
    """Are refused, by the part's name, as a configuration that was mended, and a run that does not know its weights;
    the first ones, put back, go on.
    """
    args = ["--version", folder, *ARGS, *subset(tmp_path, 2)]
    assert run_main(SCRIPT, *args).code == 0
    for part, file in FILES.items():
        whole = (folder / file).read_bytes()
        change(folder / file, lambda tensors: {key: value + 1e-3 for key, value in tensors.items()})
        error = run_main(SCRIPT, *args).error
        assert f"weights of {part} was" in error.problem and "--extra" in error.problem
        (folder / file).write_bytes(whole)
    path = folder / "scheduler/scheduler_config.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"prediction_type": "v_prediction"}))
    assert "configuration was" in run_main(SCRIPT, *args).error.problem
    path.write_text(whole)
    done = run_main(SCRIPT, *args)
    assert done.code == 0 and "1 done before" in done.out

    (path,) = (tmp_path / "data").rglob("run.json")
    run = json.loads(path.read_text())
    run["options"] = {key: value for key, value in run["options"].items() if not key.startswith("weights of ")}
    path.write_text(json.dumps(run))
    assert "weights of unet was None" in run_main(SCRIPT, *args).error.problem


def test_one_small_tensor_is_seen_in_a_large_file(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {f"{k:03}": torch.full([100_000], 0.1) for k in range(20)} | {"small": torch.zeros(4)}
    save_file(tensors, path)
    before = checkpoint.fingerprint([path])
    assert path.stat().st_size > 4 * checkpoint.BLOCK**2 and checkpoint.fingerprint([path]) == before
    tensors["small"][2] = 1
    save_file(tensors, path)
    assert checkpoint.fingerprint([path]) != before


def test_gigabytes_in_no_time(tmp_path):
    """A file with holes, of 5 GB."""
    n, each = 500, 10_000_000
    header = {
        f"layer.{k}": {"dtype": "F16", "shape": [each // 2], "data_offsets": [k * each, (k + 1) * each]}
        for k in range(n)
    }
    head = json.dumps(header).encode()
    with (tmp_path / "big.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + n * each)
    start = time.perf_counter()
    assert "5,000,0" in checkpoint.fingerprint([tmp_path / "big.safetensors"])
    assert time.perf_counter() - start < 0.2


# ---- single files ----


def test_of_a_single_file_only_the_header_is_read(tmp_path, model_folder, monkeypatch):
    """Before a run, which takes a text encoder's tensors too: no time and no room of a file of many GB."""
    single_file.write(model_folder, tmp_path / "one.safetensors")
    card = read_card(str(tmp_path / "one.safetensors"), config=str(model_folder))
    monkeypatch.setattr(checkpoint, "read", lambda files: pytest.fail(f"{files} are read"))
    assert check_weights(card)["weights of the file"]


@pytest.mark.parametrize("word, part", [
    ("model.diffusion_model.middle_block", "unet"), ("first_stage_model.encoder.mid", "vae"),
    ("layers.1.", "text_encoder"),
])  # fmt: skip
def test_a_single_file_without_some_weights(tmp_path, model_folder, word, part):
    single_file.write(model_folder, tmp_path / "part.safetensors")
    change(tmp_path / "part.safetensors", without(word))
    card = read_card(str(tmp_path / "part.safetensors"), config=str(model_folder))
    for work in (check_weights, load_model):
        with pytest.raises(InputError, match=rf"part\.safetensors: not the weights of the {part} .* missing"):
            work(card)


@pytest.mark.parametrize("layout", ["original", "bare", "diffusers"])
def test_a_network_alone(tmp_path, model_folder, base, layout):
    """The rest is the configuration's, which is said."""
    single_file.write(model_folder, tmp_path / "one.safetensors")
    prefix = "model.diffusion_model."
    tensors = {k: v for k, v in load_file(tmp_path / "one.safetensors").items() if k.startswith(prefix)}
    if layout == "bare":
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if layout == "diffusers":
        tensors = load_file(model_folder / FILES["unet"])
    save_file(tensors, tmp_path / "net.safetensors")
    card = read_card(str(tmp_path / "net.safetensors"), config=str(model_folder))
    with pytest.warns(match="holds no text_encoder, no vae: from"):
        fingerprints = check_weights(card)
    assert torch.equal(answers(load_model(card)), base)
    parts = {"weights of the file", "weights of vae", "weights of text_encoder"}
    assert fingerprints.keys() == parts | {"configuration"}


@pytest.mark.parametrize(
    "metadata, extra", [({"modelspec.prediction_type": "v"}, {}), ({}, {"v_pred": torch.zeros(0)})]
)
def test_a_single_file_says_how_it_was_trained(tmp_path, model_folder, metadata, extra):
    single_file.write(model_folder, tmp_path / "one.safetensors")
    save_file(load_file(tmp_path / "one.safetensors") | extra, tmp_path / "v.safetensors", metadata)
    with pytest.warns(match="prediction_type v_prediction"):
        card = read_card(str(tmp_path / "v.safetensors"), config=str(model_folder))
    check_weights(card)
    assert Process.from_scheduler(card.scheduler).predicts == "v_prediction"


def test_a_single_file_says_that_its_noise_ends_pure(tmp_path, model_folder):
    """Whatever the class of the configuration's scheduler: PNDM, Stable Diffusion 1's, knows nothing of that."""
    config = tmp_path / "config"
    shutil.copytree(model_folder, config)
    path = config / "scheduler/scheduler_config.json"
    settings = json.loads(path.read_text()) | {"_class_name": "PNDMScheduler"}
    path.write_text(json.dumps({key: value for key, value in settings.items() if key != "rescale_betas_zero_snr"}))
    single_file.write(model_folder, tmp_path / "one.safetensors")
    zero = {"ss_zero_terminal_snr": "True"}
    save_file(load_file(tmp_path / "one.safetensors"), tmp_path / "zero.safetensors", zero)
    with pytest.warns(match="rescale_betas_zero_snr True"):
        card = read_card(str(tmp_path / "zero.safetensors"), config=str(config))
    assert Process.from_scheduler(card.scheduler).alpha[-1] == 0


def test_a_folder_of_some_parts(tmp_path, model_folder, base):
    """As training leaves it, with --config."""
    shutil.copytree(model_folder / "unet", tmp_path / "checkpoint-500/unet")
    change(tmp_path / "checkpoint-500" / FILES["unet"], lambda tensors: {k: v * 1.01 for k, v in tensors.items()})
    card = read_card(str(tmp_path / "checkpoint-500"), config=str(model_folder))
    check_weights(card)
    assert (answers(load_model(card)) - base).abs().max() > 1e-4


def test_load_model_alone_is_as_strict(folder):
    change(folder / FILES["text_encoder"], without("layers.1."))
    with pytest.raises(InputError, match="16 of 52 weights are missing"):
        load_model(str(folder))


# ---- float8 ----


def float8(tensors, per_channel=False, name="scale_weight"):
    """Weights of layers as float8 with a scale beside each, and the float32 weights that these mean."""
    written, meant = {}, {}
    for key, value in tensors.items():
        if value.ndim < 2 or not key.endswith(".weight"):
            written[key] = meant[key] = value.float()
            continue
        largest = value.float().abs().flatten(1).amax(1).reshape(-1, *[1] * (value.ndim - 1))
        scale = (largest if per_channel else largest.max().reshape(())) / 448
        written[key] = (value.float() / scale).to(torch.float8_e4m3fn)
        written[key.removesuffix("weight") + name] = scale.flatten() if per_channel else scale.reshape(1)
        meant[key] = written[key].float() * scale
    return written, meant


def test_float8_closed_form():
    q = torch.tensor([[1.5, -448.0], [0.0625, 3.0]]).to(torch.float8_e4m3fn)
    for scale, wanted in [
        (torch.tensor(0.3), q.float() * 0.3),
        (torch.tensor([[0.3]]), q.float() * 0.3),
        (torch.tensor([0.3, 2.0]), torch.tensor([[0.45, -134.4], [0.125, 6.0]])),
        (torch.tensor([[0.3], [2.0]]), torch.tensor([[0.45, -134.4], [0.125, 6.0]])),
    ]:
        for name in "a.scale_weight", "a.weight_scale":
            tensors = {"a.weight": q, name: scale, "a.bias": torch.ones(2), "scaled_fp8": q[:0], "a.input_scale": scale}
            found = checkpoint.dequantised(tensors, torch.float32)
            assert found.keys() == {"a.weight", "a.bias"}
            torch.testing.assert_close(found["a.weight"], wanted, rtol=2e-7, atol=0)
    for dtype in torch.float16, torch.bfloat16:  # rounded once
        scale = torch.tensor(0.3)
        found = checkpoint.dequantised({"a.weight": q, "a.scale_weight": scale}, dtype)["a.weight"]
        assert found.dtype == dtype and torch.equal(found, (q.float() * scale).to(dtype))
    for kind in torch.float8_e4m3fn, torch.float8_e5m2:
        alone = torch.tensor([[1.5, -0.25]]).to(kind)
        found = checkpoint.dequantised({"a.weight": alone, "a.bias": alone[0]}, torch.float32)
        assert torch.equal(found["a.weight"], torch.tensor([[1.5, -0.25]])) and found["a.bias"].dtype == torch.float32


Q = torch.ones(4, 2).to(torch.float8_e4m3fn)
LEFT_OVER = {
    "a scale of no weight": {"b.scale_weight": torch.ones(1)},
    "a scale of a weight that is none": {"b.weight": torch.ones(4, 2), "b.weight_scale": torch.ones(1)},
    "two scales": {"a.scale_weight": torch.ones(1), "a.weight_scale": torch.ones(1)},
    "of columns": {"a.scale_weight": torch.ones(1, 2)},
    "of blocks": {"a.weight_scale": torch.ones(2, 1)},
    "the inverse, of blocks": {"a.weight_scale_inv": torch.ones(2, 1)},
    "a second scale": {"a.weight_scale": torch.ones(1), "a.weight_scale_2": torch.ones(1)},
    "something else": {"a.scale_weight": torch.ones(1), "a.shift": torch.ones(1)},
    "of integers": {"a.scale_weight": torch.ones(1, dtype=torch.int8)},
    "integers": {"b.weight": torch.ones(4, 2, dtype=torch.int8), "b.weight_scale": torch.ones(1)},
    "integers alone": {"b.weight": torch.ones(4, 2, dtype=torch.uint8)},
    "not finite": {"a.scale_weight": torch.tensor(float("nan"))},
}


@pytest.mark.parametrize("name", LEFT_OVER)
def test_float8_that_is_not_understood(name):
    """What belongs to another quantisation is an error; by names and shapes too, but for the value of a scale."""
    tensors = {"a.weight": Q} | LEFT_OVER[name]
    with pytest.raises(checkpoint.Misfit):
        checkpoint.dequantised(tensors, torch.float32)
    if name != "not finite":
        with pytest.raises(checkpoint.Misfit):
            checkpoint.dequantised({key: value.to("meta") for key, value in tensors.items()}, None)


@pytest.mark.parametrize("part, per_channel", [("unet", True), ("vae", False), ("text_encoder", True)])
def test_float8_in_a_folder(folder, part, per_channel):
    """The bits of a model whose weights are the products."""
    written, meant = float8(load_file(folder / FILES[part]), per_channel)
    save_file(meant, folder / FILES[part], {"format": "pt"})
    wanted = answers(load_model(str(folder)))
    save_file(written, folder / FILES[part], {"format": "pt"})
    card = read_card(str(folder))
    check_weights(card)
    assert torch.equal(answers(load_model(card)), wanted)


def test_float8_in_a_single_file(tmp_path, model_folder):
    """A whole model, with ComfyUI's marks."""
    single_file.write(model_folder, tmp_path / "one.safetensors")
    tensors = load_file(tmp_path / "one.safetensors")
    head = "model.diffusion_model."
    written, meant = float8(tensors, name="weight_scale")
    save_file(meant, tmp_path / "meant.safetensors")
    layer = next(key for key in written if key.endswith("weight_scale")).removesuffix("weight_scale")
    marks = {f"{head}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn), f"{layer}input_scale": torch.ones(1)}
    marks |= {f"{layer}comfy_quant": torch.zeros(30, dtype=torch.uint8)}
    save_file(written | marks, tmp_path / "f8.safetensors")
    found = []
    for name in "meant", "f8":
        card = read_card(str(tmp_path / f"{name}.safetensors"), config=str(model_folder))
        check_weights(card)
        found.append(answers(load_model(card)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)  # as in test_layouts


def test_float8_of_a_t5_in_a_single_file(tmp_path, saved):
    """Of Stable Diffusion 3, whose text encoders are named as ComfyUI names them; without dropout."""
    folder = saved(tiny.sd3_with_t5)
    t5 = load_file(folder / "text_encoder_3/model.safetensors")
    t5["shared.weight"] = t5.get("shared.weight", t5.get("encoder.embed_tokens.weight"))
    network = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    found = []
    for tensors in float8(t5):
        named = {f"text_encoders.t5xxl.transformer.{key}": value for key, value in tensors.items()}
        save_file(network | named, tmp_path / "one.safetensors")
        card = read_card(str(tmp_path / "one.safetensors"), 32, t5=True, config=str(folder))
        assert "weights of text_encoder_3" not in check_weights(card)
        found.append(answers(load_model(card)))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)  # as in test_layouts
    assert found[0].isfinite().all() and not torch.equal(t5["shared.weight"], float8(t5)[1]["shared.weight"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_scales_that_are_left_over(tmp_path, model_folder, folder, prefix):
    """In a folder or a single file. Removing the prefix must not load the weights without their scales."""
    extra = "mid_block.resnets.0.conv1.scale_weight"
    change(folder / FILES["unet"], lambda t: {prefix + k: v for k, v in (t | {extra: torch.ones(1)}).items()})
    shutil.copy(folder / FILES["unet"], tmp_path / "net.safetensors")
    for card in (read_card(folder), read_card(tmp_path / "net.safetensors", config=str(model_folder))):
        for work in (check_weights, load_model):
            with pytest.raises(InputError, match=extra):
                work(card)


def test_parts_that_are_links(tmp_path, folder, base):
    """Folders that are symbolic links are read as diffusers reads them; one that leads back into itself ends."""
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.mkdir()
    (folder / "model_index.json").symlink_to(elsewhere / "model_index.json")
    for part in elsewhere.iterdir():
        if part.is_dir():
            (folder / part.name).symlink_to(part)
    (folder / "again").symlink_to(folder)
    (tmp_path / "root").symlink_to(folder)
    for path in folder, tmp_path / "root":
        card = read_card(str(path))
        assert check_weights(card).keys() == check_weights(read_card(str(elsewhere))).keys()
        assert torch.equal(answers(load_model(card)), base)
