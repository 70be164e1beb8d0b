"""From Python: images of any kind, prompts of any kind."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import single_file
import tiny
import torch
from diffusers import StableDiffusionPipeline
from helpers import ROOT, records_of, subset, write_run
from layouts import picture
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.functional import pil_to_tensor

from diffusion import InputError, InputWarning, classify, load_model, score, tables
from diffusion.api import Answer
from diffusion.core.noise import ImageNoise
from diffusion.data.datasets import load_dataset
from diffusion.data.prompts import prompts_file, read_prompts
from diffusion.models.aliases import ALIASES, EMBEDDED
from diffusion.models.loading import FAMILIES, read_card
from diffusion.runs import records, results

PROMPTS = read_prompts(ROOT / "prompts" / prompts_file("digits")).texts


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(str(model_folder))


def test_the_answer_is_the_script_s(run_main, tmp_path, model_folder, model):
    """Image 0 of a data set: the same winner, NFE and errors, to the bit."""
    args = ["--version", model_folder, "--dataset", "digits", "--device", "cpu", *subset(tmp_path, 0)]
    (record,) = records_of(run_main("eval_prob_adaptive.py", *args, "--search", "race", "--loss", "l1")).values()
    answer = classify(model, load_dataset("digits").open(0), PROMPTS, loss="l1")
    assert (answer.best, answer.nfe, answer.decided) == (record["pred"], record["nfe"], record["decided"])
    parts = record["errors"][:, record["losses"].index("l1")].double().split(record["counts"].tolist())
    for k, part in enumerate(parts):
        shared = parts[answer.best][: len(part)]
        assert answer.scores[k] == pytest.approx((part - shared).mean().item(), abs=1e-12)


def test_what_comes_back(model):
    image = load_dataset("digits").open(3).convert("RGBA")
    answer = classify(model, image, PROMPTS)
    assert isinstance(answer, Answer) and answer.scores.shape == (10,)
    assert answer.scores[answer.best] == 0 == answer.scores.min() and answer.decided
    few = {"max_samples": 8}
    wanted = classify(model, image, PROMPTS, **few)
    assert classify(model, image, PROMPTS, batch_size=3, **few).scores.tolist() == wanted.scores.tolist()
    assert classify(model, image, PROMPTS, seed=1, **few).scores.tolist() != wanted.scores.tolist()
    short = classify(model, image, PROMPTS, budget=20)
    assert short.nfe == 20 and not short.decided


def test_many_images_are_the_same_bits_as_one_by_one(model):
    """A list gives a list, a generator an iterator, in order; image k has the noise of image k of a data set."""
    data = load_dataset("digits")
    images, how = [data.open(k) for k in range(4)], {"max_samples": 20}
    answers = classify(model, images, PROMPTS, **how)
    assert answers[0].scores.tolist() == classify(model, images[0], PROMPTS, **how).scores.tolist()
    streamed = classify(model, (image for image in images), PROMPTS, batch_size=20, **how)
    assert next(streamed).scores.tolist() == answers[0].scores.tolist()
    assert [a.scores.tolist() for a in streamed] == [a.scores.tolist() for a in answers[1:]]
    assert sum(a.best == k for a, k in zip(answers, data.labels, strict=False)) >= 3


def test_every_kind_of_image_is_the_same_image(model, tmp_path):
    image = load_dataset("digits").open(0)
    image.save(tmp_path / "zero.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).movedim(-1, 0)
    grey = array.max(2)

    def scores(images) -> list[float]:
        answer = classify(model, images, PROMPTS[:2], max_samples=2)
        if isinstance(answer, list):
            (answer,) = answer
        return answer.scores.tolist()

    wanted = scores(image)
    kinds = [tmp_path / "zero.png", str(tmp_path / "zero.png"), array, array / 255, tensor, tensor / 255]
    for kind in [*kinds, array[None], tensor[None], [array], [tensor]]:
        assert scores(kind) == wanted
    assert scores(grey) == scores(grey[..., None]) != wanted


def test_prompts_as_a_list_a_dict_or_a_csv(model, tmp_path):
    image = load_dataset("digits").open(3)
    path = ROOT / "prompts" / prompts_file("digits")
    named = dict(zip(read_prompts(path).names, PROMPTS, strict=True))
    few = {"max_samples": 8}
    answers = [classify(model, image, prompts, **few) for prompts in (PROMPTS, named, path, str(path))]
    assert {a.best for a in answers} == {answers[0].best}
    assert all(a.scores.tolist() == answers[0].scores.tolist() for a in answers)
    best = answers[0].best
    assert answers[0].name == PROMPTS[best] and answers[1].name == answers[2].name == list(named)[best]
    twice = classify(model, image, {name: [text, text] for name, text in named.items()}, **few)
    assert twice.nfe == 2 * answers[0].nfe and twice.scores == pytest.approx(answers[0].scores, abs=1e-7)
    lines = [f'"{text}",{name},{k}' for k, (name, text) in enumerate(named.items())]
    (tmp_path / "turned.csv").write_text("\n".join(["prompt,classname,classidx", *lines[::-1]]))
    assert classify(model, image, tmp_path / "turned.csv", **few).name == answers[1].name


def test_an_answer_says_what_each_point_is(model):
    """Its errors, computed anew from level, noise sample and sign of each point, with no more than the network."""
    image = load_dataset("digits").open(3)
    answer = classify(model, image, PROMPTS, max_samples=8, seed=5)
    pixels = pil_to_tensor(image.convert("RGB").resize((32, 32))).float()[None] / 127.5 - 1
    x = model.encode(pixels)
    eps = ImageNoise(5, 0, tuple(x.shape[1:]))[answer.noise] * torch.from_numpy(answer.signs)[:, None, None, None]
    levels = torch.from_numpy(answer.levels)
    conditions = model.conditions(PROMPTS)
    assert set(answer.signs) == {-1, 1} and answer.counts.sum() == answer.nfe
    for prompt, count in enumerate(answer.counts):
        z = model.process.noised(x.expand(count, -1, -1, -1), eps[:count], levels[:count])
        row = conditions[np.full(count, prompt)]
        with torch.inference_mode():
            predicted = model.denoise(z, model.process.time[levels[:count]], row)
        error = (predicted - eps[:count]).square().mean((1, 2, 3))
        assert answer.errors_of(prompt) == pytest.approx(error.numpy(), rel=1e-4)
        assert answer.errors_of(prompt - len(PROMPTS)).tolist() == answer.errors_of(prompt).tolist()
    with pytest.raises(IndexError):
        answer.errors_of(len(PROMPTS))


def test_options_are_the_command_line_s(model):
    image = load_dataset("digits").open(3)
    halved = classify(model, image, PROMPTS, search="halving", to_keep=[3, 1], n_samples=[2, 10])
    assert halved.nfe == 10 * 2 + 3 * 8 and halved.best == classify(model, image, PROMPTS, max_samples=20).best
    stages = classify(model, image, PROMPTS, search="halving", to_keep=[3, 2, 1], n_samples=[1, 2, 3])
    assert stages.nfe == 10 + 3 * 2, "levels 1 and 2 of 3 are all three: the last stage finds them measured"
    few = classify(model, image, PROMPTS, candidates=[3, halved.best, 7], max_samples=20)
    assert np.isfinite(few.scores).sum() == len({3, halved.best, 7}) and few.best == halved.best
    half = np.r_[np.zeros(500), np.ones(500)]
    plain = classify(model, image, PROMPTS, levels=(0.5, 1), max_samples=20)
    weighted = classify(model, image, PROMPTS, weights=half, levels=(0, 1), max_samples=20)
    assert weighted.scores == pytest.approx(2 * plain.scores)
    sure = classify(model, image, PROMPTS, temperature=0.002, max_samples=20)
    assert sure.probabilities.sum() == pytest.approx(1) and sure.probabilities.argmax() == sure.best
    assert plain.probabilities is None


def test_scores_are_errors_at_shared_points(model):
    """Against a halving of one stage, which measures the same; and less the empty caption's."""
    images, three = [load_dataset("digits").open(k) for k in (0, 3)], PROMPTS[:3]
    errors = score(model, images, three, n_samples=4)
    assert errors.shape == (2, 3)
    one = classify(model, images[0], three, search="halving", to_keep=[1], n_samples=[4])
    assert errors[0] - errors[0].min() == pytest.approx(one.scores, abs=1e-12)
    both = score(model, images, [*three, ""], n_samples=4)
    assert score(model, images, three, n_samples=4, normalize=True) == pytest.approx(both[:, :3] - both[:, 3:])


