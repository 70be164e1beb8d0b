"""Every command that the documents print parses, names files that exist, and costs what the documents say."""

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from documents import DOCUMENTS, commands, named, presets, stated
from helpers import ROOT, import_script, parse

from diffusion.core.search import level_sequence
from diffusion.data.datasets import TABLE
from diffusion.data.prompts import prompts_file, read_prompts
from diffusion.evaluate.config import RunConfig
from diffusion.evaluate.points import check_halving, usable_levels
from diffusion.evaluate.presets import with_preset

OTHERS = {  # commands of others: known, not checked
    "bash", "cd", "conda", "done", "export", "for", "git", "mkdir", "pip", "pre-commit", "sbatch", "wait",
}  # fmt: skip
PAPER = {  # NFE per image
    "food": 5570, "cifar10": 2750, "aircraft": 5550, "pets": 2050, "flowers": 5590, "stl10": 3000, "imagenet": 124500,
    "objectnet": 14400,
}  # fmt: skip


ALL = [pytest.param(c, id=f"{name}: {' '.join(c)}") for name, found in DOCUMENTS.items() for c in found]


def is_python(words: list[str]) -> bool:
    return re.fullmatch(r"(.*/)?python3?", words[0]) is not None


def test_commands_reads_shell():
    loop = "for w in 3 4; do\n  B=$w python b.py $w ${w} &\ndone; wait\n"
    assert commands(f"```bash\nA=1 python a.py \\\n  --x 'b; c'  # why\n{loop}```\n```\npython c.py\n```\n") == [
        ["python", "a.py", "--x", "b; c"],
        ["for", "w", "in", "3", "4"],
        ["python", "b.py", "3", "3"],
        ["done"],
        ["wait"],
    ]


@pytest.mark.parametrize("words", ALL)
def test_command_parses_and_its_files_exist(words, monkeypatch):
    for word in words:
        if re.match(r"(prompts|scripts|studies|models)/", word):
            assert (ROOT / word).exists(), word
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif is_python(words):
        if words[1].endswith(".py"):
            parse(words[1:], monkeypatch)
    elif words[0] == "sbatch":
        if "--wrap" in words:
            wrapped = shlex.split(words[words.index("--wrap") + 1].replace("$SLURM_ARRAY_TASK_ID", "7"))
            assert is_python(wrapped)
            parse(wrapped[1:], monkeypatch)
        else:
            parse(words[words.index("scripts/slurm_array.sh") + 1 :], monkeypatch)
    else:
        assert words[0] in OTHERS or (ROOT / words[0]).exists(), "is this a command? Then add it to OTHERS"


def test_the_table_lists_every_data_set():
    assert set(stated()) == set(TABLE)
    assert {name: stated()[name][1] for name in PAPER} == PAPER


@pytest.mark.parametrize("dataset", TABLE)
def test_every_data_set_has_commands_that_cost_what_is_stated(dataset, monkeypatch):
    classes, nfe = stated()[dataset]
    csv = ROOT / "prompts" / prompts_file(dataset)
    if csv.exists():  # ObjectNet's is written on the user's machine
        assert classes == len(set(read_prompts(csv).classes))
    mine = [presets()[dataset][0][1:]]
    mine += [c[1:] for c in DOCUMENTS["commands.md"] if c[1:2] == ["eval_prob_adaptive.py"] and named(c) == dataset]
    assert any("race" not in words for words in mine)
    for words in mine:
        with monkeypatch.context() as patch:
            args = parse(words, patch)
        args = with_preset(args, import_script("eval_prob_adaptive.py").parser())
        if args.search == "race":  # its cost depends on the image
            assert args.to_keep is None and args.n_samples is None
            config = RunConfig.from_args(args, {}, device="cpu", dtype="float32", compile=False)
            assert (args.max_samples or 0) <= len(usable_levels(config.level_range, 1000))
            assert args.budget is None or args.budget >= 2 * classes
            continue
        check_halving(classes, args.n_samples, args.to_keep, 1000)
        _, ends = level_sequence(args.n_samples, 1000)
        assert np.dot([classes, *args.to_keep[:-1]], np.diff(ends, prepend=0)) * args.n_trials == nfe


def test_own_data_has_commands():
    given = {named(c) for c in DOCUMENTS["commands.md"]} - {None, *TABLE}
    assert any(name.endswith(".csv") for name in given)
    assert any(name.startswith("hf:") for name in given)
    assert any("." not in name and ":" not in name for name in given)


def test_dit_costs_what_is_stated(monkeypatch):
    """Classes, NFE of the adaptive search, NFE of the full grid; commands that are neither are for both."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d,]+) \|", (ROOT / "commands.md").read_text(), re.M)
    assert [row[0] for row in rows] == ["imagenet", "imagenetv2", "imagenetA", "digits"]
    commanded = {named(c) for c in DOCUMENTS["commands.md"] if c[1:2] == ["eval_prob_dit.py"]}
    assert commanded == {"objectnet", *(row[0] for row in rows)}
    script = runpy.run_path(str(ROOT / "eval_prob_dit.py"))
    for _, classes, *stated_nfe in rows:
        for arguments, stated_one in zip(([], ["--t_interval", "4"]), stated_nfe, strict=True):
            n_samples, to_keep = script["stages_of"](script["parser"]().parse_args(arguments), int(classes), 1000)
            _, ends = level_sequence(n_samples, 1000)
            nfe = np.dot([int(classes), *to_keep[:-1]], np.diff(ends, prepend=0))
            assert f"{nfe:,}" == stated_one


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [
    pytest.param(name, link, id=f"{name}: {link}")
    for name in DOCUMENTS
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text())
    if not link.startswith("http")
]


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_link_leads_somewhere(name, link):
    path, _, anchor = link.partition("#")
    page = (ROOT / name).parent / path if path else ROOT / name
    assert page.exists()
    assert not anchor or anchor in anchors(page)


def test_every_page_and_picture_is_linked():
    """From the README, or from a page that is."""
    links = [param.values for param in LINKS]
    linked = {((ROOT / name).parent / link.partition("#")[0]).resolve() for name, link in links}
    pages = {path.resolve() for pattern in ("*.md", "docs/*.md", "docs/*.png") for path in ROOT.glob(pattern)}
    assert pages - linked <= {ROOT / "README.md"}


def test_surprises_name_tests_that_exist():
    page = (ROOT / "docs" / "surprises.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    for row in rows:
        file, test = re.search(r"`(test_\w+\.py)::(test_\w+)` \|$", row).groups()
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), row
        for path in re.findall(r"`((?:diffusion|scripts)/\w+\.\w+)`", row):
            assert (ROOT / path).exists(), path


def test_every_finding_is_listed():
    """By the findings' page, and each is a script that bash understands."""
    scripts = {path.name for path in (ROOT / "findings").glob("*.sh")}
    listed = re.findall(r"^\| \[(\w+\.sh)\]\(\1\) \|", (ROOT / "findings" / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(scripts)
    for name in scripts:
        subprocess.run(["bash", "-n", str(ROOT / "findings" / name)], check=True)


def test_the_readme_is_short_and_has_no_holes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    assert not [name for name in DOCUMENTS if "{{" in (ROOT / name).read_text()]
