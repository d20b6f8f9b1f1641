"""Fixtures: a small real data set, caches that outlive one test but not the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep caches and the endpoint registry of the tests apart from the user's."""
    base = tmp_path_factory.mktemp("finepoint")
    before = dict(os.environ)
    os.environ |= {"FINEPOINT_CACHE": str(base / "cache"), "FINEPOINT_STATE": str(base / "state")}
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without features for one test; graphs, which take long to export, and measurements are shared."""
    shared, own = Path(os.environ["FINEPOINT_CACHE"]), tmp_path / "own-cache"
    own.mkdir()
    for name in ("graphs", "weights", "machine"):
        (shared / name).mkdir(parents=True, exist_ok=True)
        (own / name).symlink_to(shared / name)
    monkeypatch.setenv("FINEPOINT_CACHE", str(own))
    return own


@pytest.fixture(scope="session")
def clothing() -> Path:
    """The photographs of clothes that the developers share; a stranger's clone does not have them."""
    path = ROOT.parent / "shared" / "data" / "clothing"
    if not path.is_dir():
        pytest.skip("the shared clothing photographs are not beside this checkout (../shared/data/clothing)")
    return path


COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue & <b>": (40, 60, 200)}


def write_images(folder: Path, per_class: int, seed: int = 0, classes: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """Write PNG images of noisy colours, a folder for each class."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            noise = generator.normal(0, 60, (40, 48, 3))
            pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/, valid/ and test/ of three colours; one class has a hostile name."""
    root = tmp_path_factory.mktemp("colours")
    for number, (split, count) in enumerate({"train": 24, "valid": 8, "test": 8}.items()):
        write_images(root / split, count, seed=number)
    return root
