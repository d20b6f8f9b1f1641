"""SageMaker's Python SDK, version 2, by its own names, on this machine: change the import lines, keep the cells.

>>> from finepoint.notebook import PyTorch                                      # doctest: +SKIP
>>> estimator = PyTorch(entry_point="train.py", source_dir="code", role="any")  # doctest: +SKIP
>>> estimator.fit({"train": "photos/train"})                                    # doctest: +SKIP

Cells that write `sagemaker.serializers.IdentitySerializer` find it after `import finepoint.notebook as sagemaker`: the
SDK's modules `debugger, deserializers, inputs, predictor, pytorch, serializers, session, tuner` are names here too.

docs/notebook.md says what each argument does here, and what is refused.
"""

from __future__ import annotations

from finepoint.debugger.trial import create_trial as create_trial
from finepoint.notebook import debugging, estimator, formats, model
from finepoint.notebook import session as session
from finepoint.notebook import tuner as tuner
from finepoint.notebook.debugging import CollectionConfig as CollectionConfig
from finepoint.notebook.debugging import DebuggerHookConfig as DebuggerHookConfig
from finepoint.notebook.debugging import FrameworkProfile as FrameworkProfile
from finepoint.notebook.debugging import ProfilerConfig as ProfilerConfig
from finepoint.notebook.debugging import ProfilerRule as ProfilerRule
from finepoint.notebook.debugging import Rule as Rule
from finepoint.notebook.debugging import rule_configs as rule_configs
from finepoint.notebook.estimator import PyTorch as PyTorch
from finepoint.notebook.formats import BytesDeserializer as BytesDeserializer
from finepoint.notebook.formats import CSVDeserializer as CSVDeserializer
from finepoint.notebook.formats import CSVSerializer as CSVSerializer
from finepoint.notebook.formats import DataSerializer as DataSerializer
from finepoint.notebook.formats import IdentitySerializer as IdentitySerializer
from finepoint.notebook.formats import JSONDeserializer as JSONDeserializer
from finepoint.notebook.formats import JSONLinesDeserializer as JSONLinesDeserializer
from finepoint.notebook.formats import JSONLinesSerializer as JSONLinesSerializer
from finepoint.notebook.formats import JSONSerializer as JSONSerializer
from finepoint.notebook.formats import NumpyDeserializer as NumpyDeserializer
from finepoint.notebook.formats import NumpySerializer as NumpySerializer
from finepoint.notebook.formats import StringDeserializer as StringDeserializer
from finepoint.notebook.model import Predictor as Predictor
from finepoint.notebook.model import PyTorchModel as PyTorchModel
from finepoint.notebook.model import PyTorchPredictor as PyTorchPredictor
from finepoint.notebook.session import Session as Session
from finepoint.notebook.session import TrainingInput as TrainingInput
from finepoint.notebook.session import get_execution_role as get_execution_role
from finepoint.notebook.tuner import HyperparameterTuner as HyperparameterTuner
from finepoint.tuning.parameters import CategoricalParameter as CategoricalParameter
from finepoint.tuning.parameters import ContinuousParameter as ContinuousParameter
from finepoint.tuning.parameters import IntegerParameter as IntegerParameter

debugger, inputs, predictor, pytorch = debugging, session, model, estimator
serializers = deserializers = formats
