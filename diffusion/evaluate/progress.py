"""The bar of a run: it moves with network calls and says what is done, how well, how fast and how long it will take."""

import sys
from collections import Counter
from collections.abc import Iterable

from tqdm import tqdm

from diffusion.data.catalogue import NO_LABEL

MINUTE = 60.0  # seconds between two lines of a bar that is no terminal's


class _Lines:
    """A stream that is no terminal, on which each state of a bar is a line."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> None:
        line = text.strip("\r\n").rstrip()
        if line:
            self._stream.write(f"{line}\n")

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


class Progress:
    """A bar of `images` that cost `nfe` in all, at most unless that is `exact`; `earlier` rows count in its figures.

    Where the cost is not known, each image that is not done is taken to cost as much more as was spent in all, over the
    images that are done: the first to end are cheap, so what those in hand have cost by now counts too.
    """

    def __init__(self, images: int, nfe: int, exact: bool, earlier: Iterable[dict] = ()):
        self.images, self.nfe, self.exact = images, nfe, exact
        self.left = images
        self.spent = 0  # NFE, of unfinished images too
        self.now, self.all = Counter(), Counter()  # sums over the images of this call, and over the earlier ones too
        for row in earlier:
            self._count(self.all, row)

    def __enter__(self) -> "Progress":
        look = {"total": self.nfe, "dynamic_ncols": True, "smoothing": 0, "bar_format": "{desc}"}
        if not sys.stderr.isatty():
            look |= {"file": _Lines(sys.stderr), "mininterval": MINUTE, "maxinterval": MINUTE, "miniters": 1}
        self.bar = tqdm(**look)
        self._show()
        return self

    def __exit__(self, *_) -> None:
        self._show("in {elapsed}, ")
        self.bar.close()

    def call(self, nfe: int) -> None:
        """A network call is over."""
        self.spent += nfe
        self._show()

    def image(self, row: dict) -> None:
        """An image is done."""
        self.left -= 1
        for sums in (self.now, self.all):
            self._count(sums, row)
        self.spent = max(self.spent, self.now["nfe"])  # a model may not report its calls
        self._show()

    def left_out(self) -> None:
        """An image will not be done."""
        self.left -= 1
        if self.exact:
            self.nfe -= self.nfe // self.images

    @staticmethod
    def _count(sums: Counter, row: dict) -> None:
        judged = "pred" in row and row["label"] != NO_LABEL
        sums.update(images=1, nfe=row["nfe"], answers=judged, right=judged and row["pred"] == row["label"])

    def _show(self, time: str = "{remaining} left, ") -> None:
        """The line, of at most 80 columns whatever the run."""
        done, total, all_done = self.now["images"], self.nfe, self.all["images"]
        if done and not self.exact:
            total = min(total, self.spent + self.left * self.spent // done)
        self.bar.total = total = max(total, self.spent)
        percent = 100
        if self.left:
            percent = min(100 * self.spent // max(total, 1), 99)
        if "left" in time and not (done or self.exact):
            time = ""  # of a race nobody knows it yet
        speed = self.spent / max(self.bar.format_dict["elapsed"], 1e-3)
        figures = []
        if self.all["answers"]:
            figures.append(f"{self.all['right'] / self.all['answers']:.1%} right")
        if all_done:
            figures.append(f"{self.all['nfe'] / all_done:,.0f} NFE each")
        figures.append(f"{speed:,.0f} NFE/s")
        self.bar.bar_format = f"{percent:3}%|{{bar}}| {done}/{self.images}, {time}{', '.join(figures)}"
        self.bar.update(self.spent - self.bar.n)
