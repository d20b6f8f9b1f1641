"""A job's channels in S3, each under an address made of its content: what is there already is not sent again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from finepoint.data.manifests import MANIFEST_NAME
from finepoint.data.shards import is_worth_packing, write_shards
from finepoint.engines.channels import MANIFEST, manifest_files, read_manifest
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.engines.sagemaker.transfer import Progress, files_of, push
from finepoint.engines.spec import Channel, JobSpec
from finepoint.files import digest_of, sha256_of


def push_channels(
    cloud: Cloud, spec: JobSpec, settings: SageMakerSettings, progress: Progress | None = None
) -> dict[str, str]:
    """Upload a job's channels, and return the address of each; those that are in S3 already stay there."""
    return {
        name: channel.location
        if channel.location.startswith("s3://")
        else _push_channel(cloud, channel, settings, progress, packed=not spec.is_script)
        for name, channel in spec.channels.items()
    }


def _push_channel(
    cloud: Cloud, channel: Channel, settings: SageMakerSettings, progress: Progress | None, *, packed: bool
) -> str:
    """Upload a channel and return its address; `packed` allows archives, which finepoint's own trainer reads."""
    path = channel.path
    if path.suffix == MANIFEST and path.is_file() and read_manifest(path)[0].startswith("s3://"):
        place = settings.uri("data", sha256_of(path)[:32])
        push(cloud, {path.name: path}, place, kms_key=settings.kms_key, progress=progress)
        return f"{place}/{path.name}"  # SageMaker reads what it names
    with _materialised(channel.path) as files:
        content = {name: sha256_of(path) for name, path in files.items()}
        packed = packed and is_worth_packing(files)
        uri = settings.uri("data", digest_of({"packed": True, "files": content} if packed else content)[:32])
        with TemporaryDirectory() as folder:
            sent = write_shards(files, Path(folder)) if packed else files
            push(cloud, sent, uri, kms_key=settings.kms_key, progress=progress)
    return uri + "/"


@contextmanager
def _materialised(path: Path) -> Iterator[Mapping[str, Path]]:
    """Yield the files of a channel by name. A manifest that names images elsewhere gets them beside it."""
    if path.suffix == MANIFEST and path.is_file():
        yield manifest_files(path)
        return
    manifest = path / MANIFEST_NAME
    rows = _rows(manifest) if manifest.is_file() else []
    if not any(Path(row["path"]).is_absolute() for row in rows):
        yield files_of(path)
        return
    files, moved = {}, []
    for row in rows:
        image = manifest.parent / row["path"]
        name = f"images/{row.get('sha256') or sha256_of(image)}{image.suffix.lower()}"
        files[name] = image
        moved.append({**row, "path": name})
    with TemporaryDirectory() as folder:
        rewritten = Path(folder) / MANIFEST_NAME
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in moved), encoding="utf-8")
        yield {**files, MANIFEST_NAME: rewritten}


def _rows(manifest: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