GOOD = np.zeros((32, 32, 3), np.uint8)


HALVING = {"search": "halving", "to_keep": [1], "n_samples": [9]}
NUMBERS = {"temperature": "1", "z": None, "budget": "9"}
# fmt: off
REFUSED = [  # what, the option or argument, where the error points, a value of the problem
    *(("images", image, where, wanted) for image, where, wanted in (
        (None, "images", "NoneType"), ([GOOD, 7], "an image, a int", "PIL"),
        (GOOD.astype(float) - 1, "an image of floats from -1 to -1", "0..1"),
        (GOOD.astype(int), "an image of int64", "uint8"),
        (np.zeros((3, 32, 32), np.uint8), "an image [3, 32, 32]", "[h, w]"),
        (torch.zeros(32, 32, 3), "an image [32, 32, 3]", "[1 or 3, h, w]"))),
    *(("prompts", prompts, where, found) for prompts, where, found in (
        ([], "prompts", "0 of them"), (["a cat"], "prompts", "1 of them"), ("a cat", "prompts 'a cat'", "one text"),
        ([["a cat"], ["a dog"]], "prompts", "['a cat']"), ({"cat": [], "dog": "a dog"}, "prompts", "'cat'"),
        ([1, 2], "prompts", "1"), (None, "prompts", "NoneType"))),
    *(("captions", captions, "captions", type(captions).__name__) for captions in (None, {"cat": "a cat"})),
    *(("options", {name: value}, f"{name} {value!r}", "number") for name, value in NUMBERS.items()),
    *(("options", {"max_samples": value}, f"max_samples {value!r}", "integer") for value in ("20", 20.5)),
    *(("options", {"levels": value}, f"levels {value!r}", "1000")
      for value in ((0.8, 0.2), "0.2-0.8", "01", (0.2, 0.5, 0.8))),
    *(("options", {"candidates": [value]}, "candidates of image 0", f"{value}, wanted") for value in ([1], [1, 10])),
    *(("options", HALVING | {name: value}, f"{name} {value!r}", "integers")
      for name, value in (("to_keep", 1), ("n_samples", "9"), ("to_keep", []))),
    *(("options", change, where, wanted) for change, where, wanted in (
        ({"loss": "mse"}, "loss 'mse'", "l2 or l1 or huber"), ({"z": 0}, "z 0", "0"), ({"seed": -1}, "seed -1", "0"),
        ({"search": "halving"}, 'search="halving"', "to_keep"), ({"budget": 3}, "budget 3", "20 NFE"),
        (HALVING | {"n_samples": [2000]}, "to_keep 1 n_samples 2000", "1000"), ({"batch_size": 0}, "batch_size 0", "1"),
        ({"to_keep": [1], "n_samples": [20]}, "to_keep and n_samples", "halving"),
        ({"weights": np.ones(3)}, "weights [3]", "[1000]"), ({"temperature": -1}, "temperature -1", "0"),
        ({"candidates": 3}, "candidates 3", "list"))),
    *(("of score", change, f"{name} {value!r}", "wanted") for change in ({"n_samples": "20"}, {"levels": "0-1"})
      for name, value in change.items()),
]
# fmt: on


