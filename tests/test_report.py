"""The page of a run: its numbers are those of print_acc.py; strangers' texts stay texts; then in a real browser."""

import datetime
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SCRIPT, folder_of, options, race_options, rewrite_run, subset, write_run

from diffusion import __version__
from diffusion import page as pages
from diffusion.plots import svg
from diffusion.runs.records import load_record, one_point
from diffusion.stats import metrics

REPORT, ACC = "scripts/report.py", "scripts/print_acc.py"
NASTY = '<script>alert("x")</script> & "three" $a$'


@pytest.fixture(scope="module")
def run(run_once, tmp_path_factory, model_folder):
    """Thirty images, few points, so that some are wrong; with a temperature."""
    few = subset(tmp_path_factory.mktemp("few"), *range(0, 497, 17))
    worse = "--max_samples", 4, "--z", 1, "--noise", "independent"  # so that some answers are wrong
    folder = folder_of(run_once(SCRIPT, *race_options(model_folder, *worse), *few))
    assert run_once("scripts/calibrate.py", folder, "--fit", 0.4).code == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """`copy(change) -> folder`: the run with another run.json."""

    def make(change=lambda run: None):
        folder = shutil.copytree(run, tmp_path / "copy")
        told = json.loads((folder / "run.json").read_text())
        change(told)
        rewrite_run(folder, told)
        return folder

    return make


