"""The CLIP baselines: which weights a name means, and similarities against open_clip's classes used by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from helpers import ROOT, assert_same, folder_of, own_examples, records_of, subset
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from diffusion import InputError, InputWarning
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import read_prompts
from diffusion.matching.benchmarks import load_items
from diffusion.models.clip import CARD, DEFAULTS, IMAGES, _lengths, clip_weights, find_clip, load_clip, training_of
from diffusion.runs.records import read_run

SCRIPT, PRINT = "run_winoground.py", "scripts/print_winoground.py"
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
SMALLEST = "ViT-S-32-alt"  # of the architectures that open_clip knows: 43 M


def options(version, *more, model="clip") -> list:
    return ["--model", model, "--version", version, "--dataset", "digits-pairs", "--device", "cpu", *more]


def small(vocabulary: int, context: int) -> dict:
    """An architecture of 32 pixels, in a second's time."""
    return {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": context, "vocab_size": vocabulary, "width": 64, "heads": 4, "layers": 2},
    }


def random_clip(config: dict, path: Path, **more) -> open_clip.CLIP:
    """That architecture with random weights, saved to `path`; told apart from another by what it says."""
    torch.manual_seed(0)
    clip = open_clip.CLIP(**config, **more).eval()
    for parameter in clip.parameters():  # much larger than at the start of training, so that details count
        parameter.data += 0.1 * torch.randn_like(parameter)
    save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, path)
    return clip


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(ROOT / "models/digits-sd/tokenizer")


@pytest.fixture(scope="module")
def local(tmp_path_factory, tokenizer) -> tuple[Path, open_clip.CLIP]:
    """A folder in open_clip's layout, with a tokenizer of its own, as that of models/digits-clip."""
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    tokenizer.save_pretrained(folder)
    config = small(len(tokenizer), tokenizer.model_max_length)
    clip = random_clip(config, folder / "open_clip_model.safetensors")
    config["text_cfg"]["hf_tokenizer_name"] = "any"
    text = json.dumps({"model_cfg": config, "preprocess_cfg": HALF})
    (folder / "open_clip_config.json").write_text(text)
    return folder, clip


def distances(clip, images: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
    """One less the cosine of every image and text. [images, texts]"""
    with torch.no_grad():
        a, b = clip.encode_image(images).double(), clip.encode_text(ids).double()
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    return (1 - a @ b.T).numpy()


def pixels(image: Image.Image, mean=(0.5,) * 3, std=(0.5,) * 3) -> torch.Tensor:
    values = (np.array(image, dtype=np.float64) / 255 - mean) / std
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)


# ---- which weights a name means ----


@pytest.mark.parametrize(
    "model, version, pretrained, wanted",
    [
        ("clip", None, None, ("ViT-L-14", "openai")),
        ("clip", "ViT-L/14", None, ("ViT-L-14", "openai")),
        ("clip", "ViT-L-14", "openai", ("ViT-L-14", "openai")),
        ("clip", "ViT-B/32", None, ("ViT-B-32", "openai")),
        ("clip", "RN50x64", None, ("RN50x64", "openai")),
        ("clip", "ViT-L/14", "laion2b_s32b_b82k", ("ViT-L-14", "laion2b_s32b_b82k")),
        ("openclip", None, None, ("ViT-H-14", "laion2b_s32b_b79k")),
        ("openclip", "ViT-H/14", None, ("ViT-H-14", "laion2b_s32b_b79k")),
        ("openclip", "ViT-B-32", "laion2b_s34b_b79k", ("ViT-B-32", "laion2b_s34b_b79k")),
        ("openclip", "ViT-S-32", __file__, ("ViT-S-32", __file__)),
    ],
)
def test_names(model, version, pretrained, wanted):
    assert find_clip(model, version, pretrained) == wanted


def test_the_papers_models_are_open_clips():
    """Both names are in its tables, OpenAI's was trained with quick-GELU and the other without."""
    known = {name: DEFAULTS[name] for name in ("clip", "openclip")}
    assert known == {"clip": ("ViT-L/14", "openai"), "openclip": ("ViT-H-14", "laion2b_s32b_b79k")}
    assert open_clip.get_pretrained_cfg("ViT-L-14", "openai")["quick_gelu"]
    assert open_clip.get_pretrained_cfg("ViT-H-14", "laion2b_s32b_b79k")
    assert not open_clip.get_pretrained_cfg("ViT-H-14", "laion2b_s32b_b79k").get("quick_gelu")