@pytest.mark.parametrize("what, argument, where, value", REFUSED)
def test_what_cannot_work_is_one_clear_error(model, what, argument, where, value):
    with pytest.raises(InputError) as caught:
        if what in ("captions", "of score"):
            score(model, GOOD, **({"captions": argument} if what == "captions" else {"captions": PROMPTS} | argument))
        else:
            images = argument if what == "images" else [GOOD]
            prompts = argument if what == "prompts" else PROMPTS
            classify(model, images, prompts, **(argument if what == "options" else {}))
    assert caught.value.where == where and value in caught.value.problem and "\n" not in str(caught.value)


def test_a_model_is_what_load_model_gives():
    for use in (classify, score):
        with pytest.raises(InputError) as caught:
            use("digits", GOOD, PROMPTS)
        assert caught.value.where == "model" and "str" in caught.value.problem


@pytest.mark.parametrize("name, value", [
    ("device", "nothing"), ("device", "meta"), ("device", f"cuda:{torch.cuda.device_count()}"), ("device", None),
    ("dtype", "float8"), ("dtype", torch.int8),
])  # fmt: skip
def test_a_device_that_is_not_there_is_named_before_a_weight_is_read(name, value, monkeypatch):
    monkeypatch.setattr("diffusion.models.loading.read_card", None)
    with pytest.raises(InputError) as caught:
        load_model("digits", **{name: value})
    shown = value if isinstance(value, torch.dtype) else f"'{value}'"
    assert caught.value.where == f"{name} {shown}" and "\n" not in str(caught.value)


