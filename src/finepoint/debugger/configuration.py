"""What is saved of a tensor and when: save intervals per mode, and reductions, as smdebug documents them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finepoint.debugger.modes import ModeKeys
from finepoint.errors import ConfigurationError

REDUCTIONS = ("min", "max", "mean", "std", "variance", "sum", "prod")
NORMS = ("l1", "l2")
# smdebug's documented default.
DEFAULT_INTERVAL = 500


@dataclass
class SaveConfigMode:
    """When to save in one mode.

    Args:
        save_interval: every so many steps.
        start_step: not before this step.
        end_step: not at this step or after it; None for no end.
        save_steps: at these steps as well, whatever the interval says.

    >>> [step for step in range(30) if SaveConfigMode(10, start_step=10, save_steps=[3]).should_save_step(step)]
    [3, 10, 20]
    """

    save_interval: int = DEFAULT_INTERVAL
    start_step: int = 0
    end_step: int | None = None
    save_steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.save_interval = DEFAULT_INTERVAL if self.save_interval is None else int(self.save_interval)
        self.start_step = int(self.start_step or 0)
        self.end_step = None if self.end_step is None else int(self.end_step)
        self.save_steps = list(self.save_steps or [])
        if self.save_interval < 1:
            raise ConfigurationError(f"save_interval is {self.save_interval}; it must be at least 1")

    def should_save_step(self, step: int) -> bool:
        """Return whether a step is one of them."""
        within = self.start_step <= step and (self.end_step is None or step < self.end_step)
        return step in self.save_steps or (within and step % self.save_interval == 0)


@dataclass(init=False)
class SaveConfig:
    """When to save, for each mode; what is given without a mode goes for all.

    Args:
        mode_save_configs: a `SaveConfigMode` by mode; a mode that is missing takes the hook's.
        save_interval: and the others: as in `SaveConfigMode`, for all modes.

    >>> SaveConfig({ModeKeys.TRAIN: SaveConfigMode(10)}).should_save_step(ModeKeys.TRAIN, 20)
    True
    """

    mode_save_configs: dict[ModeKeys, SaveConfigMode | None]

    def __init__(
        self,
        mode_save_configs: Mapping[ModeKeys, SaveConfigMode | None] | None = None,
        save_interval: int | None = None,
        start_step: int | None = None,
        end_step: int | None = None,
        save_steps: list[int] | None = None,
    ) -> None:
        if mode_save_configs is None:
            every = SaveConfigMode(
                DEFAULT_INTERVAL if save_interval is None else save_interval,
                start_step or 0,
                end_step,
                save_steps or [],
            )
            self.mode_save_configs = dict.fromkeys(ModeKeys, every)
        else:
            self.mode_save_configs = {mode: mode_save_configs.get(mode) for mode in ModeKeys}

    @classmethod
    def parse(cls, value: SaveConfig | SaveConfigMode | Mapping[ModeKeys, SaveConfigMode] | None) -> SaveConfig:
        """Return the configuration that one of the accepted forms stands for."""
        if value is None:
            return cls()
        if isinstance(value, SaveConfig):
            return value
        if isinstance(value, SaveConfigMode):
            return cls(dict.fromkeys(ModeKeys, value))
        if isinstance(value, Mapping):
            return cls(value)
        raise ConfigurationError(f"save_config is {value!r}; it must be a SaveConfig, a SaveConfigMode or a dictionary")

    def get_save_config(self, mode: ModeKeys) -> SaveConfigMode:
        """Return a mode's configuration, smdebug's default where it has none."""
        return self.mode_save_configs[mode] or SaveConfigMode()

    def should_save_step(self, mode: ModeKeys, step_num: int) -> bool:
        """Return whether a step, counted within its mode, is to be saved."""
        return self.get_save_config(mode).should_save_step(step_num)

    def completed_by(self, other: SaveConfig) -> SaveConfig:
        """Return this one with the modes that it lacks taken from another."""
        return SaveConfig({mode: own or other.mode_save_configs[mode] for mode, own in self.mode_save_configs.items()})


@dataclass
class ReductionConfig:
    """What is saved of a tensor instead of the whole.

    Args:
        reductions: of `min max mean std variance sum prod`; `std` and `variance` divide by n - 1, as torch does.
        abs_reductions: the same, of the absolute values.
        norms: `l1`, `l2`.
        abs_norms: the same, of the absolute values.
        save_raw_tensor: the whole tensor too.
        save_shape: its shape too.
    """

    reductions: list[str] = field(default_factory=list)
    abs_reductions: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    abs_norms: list[str] = field(default_factory=list)
    save_raw_tensor: bool = False
    save_shape: bool = False

    def __post_init__(self) -> None:
        self.reductions, self.abs_reductions = list(self.reductions or []), list(self.abs_reductions or [])
        self.norms, self.abs_norms = list(self.norms or []), list(self.abs_norms or [])
        mistakes = [
            f"reduction {name!r} is not known; choose from {', '.join(REDUCTIONS)}"
            for name in (*self.reductions, *self.abs_reductions)
            if name not in REDUCTIONS
        ]
        mistakes += [
            f"norm {name!r} is not known; choose from {', '.join(NORMS)}"
            for name in (*self.norms, *self.abs_norms)
            if name not in NORMS
        ]
        if mistakes:
            raise ConfigurationError(mistakes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReductionConfig:
        """Return what a flat dictionary with `reductions: "min,abs_mean,l2_norm"` says.

        >>> ReductionConfig.from_dict({"reductions": "min,abs_mean,l2_norm"}).names
        ('min', 'abs_mean', 'l2')
        """
        listed: dict[str, list[str]] = {"reductions": [], "abs_reductions": [], "norms": [], "abs_norms": []}
        for name in split(values.get("reductions", "")):
            absolute, norm = name.startswith("abs_"), name.endswith("_norm")
            bare = name.removeprefix("abs_").removesuffix("_norm")
            listed[("abs_" if absolute else "") + ("norms" if norm else "reductions")].append(bare)
        return cls(
            **listed,
            save_raw_tensor=as_bool(values.get("save_raw_tensor", False)),
            save_shape=as_bool(values.get("save_shape", False)),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The reductions as recordings name them."""
        absolute = (f"abs_{name}" for name in (*self.abs_reductions, *self.abs_norms))
        return (*self.reductions, *absolute, *self.norms)


def split(value: str | list[str]) -> list[str]:
    """Return the parts of a comma-separated string, as smdebug's JSON files have them."""
    parts = value.split(",") if isinstance(value, str) else value
    return [part.strip() for part in parts if part.strip()]


def as_bool(value: Any) -> bool:
    """Return the truth of a value of a JSON file in which all values are strings."""
    return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1", "yes", "t", "y")
