"""The bar of a run: it moves with network calls and says what is done, how well, how fast and how long it will take."""

from collections import Counter
from collections.abc import Iterable

from tqdm import tqdm

from diffusion.names import NO_LABEL


class Progress:
    """A bar of `images` that cost `nfe` in all, at most unless that is `exact`; `earlier` rows count in its figures.

    What is left is estimated by the mean of the images that are done; before the first, by `nfe`.
    """

    def __init__(self, images: int, nfe: int, exact: bool, earlier: Iterable[dict] = ()):
        self.images, self.nfe, self.exact = images, nfe, exact
        self.left = images
        self.spent = 0  # NFE, of unfinished images too
        self.now, self.all = Counter(), Counter()  # sums over the images of this call, and over the earlier ones too
        for row in earlier:
            self._count(self.all, row)

    def __enter__(self) -> "Progress":
        form = "{percentage:3.0f}%|{bar}| {desc}{remaining} left{postfix}"
        self.bar = tqdm(total=self.nfe, dynamic_ncols=True, smoothing=0, bar_format=form)
        self._show()
        return self

    def __exit__(self, *_) -> None:
        self.bar.bar_format = self.bar.bar_format.replace("{remaining} left", "in {elapsed}")
        self._show()
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
        self.spent = max(self.spent, self.now["nfe"])  # of models that do not tell of their calls
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

    def _show(self) -> None:
        """The line, of at most 80 columns whatever the run."""
        done, total, all_done = self.now["images"], self.nfe, self.all["images"]
        if done and not self.exact:
            total = min(total, self.now["nfe"] + self.left * self.now["nfe"] // done)
        self.bar.total = max(total, self.spent)
        most = "" if self.exact or done else "<"
        self.bar.desc = f"{done}/{self.images}, {most if self.left else ''}"
        speed = self.spent / max(self.bar.format_dict["elapsed"], 1e-3)
        said = [f"{self.all['right'] / self.all['answers']:.1%} right"] if self.all["answers"] else []
        said += [f"{self.all['nfe'] / all_done:,.0f} NFE each"] if all_done else []
        self.bar.set_postfix_str(", ".join([*said, f"{speed:,.0f} NFE/s"]), refresh=False)
        self.bar.update(self.spent - self.bar.n)