class Text(HTMLParser):
    """The words of a page, and what stands in its attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.words, self.tags, self.attributes, self.open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def __str__(self):
        return " ".join(" ".join(self.words).split())


def page_of(run_main, folder: Path, *more, code: int = 0) -> str:
    result = run_main(REPORT, folder, "--out", folder.parent / "page.html", *more)
    assert result.code == code, result.err
    return (folder.parent / "page.html").read_text()


def test_the_numbers_are_those_of_print_acc(run_main, run):
    text = str(Text(page_of(run_main, run)))
    said = run_main(ACC, run, "--top", 5).out
    for name in ("top-1 accuracy", "top-5 accuracy", "mean per class"):
        value = " ".join(re.search(rf"^{name} +(.*)", said, re.M)[1].split())
        assert f"{name.removesuffix(' accuracy')} {value}" in text
    rows = [load_record(path) for path in sorted(run.glob("*.pt"))]
    nfe = [row["nfe"] for row in rows]
    assert f"images {len(rows)} of {len(rows)}" in text
    assert f"mean {np.mean(nfe):,.0f}, median {np.median(nfe):,.0f}, at most {max(nfe):,}; in all {sum(nfe):,}" in text
    wrong = [row for row in rows if row["pred"] != row["label"]]
    assert 1 <= len(wrong) < 12 and all(f"image {row['index']}" in text for row in wrong)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for row in wrong:
        assert f"{words[row['pred']]} , is {words[row['label']]} image {row['index']}" in text
    counts = metrics.confusion(
        np.array([r["pred"] for r in rows]), np.array([r["label"] for r in rows]), list(range(10))
    )
    for word, row in zip(words, counts, strict=True):
        assert f"{word} {' '.join(map(str, row))}" in text
    assert "Expected calibration error" in text and "to_keep" not in text and "max_samples 4 " in text


def test_a_page_is_the_same_bytes_twice_and_holds_all_it_needs(run_main, run):
    page = page_of(run_main, run)
    assert page == page_of(run_main, run)
    found = Text(page)
    assert "script" not in found.tags and "link" in found.tags
    for tag, key, value in found.attributes:
        if key in ("src", "href", "xlink:href", "data", "action"):
            assert value.startswith(("#", "data:")), (tag, key, value[:80])
    assert "@import" not in page and "url(" not in re.sub(r"url\(#", "", page)
    ids = [value for _, key, value in found.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    for _, key, value in found.attributes:  # what is pointed at is there
        if key in ("href", "xlink:href") and value.startswith("#"):
            assert value[1:] in ids, value
    assert set(re.findall(r"url\(#(.*?)\)", page)) <= set(ids)
    assert not re.search(r"#(1f2328|57606a|d0d7de|0969da|1a7f37|cf222e)\b", page.split("</style>", 1)[1])


def test_curves_are_the_running_means(run):
    """By hand, of one wrong answer."""
    record = next(r for r in map(load_record, sorted(run.glob("*.pt"))) if r["pred"] != r["label"])
    arms = [part[:, 0].double().numpy() for part in record["errors"].split(record["counts"].tolist())]
    own, other = arms[record["label"]], arms[record["pred"]]
    curve = pages.running_difference(record, np.arange(10), record["label"], record["pred"], "l2")
    assert len(curve) == min(len(own), len(other)) > 1
    for n in range(1, len(curve) + 1):
        assert curve[n - 1] == pytest.approx(np.mean(own[:n]) - np.mean(other[:n]), abs=1e-12)
    excess = metrics.excess(record, np.arange(10), record["pred"], "l2")
    assert curve[-1] == pytest.approx(excess[record["label"]], abs=1e-12)
    record["counts"][record["label"]] = 0  # no candidate
    record["errors"] = torch.cat([torch.from_numpy(a)[:, None] for k, a in enumerate(arms) if k != record["label"]])
    record["losses"] = ["l2"]
    assert len(pages.running_difference(record, np.arange(10), record["label"], record["pred"], "l2")) == 0


def test_strangers_texts_stay_texts(run_main, copy):
    def rename(run):
        for arm in run["arms"]:
            arm[1] = f"{NASTY} {arm[2]}"
        run["options"]["version"] = "<img src=x onerror=alert(1)>"
        run["options"]["note"] = "</pre></main><script>"

    folder = copy(rename)
    (folder / "failed").mkdir()
    (folder / "017.pt").unlink()
    (folder / "failed" / "017.txt").write_text("cannot read <b>image</b>\n")
    page = page_of(run_main, folder, code=1)
    found = Text(page)
    assert "script" not in found.tags and "b" not in found.tags
    assert not any(key.startswith("on") for _, key, _ in found.attributes)
    assert f"{html.escape(NASTY, quote=False)}"[:20] in page
    assert "cannot read <b>image</b>" in str(found) and 'alert("x")' in str(found)


def test_many_classes_are_a_list_of_pairs(run_main, tmp_path, model_folder):
    few = subset(tmp_path, 0, 5, 301)
    args = ["--dataset", "digits-colour", "--version", model_folder, "--device", "cpu", *few]
    folder = folder_of(run_main(SCRIPT, *args, "--to_keep", 1, "--n_samples", 1))
    for path in folder.glob("*.pt"):
        record = load_record(path)
        record["label"] = (record["pred"] + 1) % 60
        torch.save(record, path)
    text = str(Text(page_of(run_main, folder)))
    assert "confused most often" in text and text.count("image ") >= 3 and "No probabilities yet" in text
    assert "0 of 3 images right" in text


def test_what_there_is_not_is_said(run_main, copy, tmp_path):
    """No mistakes; no temperature; images that cannot be shown; a candidate that was never measured."""
    folder = copy(lambda run: run["options"].update(dataset=str(tmp_path / "gone"), candidates=9))
    (folder / "calibration.json").unlink()
    page = str(Text(page_of(run_main, folder)))
    assert "The images cannot be shown" in page and "no image" in page and "calibrate.py" in page and "recall" in page
    for path in folder.glob("*.pt"):
        record = load_record(path)
        record["label"] = record["pred"]
        torch.save(record, path)
    page = str(Text(page_of(run_main, folder)))
    assert "Every answer is right so far." in page and "100.00%" in page
    assert str(Text(page_of(run_main, folder, "--loss", "l1"))).count("decided by l1") == 1
    assert "fitted for" not in page
    (folder / "calibration.json").write_text("{")
    assert "damaged: " in str(Text(page_of(run_main, folder)))


def test_mistakes_that_are_not_shown_are_counted(run_main, copy):
    folder = copy()
    for path in folder.glob("*.pt"):
        record = load_record(path)
        torch.save(record | {"label": (record["pred"] + 1) % 10}, path)
    text = str(Text(page_of(run_main, folder, "--mistakes", 0, "--others", 0)))
    assert "30 of the answers are wrong; none of them is shown." in text and "is right so far" not in text
    text = str(Text(page_of(run_main, folder, "--mistakes", 2, "--others", 0)))
    assert "Showing 2 of 30." in text and len(re.findall(r"% confident. (Ahead of|Behind) ", text)) == 2


def test_notes_are_counted_as_print_acc_does(run_main, copy):
    """Not that of an image that is done; no matter what bytes they are."""
    folder = copy()
    (folder / "failed").mkdir()
    (folder / "failed" / "000.txt").write_text("came too late\n")
    assert "came too late" not in page_of(run_main, folder) and run_main(ACC, folder).code == 0
    (folder / "017.pt").unlink()
    (folder / "failed" / "017.txt").write_bytes(b"caf\xe9\n")
    assert "image 17: caf\ufffd" in page_of(run_main, folder, code=1)
    assert "image 17: caf\ufffd" in run_main(ACC, folder).err


def test_half_a_surrogate_pair_is_a_question_mark(run_main, copy):
    def rename(run):
        run["arms"][1][1] = "half \ud800"
        run["options"]["note"] = "\ud800"

    assert "half ?" in str(Text(page_of(run_main, copy(rename))))


@pytest.mark.parametrize("nfe", [[0, 5], [-5]])
def test_costs_that_are_none_are_not_counted(run_main, copy, nfe):
    folder = copy()
    paths = sorted(folder.glob("*.pt"))[: len(nfe)]
    for path, each in zip(paths, nfe, strict=True):
        torch.save(load_record(path) | {"nfe": each}, path)
    assert f"nfe is {nfe[0]}, wanted int, at least 1" in str(Text(page_of(run_main, folder, code=1)))


@pytest.mark.parametrize("lowest, highest, wanted", [
    (110, 2200, ["100", "200", "500", "1,000", "2,000"]),
    (11, 95, ["10", "20", "50", "100"]),
    (100, 100_000, ["100", "1,000", "10,000", "100,000"]),
])  # fmt: skip
def test_costs_have_few_ticks(lowest, highest, wanted):
    """Numbers that cannot be mistaken; the texts of the picture are its ticks and its two labels."""
    drawn = svg.draw_histogram(np.geomspace(lowest, highest, 50).astype(int))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert texts[: len(wanted) + 1] == [*wanted, "NFE of an image"]


def test_a_run_of_one_stage_and_one_image(run_main, tmp_path, model_folder):
    """All costs are the same; the page lies in the run's folder, which goes on from there."""
    args = [*options(model_folder, to_keep="1", n_samples="2"), *subset(tmp_path, 7)]
    folder = folder_of(run_main(SCRIPT, *args))
    assert run_main(REPORT, folder, "--others", 0).code == 0
    page = (folder / "report.html").read_text()
    assert "Every image took 20 network evaluations." in page and "<svg" not in page
    assert "1 done before" in run_main(SCRIPT, *args).out


