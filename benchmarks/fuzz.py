"""Mutated bodies against an endpoint: none may bring a 5xx, a hang, a leak or a crash.

Mutations know the formats: segments of JPEG, chunks of PNG and WebP, values of JSON, parts of multipart are
removed, doubled, swapped, cut, or given other lengths and bytes. Each client has its own seed, so that a failure can
be repeated. The model behind it is a mean over pixels, so that the time goes into what reads hostile bytes.

    python benchmarks/fuzz.py [--bodies N] [--seed N] [--quick] [--json]
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import statistics
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil
from PIL import Image

from reporting import Goal, parser, report
from serving_processes import serve, tiny_package

_CLIENTS = 4
_PARTS = 10
_IDLE_SECONDS = 1.5


@dataclass
class Outcome:
    """What came back.

    Args:
        statuses: how often each status came.
        failures: seed and number of each body that was not answered as it should be.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--bodies", type=int, help="how many (100,000; quick 2,000)")
    arguments.add_argument("--seed", type=int, default=0, help="of the mutations")
    given = arguments.parse_args()
    count = given.bodies or (2_000 if given.quick else 100_000)
    with tiny_package() as model, serve(model) as (url, process):
        fuzz(url, max(1_000, count // 20), given.seed + 1_000_000)  # allocators and caches reach their size first
        outcome, sizes = Outcome(), []
        for part in range(_PARTS):
            found = fuzz(url, count // _PARTS, given.seed + part)
            outcome.statuses += found.statuses
            outcome.failures += found.failures
            time.sleep(_IDLE_SECONDS)  # then decoders have given back what they kept for the next image
            sizes.append(memory(process))
        alive = httpx.get(f"{url}/ping", trust_env=False).status_code == 200
        deaths = re.search(r"finepoint_decoder_deaths (\d+)", httpx.get(f"{url}/metrics", trust_env=False).text)
    # A single look finds an allocator's ups and downs; a leak shows in the second half against the first.
    before, after = (statistics.median(half) for half in (sizes[: _PARTS // 2], sizes[_PARTS // 2 :]))
    server_errors = sum(number for status, number in outcome.statuses.items() if status >= 500 and status != 503)
    rows = [{"status": status, "answers": number} for status, number in sorted(outcome.statuses.items())]
    goals = [
        Goal("bodies answered", sum(outcome.statuses.values()), count // _PARTS * _PARTS),
        Goal("share without a 5xx other than overload", 1 - server_errors / count, 1.0),
        Goal("share without a hang or a cut connection", 1 - len(outcome.failures) / count, 1.0),
        Goal("memory in the first half over memory in the second", before / after, 0.95),
        Goal("healthy afterwards", float(alive), 1),
    ]
    notes = (
        f"memory {before / 2**20:.0f} to {after / 2**20:.0f} MiB; decoders that died: {deaths[1] if deaths else '?'}"
    )
    notes += "".join(f"\n{failure}" for failure in outcome.failures[:20])
    report(f"{count:,} mutated bodies", rows, goals, as_json=given.json, notes=notes)


def memory(process: psutil.Process) -> int:
    """Return the bytes that a server and its decoders have for themselves."""
    return sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True)))


def fuzz(url: str, count: int, seed: int) -> Outcome:
    """Send so many mutated bodies and return what came back."""
    outcome, lock = Outcome(), threading.Lock()

    def client(number: int) -> None:
        generator, bodies = random.Random(f"{seed}-{number}"), seeds()
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as session:
            for index in range(number, count, _CLIENTS):
                path, kind, body = mutated(generator, bodies)
                try:
                    answer = session.post(path, content=body, headers={"Content-Type": kind})
                    status, failure = answer.status_code, answer.status_code >= 500 and answer.status_code != 503
                    if failure:
                        words = answer.text[:200]
                except httpx.HTTPError as error:
                    status, failure, words = 0, True, repr(error)
                with lock:
                    if status:
                        outcome.statuses[status] += 1
                    if failure:
                        outcome.failures.append(f"seed {seed}, body {index} ({kind}): {words}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


Seeds = dict[str, list[bytes]]


def seeds() -> Seeds:
    """Return good images by format."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:4, :4]).resize((64, 48), Image.Resampling.BICUBIC))

    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = [Image.fromarray(noise), Image.fromarray(smooth), Image.fromarray(smooth).convert("L")]
    return {
        "image/jpeg": [
            *(saved(picture, "JPEG", quality=80) for picture in pictures),
            saved(pictures[1], "JPEG", progressive=True, exif=exif.tobytes()),
            saved(pictures[1].convert("CMYK"), "JPEG"),
        ],
        "image/png": [
            *(saved(picture, "PNG") for picture in pictures),
            saved(pictures[1].convert("RGBA"), "PNG"),
            saved(pictures[1].convert("P"), "PNG"),
            saved(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
        ],
        "image/webp": [saved(pictures[0], "WEBP"), saved(pictures[1], "WEBP", lossless=True)],
        "image/gif": [saved(pictures[1], "GIF", save_all=True, append_images=[pictures[1]])],
        "image/tiff": [saved(pictures[1], "TIFF", compression="tiff_lzw")],
        "image/bmp": [saved(pictures[1], "BMP")],
    }


def mutated(generator: random.Random, bodies: Seeds) -> tuple[str, str, bytes]:
    """Return path, content type and a mutated body."""
    kind = generator.choice(list(bodies))
    image = generator.choice(bodies[kind])
    form = generator.random()
    if form < 0.7:
        image = _MUTATIONS.get(kind, _bytes)(generator, image)
        return "/invocations", kind if generator.random() < 0.9 else "application/octet-stream", image
    image = _bytes(generator, image) if generator.random() < 0.5 else image
    coded = base64.b64encode(image).decode()
    if form < 0.8:
        body = json.dumps(
            generator.choice([{"image": coded}, {"images": [coded, coded]}, {"images": [_value(generator)]}])
        )
        return "/invocations", "application/json", _text(generator, body.encode())
    if form < 0.9:
        lines = "\n".join(
            json.dumps({"image": coded, "name": _value(generator)}) for _ in range(generator.randint(1, 3))
        )
        return "/invocations/batch", "application/jsonlines", _text(generator, lines.encode())
    part = b'--b\r\nContent-Disposition: form-data; name="x"; filename="a.jpg"\r\n\r\n' + image + b"\r\n"
    whole = part * generator.randint(1, 3) + b"--b--\r\n"
    return "/invocations/batch", "multipart/form-data; boundary=b", _text(generator, whole)


def _jpeg(generator: random.Random, data: bytes) -> bytes:
    """Mutate whole segments: each is a marker, a length and a payload; the scan is the last part."""
    parts, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        parts.append(data[place : place + 2 + length])
        place += 2 + length
    parts.append(data[place:])
    return _parts(generator, parts)


def _png(generator: random.Random, data: bytes) -> bytes:
    """Mutate whole chunks; half of the time the checksums are made right again, so that decoders read on."""
    parts, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        parts.append(data[place : place + 12 + length])
        place += 12 + length
    mixed = [data[:8], *parts]
    changed = _parts(generator, mixed)
    return _checksums(changed) if generator.random() < 0.5 else changed


def _checksums(data: bytes) -> bytes:
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if place + 12 + length > len(data):
            break
        body = data[place + 4 : place + 8 + length]
        parts.append(data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join(parts) + data[place:]


def _webp(generator: random.Random, data: bytes) -> bytes:
    """Mutate RIFF's chunks, and half of the time make the outer length right again."""
    parts, place = [data[:12]], 12
    while place + 8 <= len(data):
        (length,) = struct.unpack("<I", data[place + 4 : place + 8])
        parts.append(data[place : place + 8 + length + length % 2])
        place += 8 + length + length % 2
    changed = _parts(generator, parts)
    if generator.random() < 0.5 and len(changed) > 12:
        changed = changed[:4] + struct.pack("<I", len(changed) - 8) + changed[8:]
    return changed


def _parts(generator: random.Random, parts: list[bytes]) -> bytes:
    parts = list(parts)
    for _ in range(generator.randint(1, 3)):
        index = generator.randrange(len(parts))
        way = generator.randrange(6)
        if way == 0 and len(parts) > 1:
            del parts[index]
        elif way == 1:
            parts.insert(index, parts[index])
        elif way == 2:
            other = generator.randrange(len(parts))
            parts[index], parts[other] = parts[other], parts[index]
        elif way == 3:
            parts[index] = parts[index][: generator.randrange(len(parts[index]) + 1)]
        else:
            parts[index] = _bytes(generator, parts[index])
    return b"".join(parts)


def _bytes(generator: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        if changed:
            place = generator.randrange(min(len(changed), generator.choice((32, 256, 1 << 20))))
            changed[place] = generator.choice((0, 0xFF, 0x7F, 0x80, generator.randrange(256)))
    if generator.random() < 0.1:
        changed = changed[: generator.randrange(len(changed) + 1)]
    return bytes(changed)


def _text(generator: random.Random, data: bytes) -> bytes:
    way = generator.random()
    if way < 0.3:
        return data
    if way < 0.6:
        return _bytes(generator, data)
    start = generator.randrange(len(data) + 1)
    end = min(len(data), start + generator.randrange(1, 64))
    if way < 0.8:
        return data[:start] + data[end:]
    return data[:start] + data[start:end] * generator.randint(2, 50) + data[end:]


def _value(generator: random.Random) -> object:
    return generator.choice(
        [None, "", "x" * 10_000, 0, -1, 1e308, True, [], {}, "\ud800", [[[[]]]], {"image": 1}, "é\0"]
    )


_MUTATIONS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/webp": _webp,
}

if __name__ == "__main__":
    main()