def test_float32_is_float32(monkeypatch):
    """On CUDA convolutions too, while the network computes; the caller's setting is as before."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []
    known = FAMILIES["StableDiffusionPipeline"]

    class Spied(known.adapter):
        def predict(self, *args):
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().predict(*args)

    monkeypatch.setitem(FAMILIES, "StableDiffusionPipeline", known._replace(adapter=Spied))
    classify(load_model("digits"), GOOD, PROMPTS, max_samples=2)
    assert seen and not any(seen) and torch.backends.cudnn.allow_tf32


def test_a_path_of_a_folder_or_a_single_file_is_a_model(model, model_folder, tmp_path):
    file = tmp_path / "one.safetensors"
    single_file.write(model_folder, file)
    others = load_model(model_folder), load_model(read_card(file, config=str(model_folder)))
    image = load_dataset("digits").open(3)
    answers = [classify(each, image, PROMPTS, max_samples=4).scores.tolist() for each in (model, *others)]
    assert answers[0] == answers[1] == answers[2]


def test_equal_prompts_are_warned_of(model):
    alike = "'a cat' stands for 2 classes, which cannot be told apart"
    for prompts in (["a cat", "a dog", "a cat"], {"cat": ["a cat", "a kitten"], "dog": "a dog", "puss": "a cat"}):
        with pytest.warns(InputWarning, match=alike) as told:
            classify(model, GOOD, prompts, max_samples=2)
        assert len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        classify(model, GOOD, {"cat": ["a cat", "a cat"], "dog": "a dog"}, max_samples=2)  # of one class: counts twice


@pytest.mark.parametrize("how", [
    {"max_samples": 6}, {"search": "halving", "to_keep": [2, 1], "n_samples": [2, 4]},
])  # fmt: skip
def test_equal_prompts_are_never_decided(model, how):
    with pytest.warns(InputWarning):
        tied = classify(model, GOOD, ["a cat", "a cat"], **how)
    assert tied.scores.tolist() == [0, 0] and tied.best == 0 and not tied.decided
    with pytest.warns(InputWarning):
        below = classify(model, GOOD, {"cat": "a cat", "puss": "a cat", "dog": "a dog", "hound": "a dog"}, **how)
    assert not below.decided
    assert classify(model, GOOD, ["a cat", "a dog"], **how).decided


def test_a_file_that_is_no_image(model, tmp_path):
    (tmp_path / "no.png").write_text("no")
    for path in (tmp_path / "no.png", tmp_path / "nothing.png"):
        with pytest.raises(OSError, match=path.name):
            classify(model, path, PROMPTS)


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_example_of_the_documents(tmp_path, monkeypatch, capsys, page):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    exec(compile(code, page, "exec"), {})
    assert "NFE" in capsys.readouterr().out


def test_class_ids(dit_folder):
    model = load_model(read_card(str(dit_folder), conditioned_on="class"), dtype=torch.float32, device="cpu")
    data = load_dataset("digits")
    answers = [classify(model, data.open(k), list(range(10)), max_samples=24).best for k in range(4)]
    assert sum(best == label for best, label in zip(answers, data.labels, strict=False)) >= 3
    for wrong, said in [(["three", "five"], "class ids"), ([3, 10], "0..9")]:
        with pytest.raises(InputError, match=said):
            classify(model, data.open(0), wrong)


def test_the_package_imports_nothing_heavy():
    quick = "import sys, diffusion; assert 'torch' not in sys.modules; diffusion.InputError"
    assert subprocess.run([sys.executable, "-c", quick], cwd=ROOT).returncode == 0
    assert not hasattr(__import__("diffusion"), "nothing")


@pytest.mark.parametrize("name, condition, takes, classes", [
    ("fashion", None, "class", 10), ("digits", None, "text", None), ("digits", "class", "class", 10),
    (str(EMBEDDED / "digits-dit"), "class", "class", 10),
])  # fmt: skip
def test_load_model_takes_every_name_of_the_scripts(name, condition, takes, classes):
    """digits stands for a model of each kind."""
    model = load_model(name, conditioned_on=condition)
    assert (model.conditioned_on, model.classes) == (takes, classes)


def test_names_of_the_hub_are_read_as_what_they_are(monkeypatch, tmp_path):
    """Their repositories are asked for, as models of classes."""
    import tiny

    from diffusion.io import hub
    from diffusion.models.aliases import ALIASES

    tiny.save(tiny.dit, tmp_path / "dit")
    asked, look = [], hub.look

    def served(source):
        asked.append(source)
        return look(str(tmp_path / "dit"))

    monkeypatch.setattr(hub, "look", served)
    assert load_model("dit-512").conditioned_on == "class" and set(asked) == set(ALIASES["class"]["dit-512"])
    assert load_model("facebook/DiT-XL-2-256").conditioned_on == "class"


def test_conditions_that_a_model_does_not_take():
    with pytest.raises(InputError, match="wanted text or class"):
        load_model("digits", conditioned_on="image")
    with pytest.raises(InputError, match="fashion"):
        load_model("fashion", conditioned_on="text")
    with pytest.raises(InputError, match="conditioned on text"):
        load_model(read_card("digits"), conditioned_on="class")


def test_every_reader_takes_a_text_as_well_as_a_path(tmp_path, monkeypatch):
    """Also a relative one, and one with ~; what is read is the same."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    errors = np.random.default_rng(0).random((6, 3, 4))
    path = write_run(tmp_path / "run", errors, [0, 1, 2, 0, 1, 2])
    records.note_failure(path / "7.pt", "gone")
    wanted = results.read(path)
    for text in (str(path), "run", "~/run", "run/"):
        run = results.read(text)
        assert run.description == wanted.description
        assert {k: each.name for k, each in run.done.items()} == {k: each.name for k, each in wanted.done.items()}
        assert tables.read(text).options == wanted.options
        assert records.read_run(text) == wanted.description and records.is_run(text)
        assert records.finished(text).keys() == wanted.done.keys() and records.failed(text).keys() == {7}
        assert records.load_record(f"{text}/3.pt")["label"] == 0
        assert len(results.failures(text, {})) == 1
        rows, problems = results.read_rows([f"{text}/{k}.pt" for k in range(6)], of_run=True)
        assert len(rows) == 6 and not problems
    other = write_run(tmp_path / "other", errors, [0, 1, 2, 0, 1, 2], model="n")
    assert list(tables.read_same(["run", "~/other"])) == list(tables.read_same([path, other]))
    assert tables.read_groups(["run", str(other)]).keys() == tables.read_groups([path, other]).keys()

    for name in ("cat", "dog"):
        picture(tmp_path / "pictures" / name / "0.png")
    for name in (tmp_path / "pictures", "pictures", "~/pictures"):
        assert load_dataset(name).classes == ["cat", "dog"] and load_dataset(name).name == "pictures"


