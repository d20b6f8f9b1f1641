"""Rows that are passed over: steps so short that watching each of them would be felt.

Of a row that is passed over only its ends and its waiting for data are taken. What else its time went into is taken
from rows like it that were watched: some are, again and again.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from random import Random
from typing import NamedTuple

import numpy as np

# Longer rows are all watched: it is felt less, and the fewer there are, the less do some of them say of the others.
LONGEST_PASSED_SECONDS = 0.03
# Between two stretches so many rows are watched. One costs some 250 microseconds, a stretch's beginning as much and its
# end up to two milliseconds: together 0.1 % of the longest one. The first are shorter, so that a short job is known.
WATCHED_ROWS = 6
_PASS_SECONDS, _LONGEST_PASS_SECONDS, _GROWTH = 0.2, 4.0, 1.15
# Stretches of longer rows are shorter, this many seconds divided by how long they compute: the fewer of them are
# watched, the less is known, and they bear it: of rows of 25 milliseconds one in seven is watched, for 0.3 %.
_PASS_SQUARED = 0.024
# Rows to learn from before any like them is passed over, and about how many of the last ones count.
_ENOUGH, _REMEMBERED = 5, 50
# Less than a nanosecond.
_SHORTEST_BAND = -30
_COUNTS = frozenset(("steps", "backwards", "forwards", "batches", "samples", "syncs"))
_KNOWN = frozenset(("seconds", "longest", "cpu", "saves", "recorded", "phase/data_wait", "phase/hook"))
# Its own: a script's random numbers stay as they are.
_random = Random(0)  # noqa: S311 - nothing secret


class PassedRows(NamedTuple):
    """What is known of rows that were passed over one after the other, as float64 [rows].

    Args:
        began: seconds of the clock.
        ended: likewise.
        waited: for data, seconds.
        computed: the rest, as long as it would have taken had the row been watched; see `Usual.as_watched`.
    """

    began: np.ndarray
    ended: np.ndarray
    waited: np.ndarray
    computed: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        """How long each took."""
        seconds: np.ndarray = self.ended - self.began
        return seconds

    def where(self, which: slice | np.ndarray) -> PassedRows:
        """Return some of them."""
        return PassedRows(*(values[which] for values in self))


class Stretch:
    """Rows that are passed over one after the other.

    Args:
        began: when the first one began.
        loader: whether a row begins with a batch; else with the end of the step before.
        before: how many stretches there were before.
        typical: how long rows like these compute, in seconds.

    `begins` is to be told, for each row, when it began and how long it then waited for data; `until` is when to watch
    again: not always after as long, or what comes every so many steps would be met always or never.
    """

    def __init__(self, began: float, *, loader: bool, before: int = 0, typical: float = 0.0) -> None:
        self.began, self.loader = began, loader
        longest = min(_PASS_SQUARED / max(typical, _PASS_SQUARED / _LONGEST_PASS_SECONDS), _LONGEST_PASS_SECONDS)
        seconds = min(_PASS_SECONDS * _GROWTH ** min(before, 100), longest)
        self.until = began + seconds * _random.uniform(0.5, 1.5)
        self.begins: list[float] = [] if loader else [began, 0.0]

    @property
    def begun(self) -> int:
        """How many rows have begun."""
        return len(self.begins) // 2

    def rows(self, now: float) -> PassedRows:
        """Return the rows; the last one has begun and is not over."""
        begins, waited = np.array(self.begins or (now, 0.0)).reshape(-1, 2).T
        began = np.append(self.began, begins[1:])
        ended = np.append(began[1:], now)
        return PassedRows(began, ended, waited, ended - began - waited)


class Usual:
    """What watched rows of one kind are made of, the later ones counting more.

    Rows are told apart by how long they computed: one that something held up is made of other things than the rest.
    """

    def __init__(self) -> None:
        self._bands: dict[int, _Band] = {}
        self._last = deque[float](maxlen=_REMEMBERED)

    def knows(self, row: Mapping[str, float]) -> bool:
        """Whether enough rows like this watched one were watched to tell what others are made of."""
        band = self._bands.get(_band_of(_computed(row)))
        return band is not None and band.rows > _ENOUGH - 1  # each counts a little less than one

    def learn(self, row: Mapping[str, float]) -> None:
        """Take a watched row into account."""
        self._last.append(_computed(row))
        self._bands.setdefault(_band_of(_computed(row)), _Band()).learn(row)

    @property
    def typical(self) -> float:
        """The median of how long the last watched rows computed; 0 where there were none."""
        return float(np.median(self._last)) if self._last else 0.0

    def as_watched(self, rows: PassedRows) -> PassedRows:
        """Return rows with how long they would have computed had they been watched.

        To watch takes time itself: of the shortest rows as long as they do, and of some more than of others. So the
        longest of them are taken for what the longest of the last watched ones were, and so on, but for those that are
        longer than all of these by far.
        """
        if not self._last:
            return rows
        watched, order = np.sort(self._last), rows.computed.argsort().argsort()
        alike = watched[((order + 0.5) * len(watched) / len(order)).astype(int)]
        return rows._replace(computed=np.where(rows.computed > 2 * watched[-1], rows.computed, alike))

    def columns(self, rows: PassedRows, hook_share: float) -> dict[str, float]:
        """Return the columns of one row that stands for several that were passed over, but the processor's seconds.

        Where nothing was watched, what they computed is `other`.

        Args:
            rows: at least one.
            hook_share: the share of their seconds that observers worked.
        """
        each = rows.seconds
        seconds, waited = float(each.sum()), float(rows.waited.sum())
        hooked = min(hook_share * seconds, seconds - waited)
        computing = 1 - hooked / (seconds - waited) if seconds > waited else 0.0
        found: defaultdict[str, float] = defaultdict(float)
        for band, alike in self._by_band(rows):
            for name, value in band.columns(alike, computing).items():
                found[name] += value
        return found | {
            "seconds": seconds,
            "longest": float(each.max()),
            "phase/data_wait": waited,
            "phase/hook": hooked,
            "recorded": hooked,
        }

    def _by_band(self, rows: PassedRows) -> Iterator[tuple[_Band, PassedRows]]:
        """Give each row to the band that it belongs to, or else to the nearest that is known."""
        numbers = _bands_of(rows.computed)
        for wanted in sorted(set(numbers.tolist())):
            nearest = min(self._bands, key=lambda known: abs(known - wanted), default=None)
            band = _Band() if nearest is None else self._bands[nearest]
            yield band, rows.where(numbers == wanted)


class _Band:
    """Rows that computed about as long as each other."""

    def __init__(self) -> None:
        self.rows = 0.0
        self._sums: dict[str, float] = {}

    def learn(self, row: Mapping[str, float]) -> None:
        kept = 1 - 1 / _REMEMBERED
        self.rows = kept * self.rows + 1
        names = {*self._sums, *row}
        self._sums = {name: kept * self._sums.get(name, 0.0) + row.get(name, 0.0) for name in names}

    def columns(self, rows: PassedRows, computing: float) -> dict[str, float]:
        """Divide what rows computed, such a share of what they did not wait, and count what they are likely to have."""
        usual = self._sums
        waited = float(rows.waited.sum())
        computed = computing * (float(rows.seconds.sum()) - waited)
        usually_computed, usually_waited = _computed(usual), usual.get("phase/data_wait", 0.0)
        if usually_computed <= 0:
            return {"phase/other": computed}
        divided = {name: computed * (usual[name] / usually_computed) for name in usual.keys() - _KNOWN - _COUNTS}
        if usually_waited:
            divided["data_wait_cpu"] = waited * (usual["data_wait_cpu"] / usually_waited)
        return divided | {name: len(rows.began) * (usual[name] / self.rows) for name in _COUNTS & usual.keys()}


def _computed(row: Mapping[str, float]) -> float:
    return row.get("seconds", 0.0) - row.get("phase/data_wait", 0.0) - row.get("phase/hook", 0.0)


def _band_of(computed: float) -> int:
    """Return the number of a band; each reaches to twice as long as the one before."""
    return math.frexp(computed)[1] if computed > 0 else _SHORTEST_BAND


def _bands_of(computed: np.ndarray) -> np.ndarray:
    """Return the same of many: for one it would take as long as twenty, and each watched row asks."""
    return np.where(computed > 0, np.frexp(computed)[1], _SHORTEST_BAND)


def grouped(rows: PassedRows, shortest: float) -> Iterator[PassedRows]:
    """Give rows shorter than `shortest` that follow each other together, and each other row alone."""
    long = rows.seconds >= shortest
    firsts = np.flatnonzero(long[1:] | long[:-1]) + 1
    ends = [0, *firsts.tolist(), len(long)]
    for first, end in itertools.pairwise(ends):
        if first < end:
            yield rows.where(slice(first, end))
