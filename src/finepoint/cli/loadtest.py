"""`finepoint loadtest`: how fast an endpoint answers, and how much it can bear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finepoint.cli.arguments import Json
from finepoint.cli.images import files_in

if TYPE_CHECKING:
    from finepoint.serving.open_loop import Measured


def command(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint, or its address.", metavar="ENDPOINT")],
    images: Annotated[list[Path], typer.Argument(help="Images to ask about, or folders of them.", metavar="IMAGE...")],
    rate: Annotated[float, typer.Option("--rate", help="Requests a second.", min=0.01, max=100_000)] = 10.0,
    seconds: Annotated[float, typer.Option("--seconds", help="How long.", min=0.1, max=3600)] = 10.0,
    json: Json = False,
) -> None:
    """Ask an endpoint at a fixed rate, and say how long answers take and how many are refused.

    Requests are due at random times of that rate whether or not earlier ones are answered, and are timed from when
    they were due: a server that stalls shows in the figures, as its users would feel it.

    Examples:

        finepoint loadtest first photo.jpg

        finepoint loadtest first photos/ --rate 50 --seconds 30 --json
    """
    import sys

    from rich.progress import Progress

    from finepoint.cli.output import messages, plain, print_json, show
    from finepoint.data.decoding import content_type
    from finepoint.errors import EndpointError
    from finepoint.serving.client import read_image
    from finepoint.serving.deployment import find_endpoint
    from finepoint.serving.open_loop import offer

    found = find_endpoint(endpoint)
    bodies = [(data, content_type(data)) for data in map(read_image, files_in(images)[:256])]
    if not found.healthy():
        raise EndpointError(f"endpoint {found.name} at {found.url} does not answer; see `finepoint endpoints`")
    with Progress(console=messages(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("asking", total=seconds)
        measured = offer(
            f"{found.url}/invocations",
            bodies,
            rate,
            seconds,
            token=found.token,
            trust=found.trust(),
            progress=lambda passed: bar.update(task, completed=min(passed, seconds)),
        )
    result = _result(measured, rate, seconds)
    if json:
        print_json(result)
        return
    answered = result["accepted"]
    show(
        f"{result['requests']:,} requests in {seconds:g} s, {rate:g} a second to [bold]{plain(found.name)}[/]",
        f"  answered  {answered:,} ({result['accepted_per_second']:.1f} a second)",
        f"  refused   {result['refused']:,} for too much load (503)",
        f"  failed    {sum(result['failures'].values()):,}"
        + "".join(f"; {plain(name)}: {count}" for name, count in result["failures"].items()),
    )
    if answered:
        shown = ", ".join(f"{name} {result[f'{name}_seconds'] * 1000:.1f} ms" for name in ("p50", "p90", "p99", "max"))
        show(f"  from due to answered: {shown}")


def _result(measured: Measured, rate: float, seconds: float) -> dict[str, Any]:
    from finepoint.serving.open_loop import quantile

    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {
        "rate": rate,
        "seconds": seconds,
        "requests": measured.requests,
        "accepted": len(measured.accepted),
        "accepted_per_second": len(measured.accepted) / seconds,
        "refused": len(measured.refused),
        "failures": dict(measured.failures),
        **{
            f"{name}_seconds": quantile(measured.accepted, share) if measured.accepted else None
            for name, share in quantiles.items()
        },
    }