@pytest.mark.parametrize("name", ["no-such/model", "nothing.safetensors", "~/nothing"])
def test_a_name_that_is_no_model_has_the_same_reasons_as_in_the_scripts(name, run_main):
    with pytest.raises(InputError) as error:
        load_model(name)
    for script in ("eval_prob_adaptive.py", "scripts/adapt.py"):
        words = ["digits"] if script == "scripts/adapt.py" else ["--dataset", "digits"]
        done = run_main(script, *words, "--version", name, "--device", "cpu")
        reasons = error.value.problem.split(". Wanted: ")[0].split("; wanted ")[0]
        assert done.code == 2 and done.err.startswith(f"{Path(script).name}: --version {name}: {reasons}")


# ---- models: options, errors, pipelines in memory ----


def test_load_model_takes_the_options_of_the_scripts(model, model_folder, tmp_path):
    """As read_card does; one file is as good as a list of one."""
    file = tmp_path / "one.safetensors"
    single_file.write(model_folder, file)
    image = load_dataset("digits").open(3)
    vae = model_folder / "vae"
    whole = load_model(file, config=model_folder, vae=vae)
    answers = [classify(each, image, PROMPTS, max_samples=4) for each in (model, whole)]
    assert answers[0].scores.tolist() == answers[1].scores.tolist()

    save_file({"<thing>": torch.randn(1, 128)}, tmp_path / "e.safetensors")
    for embeddings in (tmp_path / "e.safetensors", [str(tmp_path / "e.safetensors")]):
        assert load_model("digits", embeddings=embeddings).tokens == ("<thing>",)
    assert load_model("digits", image_size=48).image_size == 48
    with pytest.raises(TypeError):
        load_model("digits", lorra="a.safetensors")
    with pytest.raises(InputError) as caught:
        load_model(read_card("digits"), vae=vae)
    assert caught.value.where == "vae"