def test_folders(local, monkeypatch):
    folder, _ = local
    monkeypatch.chdir(folder.parent)
    for model in DEFAULTS:
        assert find_clip(model, str(folder), None) == (f"local-dir:{folder}", None)
        assert find_clip(model, "tiny", None) == ("local-dir:tiny", None)


# ---- similarities ----


def test_a_folder_from_end_to_end(run_main, tmp_path, local, tokenizer):
    """Cosine distances as by open_clip's classes; what the run says of itself; the table from those distances."""
    folder, clip = local
    chosen = [0, 4, 8, 449]
    args = options(folder, *subset(tmp_path, *chosen), model="openclip")
    result = run_main(SCRIPT, *args, "--gallery", tmp_path / "g.png")
    assert result.code == 0 and "digits-pairs: 4 examples of 2 NFE, 8 NFE to do" in result.out
    pairs, records = load_items("digits-pairs"), records_of(result)
    assert list(records) == [2 * k + side for k in chosen for side in (0, 1)]
    right = np.zeros(3)
    for k in chosen:
        ids = tokenizer(list(pairs[k].captions), padding="max_length", return_tensors="pt").input_ids
        images = torch.stack([pixels(pairs.open(k, side)) for side in (0, 1)])
        wanted = distances(clip, images, ids)  # [image, caption]
        assert len(np.unique(wanted.round(5))) == 4, "all alike: this tests nothing"
        for side in (0, 1):
            record = records[2 * k + side]
            np.testing.assert_allclose(record["errors"][:, 0], wanted[side], rtol=1e-5, atol=1e-7)
            assert record["pred"] == int(wanted[side].argmin()) and record["label"] == side
            assert record["losses"] == ["cosine"] and record["counts"].tolist() == [1, 1] and record["nfe"] == 1
        text = wanted[0, 0] < wanted[0, 1] and wanted[1, 1] < wanted[1, 0]
        image = wanted[0, 0] < wanted[1, 0] and wanted[1, 1] < wanted[0, 1]
        right += [text, image, text and image]
    line = next(line for line in result.out.splitlines() if line.startswith("all"))
    assert [float(word[:-1]) for word in line.split() if word.endswith("%")] == (100 * right / 4).round(1).tolist()
    assert Image.open(tmp_path / "g.png").format == "PNG"
    assert read_run(folder_of(result))["options"]["loss"] == "cosine" and "normalized" not in result.out
    printed = run_main(PRINT, folder_of(result))
    assert printed.code == 0 and printed.out == result.out.split("\n", 1)[1]
    refused = run_main(PRINT, folder_of(result), "--loss", "l1")
    assert refused.code == 2 and "--loss l1" in refused.err and "cosine" in refused.err and refused.err.count("\n") == 1


def test_workers_and_resume_change_no_bit(run_main, tmp_path, local):
    args = options(local[0], *subset(tmp_path, 0, 4, 8))
    whole = run_main(SCRIPT, *args, log="whole")
    for worker in (1, 0):
        part = run_main(SCRIPT, *args, "--n_workers", 2, "--worker_idx", worker)
        assert part.code == 0
    assert_same(records_of(part), records_of(whole))
    (folder_of(part) / "009.pt").unlink()
    again = run_main(SCRIPT, *args)
    assert again.code == 0 and " 1 NFE to do" in again.out
    assert_same(records_of(again), records_of(whole))


