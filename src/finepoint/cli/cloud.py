"""Flags of the commands that can work in AWS; each command asks here for its engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from finepoint.engines.sagemaker.cloud import Cloud
    from finepoint.engines.sagemaker.settings import SageMakerSettings
    from finepoint.engines.sagemaker.training import SageMakerEngine

_PANEL = "In AWS"
LOCAL, SAGEMAKER = "local", "sagemaker"

Engine = Annotated[
    Literal["local", "sagemaker"],
    typer.Option("--engine", help="Where jobs run: local, or sagemaker.", rich_help_panel=_PANEL),
]
CloudSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--cloud",
        help="Setting of the SageMaker engine, over finepoint.toml.",
        metavar="KEY=VALUE",
        rich_help_panel=_PANEL,
    ),
]
MaxPrice = Annotated[
    float | None,
    typer.Option("--max-price", help="Refuse what may cost more US dollars.", metavar="USD", rich_help_panel=_PANEL),
]


def settings_of(cloud: list[str] | None, max_price: float | None = None) -> SageMakerSettings:
    """Return the SageMaker engine's settings, of `finepoint.toml` and flags."""
    from finepoint.engines.sagemaker.settings import load_settings

    return load_settings(cloud or (), max_price=max_price)


def sagemaker_engine(cloud: list[str] | None, max_price: float | None, run: str = "") -> SageMakerEngine:
    """Return the SageMaker engine that the flags describe."""
    from finepoint.engines.sagemaker.training import SageMakerEngine

    return SageMakerEngine(settings_of(cloud, max_price), run=run)


def engine_settings(engine: str, cloud: list[str] | None, max_price: float | None) -> dict[str, Any]:
    """Return what the functions that make runs are given of the engine.

    Raises:
        ConfigurationError: settings are wrong, or flags of the cloud come with the local engine.
    """
    from finepoint.errors import ConfigurationError

    if engine == LOCAL:
        if cloud or max_price is not None:
            raise ConfigurationError("--cloud and --max-price are for --engine sagemaker")
        return {}
    checked = sagemaker_engine(cloud, max_price)
    return {"engine": lambda run: type(checked)(checked.settings, checked.cloud, run=run).run_job}


def account(cloud: list[str] | None) -> tuple[SageMakerSettings, Cloud]:
    """Return settings and account."""
    from finepoint.engines.sagemaker.cloud import Cloud

    settings = settings_of(cloud)
    return settings, Cloud(settings.region)
