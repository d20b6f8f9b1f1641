"""Observers: one module for each kind of thing that is recorded without being asked for."""

from __future__ import annotations

from finepoint.debugger.observers.batches import Batches
from finepoint.debugger.observers.confusion import Confusions
from finepoint.debugger.observers.first_layer import FirstLayer
from finepoint.debugger.observers.loaders import Loaders
from finepoint.debugger.observers.losses import Losses, PassLabels
from finepoint.debugger.observers.models import Evaluation, Models
from finepoint.debugger.observers.optimizers import Optimizers
from finepoint.debugger.observers.outputs import BatchNorms, Outputs
from finepoint.debugger.observers.parameters import Gradients, Parameters
from finepoint.debugger.observers.processes import Process
from finepoint.debugger.observers.stale_gradients import StaleGradients
from finepoint.debugger.recorder import Recorder


def observe(recorder: Recorder) -> Losses:
    """Have everything recorded that docs/recording.md lists; return the losses' observer, which may be given more."""
    Process(recorder)
    Models(recorder)
    Optimizers(recorder)
    labels = PassLabels(recorder)
    loaders = Loaders(recorder, labels)
    Batches(recorder, loaders)
    Parameters(recorder)
    BatchNorms(recorder)
    Evaluation(recorder)
    Outputs(recorder)
    FirstLayer(recorder)
    StaleGradients(recorder)
    Confusions(recorder)
    losses = Losses(recorder)
    Gradients(recorder)
    return losses
