"""Flags that several commands have, each defined once, named as in Python and in JSON."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", help="Folder that holds runs.", envvar="FINEPOINT_RUNS", show_default="runs"),
]
RunName = Annotated[
    str | None, typer.Option("--run", help="Name of the run; one that exists is resumed.", show_default="made up")
]
DataPath = Annotated[
    str,
    typer.Argument(
        help="Folder of images (train/ valid/ test/, or class folders), a manifest, an archive, or its address.",
        metavar="PATH",
    ),
]
ModelArgument = Annotated[str, typer.Argument(help="A run (name or folder), or a model.tar.gz.", metavar="RUN|MODEL")]
JobArgument = Annotated[str, typer.Argument(help="A job (name or folder), or RUN/training.", metavar="JOB")]

Debug = Annotated[
    bool,
    typer.Option("--debug/--no-debug", help="Record the final training and judge it by the debugger's rules."),
]

Thumbnails = Annotated[
    int,
    typer.Option(
        "--thumbnails",
        help="Put small pictures of so many training images into the package, for its page to show like ones.",
        min=0,
        max=2000,
    ),
]
Profile = Annotated[
    bool,
    typer.Option("--profile/--no-profile", help="Record where the run's time goes."),
]

_Flag = tuple[str, Any, Any, str]
DATA: tuple[_Flag, ...] = (
    ("seed", int, 0, "Seed of everything random."),
    ("test_fraction", float, 0.1, "Share of each class set aside for the test, where there is no test/."),
    ("valid_fraction", float, 0.1, "Share of each class set aside for validation, where there is no valid/."),
)
FEATURES: tuple[_Flag, ...] = (
    (
        "backbone",
        str,
        "efficientnet_lite0",
        "Backbone, or several joined by commas: their features stand side by side.",
    ),
    ("weights", list[str], None, "Weights of each backbone: a .safetensors or .pth file, or `random`."),
    ("runtime", str, "auto", "What computes features: auto, openvino, onnxruntime, cuda, mps."),
    ("precision", str, "auto", "Of that arithmetic: auto, f32, bf16."),
)
HYPERPARAMETERS: tuple[_Flag, ...] = (
    ("lr", float, None, "Learning rate."),
    ("batch_size", int, None, "Images a step."),
    ("epochs", int, None, "At most so many passes over the training images."),
    ("optimizer", str, None, "adam, adamw or sgd."),
    ("weight_decay", float, None, "As the optimizer understands it."),
    ("head", str, None, "linear or mlp."),
    ("hidden", int, None, "Width of the MLP's hidden layer."),
    ("dropout", float, None, "Share of features dropped while training."),
    ("label_smoothing", float, None, "0 to 1."),
    ("class_weights", str, None, "none or balanced."),
    ("averaging", float, None, "Decay of the running average of the weights; 0 keeps the last."),
    ("patience", int, None, "Stop after so many epochs without a lower validation loss; 0 never."),
)
TUNING: tuple[_Flag, ...] = (
    ("max_jobs", int, 20, "Trials in all."),
    ("max_parallel_jobs", int, 1, "Trials at once."),
    ("strategy", str, "bayesian", "bayesian, random, grid or hyperband."),
    ("early_stopping", str, "off", "auto (stop trials worse than the median) or off."),
    ("objective", str, "valid_loss", "Metric that decides, such as valid_loss or valid_accuracy."),
    ("space", Path, None, "TOML or JSON file with the ranges to search."),
    ("range", list[str], None, "Range to search: lr=0.001:0.1:log, batch_size=64,128, epochs=2:4."),
    ("warm_start", list[str], None, "Earlier run to learn from."),
)
_PANELS = {
    id(DATA): "Data",
    id(FEATURES): "Features",
    id(HYPERPARAMETERS): "Fixed hyperparameters",
    id(TUNING): "Tuning",
}


def with_flags(*groups: tuple[_Flag, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a command the flags of some groups, as `settings` for `RunOptions`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.name != "settings"
        ]
        flags = [_parameter(flag, _PANELS[id(group)]) for group in groups for flag in group]
        names = {flag.name for flag in flags}

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            settings = _settings({name: given.pop(name) for name in names})
            return function(**given, settings=settings)

        parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in (*own, *flags)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return decorate


def _parameter(flag: _Flag, panel: str) -> inspect.Parameter:
    name, kind, default, text = flag
    option = typer.Option(f"--{name.replace('_', '-')}", help=text, rich_help_panel=panel)
    annotation: Any = Annotated[kind if default is not None else kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return flags as fields of `RunOptions`."""
    from finepoint.errors import ConfigurationError
    from finepoint.tuning.parameters import load_space, parse_range

    names = [name for name, *_ in HYPERPARAMETERS]
    settings = {name: value for name, value in given.items() if name not in (*names, "space", "range")}
    settings["hyperparameters"] = {name: given[name] for name in names if given.get(name) is not None}
    if "weights" in given:
        settings["weights"] = ",".join(_absolute(weight) for weight in given["weights"] or ())
    if "warm_start" in given:
        settings["warm_start"] = tuple(given["warm_start"] or ())
    if "space" in given:
        space: dict[str, Any] = load_space(given["space"]) if given["space"] else {}
        mistakes: list[str] = []
        for text in given["range"] or ():
            try:
                name, parameter = parse_range(text)
                space[name] = parameter
            except ConfigurationError as error:
                mistakes += error.mistakes
        if mistakes:
            raise ConfigurationError(mistakes)
        settings["space"] = space
    return settings


def _absolute(weights: str) -> str:
    """Return weights with the paths among them made absolute: jobs run in other folders."""
    parts = (part.strip() for part in weights.split(","))
    return ",".join(part if part == "random" else str(Path(part).resolve()) for part in parts)
