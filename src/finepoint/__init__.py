"""finepoint: from a folder of labelled images to a deployed classifier, on one machine.

>>> import finepoint
>>> run = finepoint.run("photos/")                    # doctest: +SKIP
>>> run.summary["test"]["accuracy"]                   # doctest: +SKIP
>>> classifier = finepoint.load(run.model)            # doctest: +SKIP
>>> classifier("cat.jpg").label                       # doctest: +SKIP
>>> endpoint = finepoint.deploy(run)                  # doctest: +SKIP
>>> endpoint.predict("cat.jpg").probability           # doctest: +SKIP
>>> endpoint.delete()                                 # doctest: +SKIP

Everything here is imported when it is first used, so that `import finepoint` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finepoint.debugger.compatibility.finder import provide_smdebug
from finepoint.stores import Store, add_store

__version__ = "0.1.0"

# Public name to the module that has it, and its name there.
_PUBLIC = {
    "CategoricalParameter": ("finepoint.tuning.parameters", "CategoricalParameter"),
    "Classifier": ("finepoint.models.classifier", "Classifier"),
    "ContinuousParameter": ("finepoint.tuning.parameters", "ContinuousParameter"),
    "DataSet": ("finepoint.data.dataset", "DataSet"),
    "Endpoint": ("finepoint.serving.client", "Endpoint"),
    "Finding": ("finepoint.findings", "Finding"),
    "FinepointError": ("finepoint.errors", "FinepointError"),
    "IntegerParameter": ("finepoint.tuning.parameters", "IntegerParameter"),
    "Prediction": ("finepoint.models.classifier", "Prediction"),
    "Run": ("finepoint.runs.workflow", "Run"),
    "check": ("finepoint.runs.workflow", "check"),
    "deploy": ("finepoint.runs.deploying", "deploy"),
    "endpoints": ("finepoint.serving.deployment", "endpoints"),
    "evaluate": ("finepoint.runs.workflow", "evaluate"),
    "find_endpoint": ("finepoint.serving.deployment", "find_endpoint"),
    "load": ("finepoint.runs.workflow", "load_model"),
    "run": ("finepoint.runs.workflow", "run"),
    "train": ("finepoint.runs.workflow", "train"),
    "tune": ("finepoint.runs.workflow", "tune"),
    "undeploy": ("finepoint.serving.deployment", "undeploy"),
}

if TYPE_CHECKING:
    from finepoint.data.dataset import DataSet as DataSet
    from finepoint.errors import FinepointError as FinepointError
    from finepoint.findings import Finding as Finding
    from finepoint.models.classifier import Classifier as Classifier
    from finepoint.models.classifier import Prediction as Prediction
    from finepoint.runs.deploying import deploy as deploy
    from finepoint.runs.workflow import Run as Run
    from finepoint.runs.workflow import check as check
    from finepoint.runs.workflow import evaluate as evaluate
    from finepoint.runs.workflow import load_model as load  # noqa: F401 - public under another name
    from finepoint.runs.workflow import run as run
    from finepoint.runs.workflow import train as train
    from finepoint.runs.workflow import tune as tune
    from finepoint.serving.client import Endpoint as Endpoint
    from finepoint.serving.deployment import endpoints as endpoints
    from finepoint.serving.deployment import find_endpoint as find_endpoint
    from finepoint.serving.deployment import undeploy as undeploy
    from finepoint.tuning.parameters import CategoricalParameter as CategoricalParameter
    from finepoint.tuning.parameters import ContinuousParameter as ContinuousParameter
    from finepoint.tuning.parameters import IntegerParameter as IntegerParameter

__all__ = sorted(_PUBLIC)


def _s3() -> Store:
    from finepoint.engines.sagemaker.store import S3Store

    return S3Store()


provide_smdebug()
add_store("s3", _s3)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'finepoint' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