@pytest.mark.parametrize("options, where", [
    ({"lora": "a.safetensors:0"}, "lora 'a.safetensors:0'"), ({"config": "2-1"}, "config '2-1'"), ({"t5": True}, "t5"),
    ({"vae": "nowhere"}, "vae 'nowhere'"), ({"image_size": 33}, "image_size '33'"), ({"lora": "x"}, "lora 'x'"),
])  # fmt: skip
def test_errors_name_arguments(options, where):
    with pytest.raises(InputError) as caught:
        load_model("digits", **options)
    assert caught.value.where == where and "--" not in str(caught.value)


def test_a_name_that_is_none_is_answered_with_all_names():
    with pytest.raises(InputError) as caught:
        load_model("nowhere")
    assert caught.value.where == "card 'nowhere'" and "--" not in str(caught.value)
    names = re.search(r"one of (.*?), a hub id", caught.value.problem)[1].split(", ")
    assert set(names) == {*ALIASES["text"], *ALIASES["class"]} and len(set(names)) == len(names)
    with pytest.raises(InputError) as caught:
        load_model(str(EMBEDDED / "digits-dit"), conditioned_on="text")
    assert caught.value.where == "conditioned_on 'text'"


def test_a_pipeline_in_memory_is_a_model(model, model_folder):
    """The same bits as from its files, also of one that was being trained; its weights are those of the moment."""
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder, dtype=torch.float32)
    pipeline.unet.train()
    ours = load_model(pipeline)
    assert (ours.image_size, ours.conditioned_on) == (32, "text")
    image = load_dataset("digits").open(3)
    wanted = classify(model, image, PROMPTS, max_samples=8)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.train()
        assert classify(ours, image, PROMPTS, max_samples=8).scores.tolist() == wanted.scores.tolist()
        assert not part.training
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 0.1
    changed = classify(ours, image, PROMPTS, max_samples=8)
    assert changed.errors.mean() > wanted.errors.mean()

    pipeline.text_encoder.half()  # as by default in from_pretrained, if its file is in half precision
    mixed = classify(load_model(pipeline), image, PROMPTS, max_samples=8)
    assert mixed.errors_of(mixed.best).mean() == pytest.approx(changed.errors_of(mixed.best).mean(), rel=0.01)
    pipeline.to(torch.bfloat16)
    half = classify(load_model(pipeline), image, PROMPTS, max_samples=8)
    assert half.errors_of(half.best).mean() == pytest.approx(changed.errors_of(half.best).mean(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [tiny.sdxl, tiny.flux, tiny.pixart, tiny.prx, tiny.dit, tiny.grey_v, tiny.kandinsky_3, tiny.ernie_image],
    ids=lambda build: build.__name__,
)
def test_pipelines_of_other_families_in_memory(build, tmp_path):
    """As from their files; nothing of the pipeline is changed."""
    tiny.save(build, tmp_path)
    cls = getattr(diffusers, json.loads((tmp_path / "model_index.json").read_text())["_class_name"])
    pipeline = cls.from_pretrained(tmp_path, dtype=torch.float32)
    autoencoder = getattr(pipeline, "movq", None) or getattr(pipeline, "vae", None)
    before = repr(autoencoder), repr(getattr(autoencoder, "config", None))
    ours, saved = load_model(pipeline), load_model(tmp_path)
    for key in ("image_size", "conditioned_on", "classes"):
        assert getattr(ours, key) == getattr(saved, key)
    prompts = [0, 3] if ours.classes else ["a cat", "the number three"]
    image = Image.new("RGB", (40, 40), (200, 90, 10))
    answers = [classify(each, image, prompts, max_samples=4) for each in (ours, saved)]
    assert answers[0].errors.tolist() == answers[1].errors.tolist()
    assert before == (repr(autoencoder), repr(getattr(autoencoder, "config", None)))


def test_pipelines_that_are_none():
    pipeline = tiny.grey_v()
    for options in ({"device": "meta"}, {"dtype": torch.bfloat16}, {"offload": True}, {"conditioned_on": "text"}):
        with pytest.raises(InputError):
            load_model(pipeline, **options)
    with pytest.raises(InputError) as caught:
        load_model(pipeline, vae="taesd", image_size=8, lora="a.safetensors")
    assert caught.value.where == "lora, vae"
    pipeline.unet = torch.nn.Sequential(pipeline.unet)  # as wrapped for training
    for other in (pipeline, 7, pipeline.scheduler):
        with pytest.raises(InputError) as caught:
            load_model(other)
        assert caught.value.where == "card"
    of_no_classes = diffusers.DDPMPipeline(tiny.class_unet(classes=None), diffusers.DDPMScheduler())
    with pytest.raises(InputError) as caught:
        load_model(of_no_classes)
    assert "num_class_embeds" in caught.value.problem


def test_the_example_of_a_pipeline_in_memory(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/models.md").read_text(), re.M | re.S)
    (code,) = (block for block in blocks if "load_model(pipeline)" in block)
    exec(compile(code, "docs/models.md", "exec"), {})
    name, nfe = capsys.readouterr().out.rsplit(maxsplit=1)
    assert name == "a photo of the number three." and int(nfe) > 0