def test_photographs_are_cropped_as_clip_does(run_main, tmp_path, local, tokenizer):
    """The short side to 32 pixels, bicubic, and the middle of it."""
    own = own_examples(tmp_path / "own", 1)
    records = records_of(run_main(SCRIPT, *options(local[0]), "--dataset", own))
    ids = tokenizer(list(load_items("digits-pairs")[0].captions), padding="max_length", return_tensors="pt").input_ids
    for side, record in records.items():
        with Image.open(own / f"0{'ab'[side]}.png") as image:
            small = image.convert("RGB").resize((42, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
        wanted = distances(local[1], pixels(small)[None], ids)[0]
        np.testing.assert_allclose(record["errors"][:, 0], wanted, rtol=1e-5, atol=1e-7)


def test_half_precision(run_main, tmp_path, local):
    args = options(local[0], *subset(tmp_path, 0))
    full = records_of(run_main(SCRIPT, *args))
    for number, record in records_of(run_main(SCRIPT, *args, "--dtype", "bfloat16", log="half")).items():
        np.testing.assert_allclose(record["errors"], full[number]["errors"], atol=0.03)
        assert not torch.equal(record["errors"], full[number]["errors"])


@pytest.fixture
def registered(tmp_path, monkeypatch) -> dict:
    """A small architecture "mini" that open_clip knows by name, with two tags on one file, one of them quick-GELU."""
    config = small(49408, 77)
    clip = random_clip(config, tmp_path / "mini.safetensors")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "mini", config)
    tag = {"file": str(tmp_path / "mini.safetensors")}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "mini", {"openai": tag | {"quick_gelu": True}, "laion": tag})
    quick = open_clip.CLIP(**config, quick_gelu=True).eval()
    quick.load_state_dict(clip.state_dict())
    return {None: quick, "openai": quick, "laion": clip, tmp_path / "mini.safetensors": clip}


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's training


def test_quick_gelu_is_the_tags(run_main, tmp_path, registered):
    """OpenAI's weights were trained with it; with the exact GELU they load, and give other numbers without a word."""
    pairs = load_items("digits-pairs")
    ids = open_clip.SimpleTokenizer()(list(pairs[0].captions))
    found = []
    for k, (tag, clip) in enumerate(registered.items()):
        args = options("mini", *["--pretrained", tag] * bool(tag), *subset(tmp_path, 0))
        result = run_main(SCRIPT, *args, log=f"log{k}")
        record, _ = records_of(result).values()
        wanted = distances(clip, pixels(pairs.open(0, 0), MEAN, STD)[None], ids)[0]
        np.testing.assert_allclose(record["errors"][:, 0], wanted, rtol=1e-5, atol=1e-7)
        found.append(record["errors"])
    assert folder_of(result).name == "clip_mini_mini.safetensors"
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
    assert (found[0] - found[2]).abs().min() > 1e-4, "no difference: this tests nothing"


def test_the_embedded_clip_names_single_digits():
    """Of 60 captions, the right colour and digit for at least 45 of 50 held-out digits."""
    data, prompts = load_dataset("digits-colour"), read_prompts(ROOT / "prompts/digits_colour_prompts.csv")
    of_image, of_texts = load_clip(*find_clip("clip", "digits", None), dtype="float32", device="cpu")
    texts = of_texts(prompts.texts)
    said = [prompts.classes[int((texts @ of_image(data.open(k))).argmax())] for k in range(0, 450, 9)]
    assert sum(a == b for a, b in zip(said, data.labels[0:450:9], strict=True)) >= 45


# ---- what cannot work: one line ----


def one_line(result) -> str:
    assert result.code == 2 and result.err.startswith(f"{SCRIPT}: ") and result.err.count("\n") == 1, result
    return result.err


def test_weights_that_cannot_be_reached(run_script):
    """From the shell, where open_clip's own complaints would show."""
    message = one_line(run_script(SCRIPT, "--model", "clip", "--dataset", "digits-pairs", "--device", "cpu"))
    assert "ViT-L-14, openai" in message and "--pretrained takes a file" in message


@pytest.mark.parametrize("content", [b"hello", {}, {"weight": torch.zeros(3)}], ids=["text", "nothing", "another's"])
def test_files_that_hold_no_weights(run_main, tmp_path, registered, content):
    file = tmp_path / "w.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    message = one_line(run_main(SCRIPT, *options("mini", "--pretrained", file), *subset(tmp_path, 0)))
    assert str(file) in message and "--pretrained takes a file" in message


@pytest.mark.parametrize("case", ["no weights", "no json", "other json", "other sizes", "no tokenizer"])
def test_damaged_folders(run_main, tmp_path, local, case):
    shutil.copytree(local[0], tmp_path / "clip")
    config = tmp_path / "clip/open_clip_config.json"
    if case == "no weights":
        (tmp_path / "clip/open_clip_model.safetensors").unlink()
    elif case == "no json":
        config.write_text("{")
    elif case == "other json":
        config.write_text("{}")
    elif case == "other sizes":
        config.write_text(config.read_text().replace('"width": 64', '"width": 32'))
    elif case == "no tokenizer":
        for path in (tmp_path / "clip").glob("token*"):
            path.unlink()
    message = one_line(run_main(SCRIPT, *options(tmp_path / "clip"), *subset(tmp_path, 0)))
    assert str(tmp_path / "clip") in message


