"""A job's channels as folders of this machine: `s3://` addresses are brought, manifests become folders of links.

A manifest is SageMaker's `ManifestFile`: a JSON list of `{"prefix": PLACE}` and names below it; its file ends in
`.manifest`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

from filelock import FileLock

from finepoint.engines.spec import Channel, JobSpec
from finepoint.errors import DataError
from finepoint.files import cache_dir, digest_of
from finepoint.stores import Store, store_of

MANIFEST = ".manifest"
_WORKERS = 16


def on_this_machine(spec: JobSpec, folder: Path, say: Callable[[str], None]) -> JobSpec:
    """Return a job's spec with channels that are folders or files of this machine.

    What is brought stays in the cache, and of what is there already only what changed is brought again.

    Args:
        spec: of the job.
        folder: for the links that manifests become.
        say: is told what is brought.

    Raises:
        DataError: there is nothing at an address, or a manifest is none.
        CloudError: AWS refused or failed.
    """
    channels = {name: _local(channel, folder / name, say) for name, channel in spec.channels.items()}
    return replace(spec, channels=channels)


def read_manifest(path: Path) -> tuple[str, list[str]]:
    """Return the prefix of a manifest (ending in `/`) and the names below it.

    Raises:
        DataError: it is no such list, or a name leads outside.
    """
    try:
        value = json.loads(path.read_bytes())
        prefix, *names = value
        place = prefix["prefix"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f'{path} is no manifest; it must be a JSON list, [{{"prefix": PLACE}}, NAME, ...]') from error
    wrong = [name for name in names if not isinstance(name, str) or _leads_outside(name)]
    if not isinstance(place, str) or not names or wrong:
        raise DataError(f"{path} names nothing below its prefix, or what is outside of it: {wrong[:3]}")
    return place.removeprefix("file://").rstrip("/") + "/", names


def manifest_files(path: Path) -> Mapping[str, Path]:
    """Return the files of this machine that a manifest names, by their names in it.

    Raises:
        DataError: it is no manifest, or files are not there.
    """
    prefix, names = read_manifest(path)
    files = {name: Path(prefix) / name for name in names}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise DataError(f"{path} names files that are not there: {', '.join(missing[:3])} ({len(missing)} in all)")
    return files


def _local(channel: Channel, links: Path, say: Callable[[str], None]) -> Channel:
    location, store = channel.location, store_of(channel.location)
    if store is not None:
        say(f"Bringing {location}")
        target = cache_dir() / "channels" / digest_of({"location": location})[:32]
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if location.endswith(MANIFEST):
                store.file(location, target.with_suffix(MANIFEST))
            else:
                store.folder(location, target, exact=True)
                return replace(channel, location=str(target))
        path = target.with_suffix(MANIFEST)
    else:
        path = channel.path
    if path.suffix != MANIFEST or not path.is_file():
        return channel
    prefix, names = read_manifest(path)
    below = store_of(prefix)
    files = manifest_files(path) if below is None else _brought(below, prefix, names)
    shutil.rmtree(links, ignore_errors=True)
    for name, file in files.items():
        (links / name).parent.mkdir(parents=True, exist_ok=True)
        (links / name).symlink_to(file.resolve())
    return replace(channel, location=str(links))


def _brought(store: Store, prefix: str, names: list[str]) -> Mapping[str, Path]:
    folder = cache_dir() / "channels" / digest_of({"prefix": prefix})[:32]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"), ThreadPoolExecutor(_WORKERS) as pool:
        wanted = [name for name in names if not (folder / name).is_file()]
        list(pool.map(lambda name: _whole(store, prefix + name, folder / name), wanted))
    return {name: folder / name for name in names}


def _whole(store: Store, address: str, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    store.file(address, part)
    part.rename(target)


def _leads_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts
