"""`finepoint cache`: what is kept so that it need not be made again."""

from __future__ import annotations

from typing import Annotated

import typer

from finepoint.cli.arguments import Json


def command(
    clear: Annotated[
        list[str] | None,
        typer.Option("--clear", help="Remove these: compiled, features, graphs, machine, packages, weights, or all."),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", help="Remove the features unused longest, down to this.", min=0)
    ] = None,
    json: Json = False,
) -> None:
    """Show what the cache holds, or make it smaller. Everything in it can be made again.

    Features that were used longest ago leave by themselves when all take more than 16 GiB
    (`FINEPOINT_CACHE_MAX_BYTES`).

    Examples:

        finepoint cache

        finepoint cache --clear features --clear packages

        finepoint cache --max-bytes 1000000000
    """
    from finepoint import caching
    from finepoint.cli.output import plain, print_json, show
    from finepoint.errors import ConfigurationError
    from finepoint.files import cache_dir

    wanted = set(caching.KINDS if "all" in (clear or ()) else clear or ())
    unknown = wanted - set(caching.KINDS)
    if unknown:
        raise ConfigurationError(f"--clear {', '.join(sorted(unknown))}: the cache has {', '.join(caching.KINDS)}")
    gone = caching.clear([kind for kind in caching.KINDS if kind in wanted])
    if max_bytes is not None:
        gone += caching.evict(max_bytes)
    entries = caching.cache_entries()
    sizes = {kind: sum(entry.bytes for entry in entries if entry.kind == kind) for kind in caching.KINDS}
    counts = {kind: sum(entry.kind == kind for entry in entries) for kind in caching.KINDS}
    freed = sum(entry.bytes for entry in gone)
    if json:
        print_json(
            {"path": str(cache_dir()), "bytes": sizes, "entries": counts, "max_bytes": caching.max_bytes()}
            | {"removed_entries": len(gone), "removed_bytes": freed}
        )
        return
    from rich.table import Table

    table = Table("kind", "entries", "MB", pad_edge=False)
    for kind in caching.KINDS:
        table.add_row(kind, str(counts[kind]), f"{sizes[kind] / 1e6:,.1f}")
    show(plain(cache_dir()), table)
    if gone:
        show(f"Removed {len(gone)} entries, {freed / 1e6:,.1f} MB.")