def test_a_run_of_a_baseline_has_no_curves(run_main, copy, tmp_path):
    """One point of each class, as scripts/baseline.py measures."""
    folder = copy()
    for path in folder.glob("*.pt"):
        record, wrong = load_record(path), (load_record(path)["label"] + 1) % 10
        errors = -torch.eye(10)[wrong]
        told = {key: record[key] for key in ("index", "label")} | {"pred": wrong}
        torch.save(one_point(errors, "l2", **told), path)
    text = str(Text(page := page_of(run_main, folder, "--mistakes", 3)))
    assert re.search(r"Ahead of \w+ by 1 after 1 shared point\.", text) and "The curve is" not in text
    assert "Every image took 1 network evaluation." in text and 'class="cards"' in page and "0 of 30 images" in text


def test_other_answers(run_main, copy):
    """The least certain are in the order of the number on their cards; right ones are right, and nothing there is red.

    Without a temperature that number is the lead over the next class, with one the probability.
    """
    folder = copy()
    rows = {row["index"]: row for row in (load_record(path) for path in folder.glob("*.pt"))}

    def ahead(index: int) -> float:
        excess = metrics.excess(rows[index], np.arange(10), rows[index]["pred"], "l2")
        return np.sort(np.maximum(excess, 0))[1]

    def shown() -> tuple[list[int], list[int], str]:
        answers = page_of(run_main, folder, "--others", 4, "--mistakes", 0).split('id="answers"')[1]
        uncertain, right = answers.split("Some right ones")
        right = right.split('id="run"')[0]
        return [int(k) for k in re.findall(r"image (\d+)", uncertain)], re.findall(r"image (\d+)", right), answers

    uncertain, right, answers = shown()
    printed = [float(p) for p in re.findall(r"<p>([\d.]+)% confident", answers.split("Some right ones")[0])]
    assert len(printed) == 4 and printed == sorted(printed)
    assert len(right) == 4 and all(rows[int(k)]["pred"] == rows[int(k)]["label"] for k in right)
    assert "--wrong" not in answers.split("Some right ones")[1].split('id="run"')[0]

    (folder / "calibration.json").unlink()
    uncertain, right, answers = shown()
    least = answers.split("Some right ones")[0]
    printed = [float(lead) for lead in re.findall(r"<p>Ahead of .*? by (\S+) after", least)]
    assert uncertain == sorted(rows, key=lambda k: (ahead(k), k))[:4]
    assert printed == pytest.approx([ahead(k) for k in uncertain], rel=0.01)


