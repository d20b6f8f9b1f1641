"""`finepoint data`: get images, and look at them before anything is trained on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from finepoint.cli.arguments import DataPath, Json

group = typer.Typer(help="Look at images before anything is trained on them.", no_args_is_help=True)
_SHOWN = 20


@group.callback()
def root() -> None:
    """Look at images before anything is trained on them."""


@group.command("check")
def check(
    path: DataPath,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    test_fraction: Annotated[float, typer.Option(help="Share set aside for the test.")] = 0.1,
    valid_fraction: Annotated[float, typer.Option(help="Share set aside for validation.")] = 0.1,
    json: Json = False,
) -> None:
    """Read every image, and list classes, splits, unusable files, copies, and what is unbalanced.

    Examples:

        finepoint data check photos/

        finepoint data check labels.csv --json > data.json
    """
    from finepoint.cli.output import plain, print_json, show
    from finepoint.cli.progress import LiveListener
    from finepoint.cli.verdicts import finding_lines
    from finepoint.runs.options import RunOptions
    from finepoint.runs.workflow import check as check_data

    RunOptions(path=str(path), seed=seed, test_fraction=test_fraction, valid_fraction=valid_fraction)
    with LiveListener() as listener:
        data = check_data(
            path,
            seed=seed,
            test_fraction=test_fraction,
            valid_fraction=valid_fraction,
            progress=lambda done, total: listener.progress("check", done, total),
        )
    if json:
        print_json(data.to_json())
        return
    from rich.table import Table

    table = Table("class", *(f"{split}" for split in data.counts()), pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, counts in data.class_counts().items():
        table.add_row(plain(name), *(f"{count:,}" for count in counts.values()))
    table.add_section()
    table.add_row("[bold]all[/]", *(f"[bold]{count:,}[/]" for count in data.counts().values()))
    show(table)
    if data.findings:
        show(*finding_lines([finding.to_json() for finding in data.findings], examples=True))
    else:
        show("[green]Nothing to mend.[/]")
    unused = [(image.path, image.reason) for image in data.skipped]
    unused += [(leak.dropped, f"the same bytes as {leak.kept}") for leak in data.leaks]
    for path_, reason in unused[:_SHOWN]:
        show(f"  [dim]not used:[/] {plain(path_)}: {plain(reason)}")
    if len(unused) > _SHOWN:
        show(f"  ... and {len(unused) - _SHOWN} more (--json lists all)")


@group.command("fetch")
def fetch(
    source: Annotated[str, typer.Argument(help="Address (https, s3), archive, or folder.", metavar="URL|S3-URI|FILE")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to make.", show_default="the archive's name")] = None,
    sha256: Annotated[str, typer.Option("--sha256", help="What the archive must have, where it is known.")] = "",
    json: Json = False,
) -> None:
    """Fetch an archive of images (zip, tar.gz, tar.zst, ...), extract it safely, and say what is in it.

    An interrupted download goes on where it broke off. An S3 address without an archive's ending is a folder, of which
    only what changed is fetched. `finepoint run` takes the same addresses.

    Examples:

        finepoint data fetch https://example.org/dogImages.zip

        finepoint data fetch s3://my-bucket/photos --to photos/

        finepoint data fetch flowers.tar.gz --to flowers/ --sha256 9a1c...
    """
    from dataclasses import asdict

    from finepoint.cli.output import plain, print_json, say, show
    from finepoint.cli.progress import LiveListener
    from finepoint.data.fetching import default_target
    from finepoint.data.fetching import fetch as fetch_data

    with LiveListener() as listener:
        fetched = fetch_data(source, to or default_target(source), sha256=sha256, progress=listener.progress)
    if json:
        print_json(asdict(fetched))
        return
    parts = "in train/ and other parts" if fetched.has_splits else "not split yet"
    show(f"{fetched.images:,} images of {fetched.classes:,} classes, {parts}", plain(fetched.root))
    if fetched.sha256:
        show(f"SHA-256 {fetched.sha256}")
    say(f"Go on with: finepoint run {fetched.root}")


@group.command("add")
def add(
    source: Annotated[
        Path,
        typer.Argument(help="What an endpoint captured, or class folders that you looked through.", metavar="SOURCE"),
    ],
    target: Annotated[Path, typer.Argument(help="Folder to look through, or the data set.", metavar="FOLDER")],
    unsure_below: Annotated[
        float, typer.Option("--unsure-below", help="Only captured images answered with less, or unknown.", min=0, max=1)
    ] = 1.0,
    new_classes: Annotated[bool, typer.Option("--new-classes", help="Allow classes that the data set lacks.")] = False,
    json: Json = False,
) -> None:
    """Bring captured images back into a data set, in two steps, with your eyes between them.

    First what an endpoint captured (`deploy --capture 10% --capture-images`) is put into a folder for each answer; move
    what lies in the wrong one, delete what is of no class. Then those folders are added to the data set's train part.

    Examples:

        finepoint data add ~/.local/state/finepoint/captures/first review/ --unsure-below 0.8

        finepoint data add review/ photos/
    """
    from finepoint.cli.output import plain, print_json, say, show
    from finepoint.data.adding import add_reviewed, is_capture, sort_captured
    from finepoint.errors import DataError, storage_errors
    from finepoint.files import exists

    if not exists(source):
        raise DataError(f"{source}: there is no such file or folder")
    captured = is_capture(source)
    with storage_errors():
        if captured:
            added = sort_captured(source, target, unsure_below=unsure_below)
        else:
            added = add_reviewed(source, target, new_classes=new_classes)
    if json:
        print_json(
            {
                "folder": str(added.folder),
                "images": dict(added.images),
                "known": added.known,
                "left_out": dict(added.left_out),
            }
        )
        return
    show(f"{added.images.total():,} images added to {plain(added.folder)}, {added.known:,} were there already")
    for name, count in sorted(added.images.items()):
        show(f"  {count:,} {plain(name)}")
    for reason, count in added.left_out.items():
        show(f"  [dim]left out: {count:,} {plain(reason)}[/]")
    if captured:
        say(f"Look through {target}, move what lies in the wrong folder, then: finepoint data add {target} DATASET")


@group.command("push")
def push(
    path: Annotated[Path, typer.Argument(help="Folder, or a file.", metavar="PATH")],
    uri: Annotated[str, typer.Argument(help="Where to, s3://BUCKET/PREFIX.", metavar="S3-URI")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    kms_key: Annotated[str, typer.Option("--kms-key", help="Encrypt with this KMS key.")] = "",
    region: Annotated[str, typer.Option("--region", help="Of the bucket.", show_default="boto3's")] = "",
    json: Json = False,
) -> None:
    """Upload a folder to S3: in parallel, only what changed, going on after an interruption.

    A bucket that everybody can read is refused.

    Examples:

        finepoint data push photos/ s3://my-bucket/photos

        finepoint data push photos/ s3://my-bucket/photos --dry-run
    """
    from finepoint.engines.sagemaker.cloud import Cloud
    from finepoint.engines.sagemaker.transfer import files_of
    from finepoint.engines.sagemaker.transfer import push as send

    with _transfer_progress("push") as progress:
        moved = send(Cloud(region), files_of(path), uri, kms_key=kms_key, dry_run=dry_run, progress=progress)
    _show_transfer("Would send" if dry_run else "Sent", moved, json)


@group.command("pull")
def pull(
    uri: Annotated[str, typer.Argument(help="From where, s3://BUCKET/PREFIX.", metavar="S3-URI")],
    path: Annotated[Path, typer.Argument(help="Folder to put it into.", metavar="PATH")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fetched.")] = False,
    region: Annotated[str, typer.Option("--region", help="Of the bucket.", show_default="boto3's")] = "",
    json: Json = False,
) -> None:
    """Download what lies under an S3 address: in parallel, only what changed, checked by SHA-256 where it was pushed.

    Examples:

        finepoint data pull s3://my-bucket/photos photos/
    """
    from finepoint.engines.sagemaker.cloud import Cloud
    from finepoint.engines.sagemaker.transfer import pull as fetch

    with _transfer_progress("pull") as progress:
        moved = fetch(Cloud(region), uri, path, dry_run=dry_run, progress=progress)
    _show_transfer("Would fetch" if dry_run else "Fetched", moved, json)


@contextmanager
def _transfer_progress(what: str) -> Iterator[Any]:
    """Yield a function that shows bytes, rate and time left on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from finepoint.cli.output import messages

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = messages()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show_transfer(verb: str, moved: Any, json: bool) -> None:
    from dataclasses import asdict

    from finepoint.cli.output import print_json, show

    if json:
        print_json(asdict(moved))
    else:
        show(f"{verb} {moved.moved:,} of {moved.files:,} files, {moved.moved_bytes:,} of {moved.bytes:,} bytes")
