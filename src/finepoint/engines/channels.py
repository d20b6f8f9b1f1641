"""A job's channels as folders of this machine: `s3://` addresses are brought, manifests become folders of links.

An address means what it means to SageMaker (`S3Prefix`): every object whose key begins so. A manifest is SageMaker's
`ManifestFile`: a JSON list of `{"prefix": PLACE}` and names to append to it; its file ends in `.manifest`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from filelock import FileLock

from finepoint.engines.spec import Channel, JobSpec
from finepoint.errors import DataError
from finepoint.files import cache_dir, digest_of
from finepoint.stores import Store, store_of

MANIFEST = ".manifest"


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


def name_in_channel(prefix: str, key: str) -> str:
    """Return the name in a channel of an object whose key begins with the channel's prefix.

    Below the prefix it is the rest of the key. Where the prefix ends within a name, it begins with that whole name: so
    real jobs have it (aws/sagemaker-python-sdk, issue 3612), unlike the SDK's local mode.

    >>> name_in_channel("set/train", "set/train/a/1.png"), name_in_channel("set/train", "set/train-data.csv")
    ('a/1.png', 'train-data.csv')
    """
    rest = key[len(prefix) :]
    if rest and (not prefix or prefix.endswith("/") or rest.startswith("/")):
        return rest.lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def read_manifest(path: Path) -> tuple[str, list[str]]:
    """Return the prefix of a manifest and the names to append to it; a folder's ends in `/`.

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
    place = place.removeprefix("file://")
    return place if "://" in place else place.rstrip("/") + "/", names


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
                store.channel(location, target)
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
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        store.named(prefix, names, folder)
    return {name: folder / name for name in names}


def _leads_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts
