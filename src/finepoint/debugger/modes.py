"""Modes: what a step is for. The names and numbers are smdebug's."""

from __future__ import annotations

from enum import Enum


class ModeKeys(Enum):
    """What a model is used for while something is recorded; each mode counts its own steps.

    `GLOBAL` is no mode of a step: asking with it counts the steps of all modes together.
    """

    TRAIN = 1
    EVAL = 2
    PREDICT = 3
    GLOBAL = 4


modes = ModeKeys