def test_a_page_explains_itself(run_main, copy):
    """The method, NFE and points in words; date, versions, command and prompts; no folder of this machine."""

    def note(run):
        run["command"] = "eval_prob_adaptive.py --version /home/me/models/mine --dataset digits"
        run["prompts"] = re.sub("from .*, such", "from /home/me/my prompts, old/p.csv, such", run["prompts"])

    folder = copy(note)
    text = str(Text(page_of(run_main, folder)))
    for words in ("Noise is added to an image", "network evaluation (NFE)", "a point is one noise level"):
        assert words in text
    last = max(path.stat().st_mtime for path in folder.glob("*.pt"))
    assert f"measured {datetime.datetime.fromtimestamp(last, datetime.UTC).date()}" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text and f"diffusion-classifier {__version__}" in text
    assert "command eval_prob_adaptive.py --version mine --dataset digits" in text and "/home/me" not in text
    assert "10 prompts of 10 classes, from p.csv, such as" in text and "'a photo of the number zero.'" in text
    assert "nine a photo of the number nine." in text  # in the table of all


def test_an_unlabelled_run_has_a_page(run_main, copy):
    folder = copy()
    for path in folder.glob("*.pt"):
        torch.save(load_record(path) | {"label": -1}, path)
    page = page_of(run_main, folder, "--others", 3)
    text = str(Text(page))
    rows = [load_record(path) for path in sorted(folder.glob("*.pt"))]
    assert "30 images without labels" in text and "top-1" not in text and "Mistakes" not in text
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for k, word in enumerate(words):
        times = sum(row["pred"] == k for row in rows)
        assert (f"{word} {times}" in text) == (times > 0)
    assert page.count("<img") == 6 and "least certain" in text and "most certain" in text
    assert "var(--wrong)" not in page.split("</style>")[1] and ", is " not in text


@pytest.mark.parametrize("images, diagrams", [(90, 0), (110, 1)])
def test_a_diagram_needs_enough_images(run_main, tmp_path, images, diagrams):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, images)
    errors = 1 + rng.normal(size=(images, 3, 8)) / 5
    errors[np.arange(images), labels] -= 0.1
    folder = write_run(tmp_path / "run", errors, labels.tolist())
    fit = {"temperature": 0.05, "fit": 1e-9, "seed": 0, "loss": "l2"}  # on none of them
    (folder / "calibration.json").write_text(json.dumps(fit))
    page = page_of(run_main, folder, "--mistakes", 0, "--others", 0)
    assert page.count('aria-label="Accuracy against confidence') == diagrams
    assert "Expected calibration error" in page and ("needs 100 such images" in page) == (not diagrams)


@pytest.mark.parametrize("nfe, share", [([1] * 9 + [11], "55%"), ([1] * 20 + [10] * 2, "50%"), ([1, 2, 3], None)])
def test_the_share_of_the_most_expensive(nfe, share):
    """By hand; too few images have no tenth."""
    text = pages.cost_of(np.array(nfe))
    assert (f"took {share} of all" in text) if share else ("took" not in text)


def test_numbers_stand_on_the_right(browser, run_main, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    assert run_main(REPORT, run, other, "--out", tmp_path / "page.html").code == 0
    view = browser.new_page()
    view.goto((tmp_path / "page.html").as_uri())
    for details in view.query_selector_all("details"):
        details.evaluate("each => each.open = true")
    left = view.evaluate("""[...document.querySelectorAll('tbody td')]
        .filter(each => /^[+-]?[\\d.,]+%?( \\([^)]*\\))?$/.test(each.textContent.trim()) && !each.closest('.options'))
        .filter(each => getComputedStyle(each).textAlign != 'right').map(each => each.textContent)""")
    view.close()
    assert left == []


def test_several_runs(run_main, run, copy):
    """First how they compare, as scripts/compare.py has it, then each; ids are not used twice."""
    other = copy(lambda told: told["options"].update(version="another"))
    for path in sorted(other.glob("*.pt"))[:3]:
        record = load_record(path)
        wrong = (record["label"] + 1) % 10
        torch.save(
            one_point(-torch.eye(10)[wrong], "l2", index=record["index"], label=record["label"], pred=wrong), path
        )
    out = other.parent / "page.html"
    assert run_main(REPORT, run, other, "--out", out).code == 0
    page = out.read_text()
    text = str(Text(page))
    assert text.index("Comparison") < text.index("Run 1: sd") < text.index("Run 2: another")
    cells = re.findall(r"[+-][\d.]+ \([+-][\d.]+ to [+-][\d.]+\)", run_main("scripts/compare.py", run, other).out)
    assert len(cells) == 1 and cells[0] in text
    ids = re.findall(r' id="(.*?)"', page)
    assert len(ids) == len(set(ids))
    hrefs = re.findall(r'href="#(.*?)"', page)
    assert set(hrefs) <= set(ids)


def test_colours_are_told_apart():
    """4.5 to 1 and more (WCAG 2 AA), of every text's colour on both grounds, in both schemes."""

    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    style = (ROOT / "scripts/report.html.jinja").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(schemes) == 2
    for colours in schemes:
        for text in ("ink", "soft", "right", "wrong", "accent"):
            for ground in ("page", "panel"):
                low, high = sorted(luminance(colours[name]) for name in (text, ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground, colours)


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[dev]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here: apt install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=[(1, 1280, "light"), (2, 360, "dark")], ids=str)
def view(browser, run_once, run, tmp_path_factory, request):
    """The page of one run on a screen, or of two on a phone; and what it asked the network for."""
    n, width, scheme = request.param
    path = tmp_path_factory.mktemp("page") / "report.html"
    runs = [run, shutil.copytree(run, path.parent / "other")]
    assert run_once(REPORT, *runs[:n], "--out", path).code == 0
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: asked.append(message.text))
    page.goto(path.as_uri())
    yield page, asked
    context.close()


