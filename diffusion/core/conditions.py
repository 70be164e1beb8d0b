"""What a network is conditioned on: named tensors of one row for each prompt or class id."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Column = Tensor | tuple[Tensor, ...]
Rows = int | slice | Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a network is conditioned on, n rows: one for each prompt or class id.

    A column is a tensor [n, ...]; if rows differ in length, a tuple of n tensors [tokens, ...], so that nothing is
    padded before the network is called. `conditions["text"]` is a column, `conditions[rows]` are some of the rows.
    """

    columns: dict[str, Column]
    settings: tuple[Hashable, ...] | None = None  # [n] the argument of the model's `switch` before a call with that row

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: str | Rows) -> Any:
        """The column of this name; or rows by a number, a slice or an array of numbers, always as Conditions."""
        if isinstance(key, str):
            return self.columns[key]
        rows = [key] if isinstance(key, int | np.integer) else key
        columns = {name: _take(column, rows) for name, column in self.columns.items()}
        if self.settings is None:
            return Conditions(columns)
        return Conditions(columns, _take(self.settings, rows))

    @property
    def nbytes(self) -> int:
        """How much memory the tensors take."""
        total = 0
        for column in self.columns.values():
            total += sum(tensor.nbytes for tensor in _tensors(column))
        return total

    def map(self, function: Callable[[Tensor], Tensor]) -> "Conditions":
        """The function applied to every tensor, which keeps the number of rows."""
        columns: dict[str, Column] = {}
        for name, column in self.columns.items():
            if isinstance(column, Tensor):
                columns[name] = function(column)
            else:
                columns[name] = tuple(map(function, column))
        return replace(self, columns=columns)

    def digest(self) -> str:
        """A hash of names, shapes and bits: conditions of one digest are equal."""
        found = hashlib.sha256()
        for name, column in self.columns.items():
            found.update(name.encode())
            for tensor in _tensors(column):
                found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
                found.update(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @staticmethod
    def cat(parts: Sequence["Conditions"]) -> "Conditions":
        """The rows of all parts, which have the same columns."""
        first = parts[0]
        if len(parts) == 1:
            return first
        columns: dict[str, Column] = {}
        for name, column in first.columns.items():
            pieces: list[Any] = [part.columns[name] for part in parts]
            columns[name] = torch.cat(pieces) if isinstance(column, Tensor) else sum(pieces, ())
        if first.settings is None:
            return Conditions(columns)
        settings: list[Any] = [part.settings for part in parts]
        return Conditions(columns, sum(settings, ()))


def _tensors(column: Column) -> Sequence[Tensor]:
    return [column] if isinstance(column, Tensor) else column


def _take(values: Any, rows: slice | Sequence[int] | np.ndarray | Tensor) -> Any:
    """Rows of a tensor or of a tuple."""
    if isinstance(values, Tensor) or isinstance(rows, slice):
        return values[rows]
    return tuple(values[row] for row in torch.as_tensor(rows).tolist())


def places_of(values: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """The places at which each value occurs; values in the order of their first place."""
    places: dict[Hashable, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    return places
