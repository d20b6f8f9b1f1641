"""`finepoint monitor`: whether what an endpoint is asked about is still like what its model was trained on."""

from __future__ import annotations

from typing import Annotated

import typer

from finepoint.cli.arguments import Json


def command(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint, or its address.", metavar="ENDPOINT")],
    json: Json = False,
) -> None:
    """Say in words whether the last 1,000 images that an endpoint was asked about have changed since training.

    The exit code is 0 either way; --json has the numbers for a script, and /metrics for Prometheus.

    Examples:

        finepoint monitor first

        finepoint monitor first --json
    """
    from finepoint.cli.output import percent, plain, print_json, show
    from finepoint.errors import EndpointError
    from finepoint.evaluation.drift import drift_words
    from finepoint.serving.deployment import find_endpoint

    found = find_endpoint(endpoint)
    about = found.get("metadata")
    drift = about.get("drift")
    if drift is None:
        raise EndpointError(
            f"the model behind {found.name} does not say what it was trained on; train and deploy it again"
        )
    words = drift_words(drift)
    chance = {name: drift.get(f"{name}_by_chance", 0.0) for name in ("feature_psi", "prediction_psi")}
    traffic = about["traffic"]
    if json:
        print_json({"endpoint": found.name, "words": words, "drift": drift, "traffic": traffic})
        return
    show(*(plain(line) for line in words))
    if drift["images"]:
        show(
            f"  images measured   {drift['images']:,}",
            f"  features          PSI {drift['feature_psi']:.3f} ({chance['feature_psi']:.3f} by chance), "
            f"mean moved by {drift['feature_shift']:.2f} standard deviations",
            f"  predictions       PSI {drift['prediction_psi']:.3f} ({chance['prediction_psi']:.3f} by chance)",
            f"  unknown           {percent(drift['unknown_share'])}",
        )
    show(
        f"  requests          {traffic['requests']:,.0f}, {traffic['rejected']:,.0f} refused for load, "
        f"p50 {1000 * traffic['p50_seconds']:.1f} ms, p99 {1000 * traffic['p99_seconds']:.1f} ms"
    )
