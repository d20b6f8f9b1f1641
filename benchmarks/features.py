"""Our pass over images against a plain PyTorch loop, the same with channels_last, and the bare pipeline.

The bare pipeline is what the machine could do if nothing else cost anything: decoding, resizing and inference, each
at the best that was measured with all cores busy, perfectly overlapped. They share the cores, so that their
times add up.

    python benchmarks/features.py [--data FOLDER] [--quick] [--json]
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from customary import images_per_second as customary_speed
from finepoint.data.preprocessing import Preprocessing
from finepoint.files import cache_dir, sha256_of
from finepoint.models.backbones import resolve_backbones
from finepoint.models.choice import choose_runtime, images_per_second, open_runtime
from finepoint.models.runtimes import cores, cpu_has_bf16
from finepoint.training.features import ImageFile, embed
from photographs import photographs
from reporting import Goal, parser, report


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="a folder of images; by default made-up photographs")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = cache_dir()
        paths = photographs(given.data, folder, 192 if given.quick else 768)
        (backbone,) = resolve_backbones(["efficientnet_lite0"])
        choice = choose_runtime(backbone)
        images = [ImageFile(path, sha256_of(path)) for path in paths]
        few = paths[: 128 if given.quick else 192]
        speeds: dict[str, list[float]] = {"ours": [], "plain": [], "plain, channels_last": [], "bare": []}
        parts: dict[str, list[float]] = {"decode": [], "resize": [], "inference": []}
        for number in range(1 if given.quick else 3):
            # A cache without features each time; weights and graphs are where they were.
            os.environ["FINEPOINT_CACHE"] = str(fresh_cache(folder / f"cache-{number}", shared))
            start = time.perf_counter()
            embed(images, backbone, choice)
            speeds["ours"].append(len(images) / (time.perf_counter() - start))
            speeds["plain"].append(customary_speed(few, backbone, channels_last=False))
            speeds["plain, channels_last"].append(customary_speed(few, backbone, channels_last=True))
            decode, resize = _decode_and_resize(paths, backbone.preprocessing)
            inference = images_per_second(open_runtime(backbone, choice), backbone, seconds=2.0)
            for part, value in (("decode", decode), ("resize", resize), ("inference", inference)):
                parts[part].append(value)
            speeds["bare"].append(1 / (1 / decode + 1 / resize + 1 / inference))
        rows = [
            {
                "way": way,
                "images a second": f"{statistics.median(found):.1f}",
                "runs": " ".join(f"{value:.0f}" for value in found),
            }
            for way, found in {**speeds, **{f"  bare: {part}": found for part, found in parts.items()}}.items()
        ]
        plain, bare = (_ratio(speeds["ours"], speeds[other]) for other in ("plain", "bare"))
        goals = [
            Goal("ours against the plain loop", plain, 12 if cpu_has_bf16() else 8),
            Goal("ours against the bare pipeline", bare, 0.85),
        ]
        source = given.data or "made up"
        notes = f"{len(paths)} images ({source}); ours: {choice.runtime}/{choice.precision}, {choice.reason}"
        report("Embedding images with EfficientNet-Lite0", rows, goals, as_json=given.json, notes=notes)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def fresh_cache(folder: Path, shared: Path) -> Path:
    """Return a new cache without features; weights, graphs and measurements are the user's."""
    folder.mkdir()
    for name in ("weights", "graphs", "machine"):
        (folder / name).symlink_to(shared / name)
    return folder


def _decode_and_resize(paths: Sequence[Path], described: Preprocessing) -> tuple[float, float]:
    """Return images a second of the best decoder and the best resizer, all cores busy."""
    contents = [path.read_bytes() for path in paths[:192]]
    decoders: list[Callable[[bytes], np.ndarray]] = [_with_pillow]
    if all(content[:2] == b"\xff\xd8" for content in contents):
        decoders.append(simplejpeg.decode_jpeg)
    decode = max(_speed(decoder, contents) for decoder in decoders)
    pixels = [_with_pillow(content) for content in contents]
    resize = max(_speed(described.apply, pixels), _speed(_torchvision_resizer(described), pixels))
    return decode, resize


def _with_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def _torchvision_resizer(described: Preprocessing) -> Callable[[np.ndarray], object]:
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    way = v2.Compose(
        [
            v2.Resize(described.resize, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop((described.height, described.width)),
        ]
    )
    return lambda pixels: way(torch.from_numpy(pixels).permute(2, 0, 1)).contiguous()


def _speed(work: Callable[[object], object], items: Sequence[object]) -> float:
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(work, items[:8]))
        start = time.perf_counter()
        list(pool.map(work, items))
        return len(items) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