def test_other_weights_in_the_same_folder(run_main, tmp_path, registered):
    """A file of the same name elsewhere: the folder is the same, the run is not."""
    args = options("mini", *subset(tmp_path, 0))
    assert run_main(SCRIPT, *args, "--pretrained", tmp_path / "mini.safetensors").code == 0
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "mini.safetensors", tmp_path / "other")
    result = run_main(SCRIPT, *args, "--pretrained", tmp_path / "other/mini.safetensors")
    *_, message = result.err.splitlines()  # after the warning that nobody knows how it was trained
    assert result.code == 2 and "pretrained was " in message and "other/mini.safetensors" in message


# ---- how the weights of a file were trained ----


def test_a_file_that_is_called_a_tags_is_as_that_tag(tmp_path):
    """Of every model and tag that open_clip has."""
    (tmp_path / "w.pt").write_bytes(b"")
    for name in open_clip.list_models():
        for tag in open_clip.list_pretrained_tags_by_model(name):
            config = open_clip.get_pretrained_cfg(name, tag)
            for given in (tag, f"{tag}={tmp_path / 'w.pt'}"):
                assert find_clip("openclip", name, given) == (name, given)
                found = training_of(name, given)
                assert found.images == {key: config[key] for key in IMAGES} and not found.unknown
                built = open_clip.get_model_config(name).get("quick_gelu")
                assert found.quick_gelu == bool(config.get("quick_gelu") or built)


@pytest.mark.parametrize("name, mean, resize, quick, unknown", [
    ("ViT-SO400M-14-SigLIP-384", 0.5, "squash", False, ""), ("ViT-B-16-SigLIP2-256", 0.5, "squash", False, ""),
    ("RN50x64", 0.48145466, "shortest", True, ""), ("ViT-L-14-336", 0.48145466, "shortest", True, ""),
    ("ViT-B-32-quickgelu", 0.48145466, "shortest", True, ""), ("MobileCLIP-S1", 0.0, "shortest", False, ""),
    ("ViT-B-32", 0.48145466, "shortest", False, "activation"), ("ViT-L-14", None, None, False, "activation mean"),
    ("ViT-H-14", None, None, False, "activation resize_mode"), (SMALLEST, None, None, False, "preprocessing"),
])  # fmt: skip
def test_a_file_is_as_all_tags_of_its_model(tmp_path, name, mean, resize, quick, unknown):
    """Where these agree; else open_clip's default, and it is said."""
    (tmp_path / "w.pt").write_bytes(b"")
    found = training_of(name, str(tmp_path / "w.pt"))
    assert found.quick_gelu is quick and found.images.get("resize_mode") == resize
    assert (found.images["mean"][0] if found.images else None) == mean
    assert all(word in found.unknown for word in unknown.split()) and bool(found.unknown) == bool(unknown)


def test_a_card_beside_the_file(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"")
    card = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": HALF | {"size": 32}}
    (tmp_path / CARD).write_text(json.dumps(card))
    found = training_of("ViT-L-14", str(tmp_path / "w.pt"))
    assert found.quick_gelu and not found.unknown and found.images == HALF
    before = clip_weights("ViT-L-14", str(tmp_path / "w.pt"))
    (tmp_path / CARD).write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": HALF}))
    assert clip_weights("ViT-L-14", str(tmp_path / "w.pt")) != before, "other numbers are another run"
    for text in ("{", "[]", "{}", '{"model_cfg": 3}'):
        (tmp_path / CARD).write_text(text)
        with pytest.raises(InputError, match="open_clip_config"):
            training_of("ViT-L-14", str(tmp_path / "w.pt"))