def test_nothing_is_asked_for_and_nothing_overflows(view):
    page, asked = view
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    wide, there = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= there
    for drawn in page.query_selector_all("svg"):
        box = drawn.bounding_box()
        assert box["width"] > 150 and box["height"] > 60 and box["x"] + box["width"] <= there


def test_the_table_of_pairs_fits(run_main, run, copy, browser, tmp_path):
    """All of its columns are seen; and a page of races says why curves end."""
    other = copy(lambda about: about["options"].update(search="race"))
    assert run_main(REPORT, run, other, "--names", "first prompts", "others", "--out", tmp_path / "p.html").code == 0
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.goto((tmp_path / "p.html").as_uri())
    sizes = page.evaluate(
        "[...document.querySelectorAll('.scroll')].slice(0, 2).map(e => [e.scrollWidth, e.clientWidth])"
    )
    page.close()
    assert len(sizes) == 2 and all(wide <= there for wide, there in sizes)
    assert "A race stops measuring a class" in (tmp_path / "p.html").read_text()


def test_a_phone_is_not_widened_by_long_names(run_main, browser, copy, tmp_path):
    """Of the run, of classes, of what went wrong; and there is no temperature."""

    def rename(run):
        run["options"]["version"] = "x" * 200
        for arm in run["arms"]:
            arm[1] = f"{'y' * 90} {arm[2]}"

    folder = copy(rename)
    (folder / "calibration.json").unlink()
    (folder / "failed").mkdir()
    (folder / "017.pt").unlink()
    (folder / "failed" / "017.txt").write_text("z" * 300)
    page_of(run_main, folder, code=1)
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto((tmp_path / "page.html").as_uri())
    wide, there = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= there
    page.close()


def test_paper_is_white(view):
    """Whatever the scheme of the screen; and the names of the matrix's rows stay in sight."""
    page, _ = view
    row, region = page.locator(".matrix [scope=row]").first, page.locator(".scroll:has(.matrix)").first
    region.evaluate("each => each.scrollLeft = 1000")
    assert row.bounding_box()["x"] == pytest.approx(region.bounding_box()["x"], abs=2)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    page.emulate_media(media="screen")


def test_axe_finds_nothing(view):
    from axe_playwright_python.sync_playwright import Axe

    page, _ = view
    for details in page.query_selector_all("details"):
        details.evaluate("each => each.open = true")
    found = Axe().run(page)
    assert found.response["passes"] and found.violations_count == 0, found.generate_report()


def test_texts_of_pictures_are_large_enough(view):
    """In pixels on the screen."""
    page, _ = view
    sizes = page.evaluate("""[...document.querySelectorAll('svg text')].map(text => {
        const {a, b} = text.getScreenCTM(); return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b)})""")
    assert len(sizes) > 30 and min(sizes) >= 8.5


def test_the_keyboard_reaches_everything(view):
    """In the order of the page, each with a visible outline; the first stop leads past the navigation."""
    page, _ = view
    wanted = page.evaluate("""[...document.querySelectorAll('a[href], summary, [tabindex="0"]')]
        .filter(each => each.checkVisibility()).map(each => each.outerHTML.slice(0, 60))""")
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == wanted and len(wanted) >= 8
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Enter")
    first = page.locator("a.skip")
    first.focus()
    assert first.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