@pytest.mark.parametrize("how", ["all tags", "tag=file", "card", "unknown"])
def test_a_file_from_end_to_end(run_main, tmp_path, registered, monkeypatch, how):
    """The numbers of its own mean and activation; a warning where they are not known."""
    siglips = {"file": str(tmp_path / "mini.safetensors"), "quick_gelu": True} | HALF
    tags = {"webli": siglips} if how == "all tags" else {"laion": {"mean": MEAN, "std": STD}, "webli": siglips}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "mini", tags)
    if how == "card":
        card = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": HALF}
        (tmp_path / CARD).write_text(json.dumps(card))
    given = f"{'webli=' if how == 'tag=file' else ''}{tmp_path / 'mini.safetensors'}"
    done = run_main(SCRIPT, *options("mini", "--pretrained", given, *subset(tmp_path, 0)))
    assert done.code == 0 and ("mean" in done.err and "activation" in done.err) == (how == "unknown"), done.err
    pairs = load_items("digits-pairs")
    clip = registered[tmp_path / "mini.safetensors" if how == "unknown" else "openai"]
    image = pixels(pairs.open(0, 0), *([MEAN, STD] if how == "unknown" else []))
    wanted = distances(clip, image[None], open_clip.SimpleTokenizer()(list(pairs[0].captions)))[0]
    record, _ = records_of(done).values()
    np.testing.assert_allclose(record["errors"][:, 0], wanted, rtol=1e-5, atol=1e-7)


# ---- texts that are cut ----

LONG = "a photo of " + "a red three and " * 40


def test_lengths_are_those_of_the_tokenizers(local):
    """Counted in what each makes of a text when nothing is cut."""
    texts = ["", "a photo of a red three.", LONG]
    for tokenizer in (open_clip.SimpleTokenizer(), open_clip.get_tokenizer(f"local-dir:{local[0]}")):
        whole = tokenizer(texts, context_length=1000)
        end = int(whole[0, 1])
        counted = [row.tolist().index(end) + 1 for row in whole]
        assert _lengths(tokenizer, texts) == counted and counted[0] == 2


def test_captions_that_are_cut(run_main, tmp_path):
    """Those that differ after the cut only are named; a caption is named once, however many items show it."""
    own = own_examples(tmp_path / "own", 2)
    lines = [json.loads(line) for line in (own / "examples.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"caption_0": LONG + "one", "caption_1": LONG + "two"}
    (own / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = run_main(SCRIPT, *options("digits"), "--dataset", own)
    assert done.code == 0 and done.err.count("the rest is cut") == 2, done.err
    assert folder_of(done).name == "clip_digits"
    assert done.err.count("are the same to CLIP") == 1


def prompts_csv(path: Path, texts: list[str]) -> Path:
    lines = [f"{text},{k},{k}" for k, text in enumerate(texts)]
    path.write_text("\n".join(["prompt,classname,classidx", *lines]))
    return path


DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
BASELINE = ["scripts/baseline.py", "--dataset", "digits", "--model", "clip:digits", "--device", "cpu", "--limit", 2]
RACE = ["eval_prob_adaptive.py", "--dataset", "digits", "--version", "digits", "--device", "cpu", "--limit", 2]
RACE += ["--search", "race", "--max_samples", 3, "--candidates", 2, "--candidates_from", "clip:digits"]


@pytest.mark.parametrize("args", [BASELINE, RACE], ids=["baseline", "candidates"])
def test_prompts_that_are_cut(run_main, tmp_path, args):
    some = [f"a photo of a {word}." for word in DIGITS[:8]] + [LONG + word for word in DIGITS[8:]]
    done = run_main(*args, "--prompt_path", prompts_csv(tmp_path / "some.csv", some), log="some")
    assert done.code == 0 and "CLIP takes" in done.err and done.err.count("are the same to CLIP") == 1, done.err
    done = run_main(*args, "--prompt_path", prompts_csv(tmp_path / "all.csv", [LONG + word for word in DIGITS]))
    assert done.code == 2 and "all 10 are the same" in done.err.splitlines()[-1], done.err
    assert not list(tmp_path.rglob("data/**/0*.pt")), "nothing was measured"


def test_texts_that_the_tokenizer_makes_the_same():
    """CLIP's tokenizer takes no notice of case."""
    _, of_texts = load_clip(*find_clip("clip", "digits", None), dtype="float32", device="cpu")
    with pytest.warns(InputWarning, match="are the same to CLIP"):
        of_texts(["a red three.", "A RED three.", "a blue four."])
    with pytest.raises(InputError, match="all 2 are the same"):
        of_texts(["a red three.", "A RED three."])
    of_texts(["a red three.", "a red three."])  # a text twice is one text
