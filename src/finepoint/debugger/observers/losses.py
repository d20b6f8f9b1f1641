"""Losses: their values, what went into them, and what became of the logits on the way there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finepoint.debugger.modes import ModeKeys
from finepoint.debugger.recorder import Recorder, Step
from finepoint.debugger.reductions import measurable, reduce
from finepoint.debugger.selection import DEFAULT_REDUCTIONS
from finepoint.instrumentation import LOSS

# The module that a functional loss belongs to, and what it expects to be given.
KINDS: Mapping[str, tuple[str, str]] = {
    "binary_cross_entropy": ("BCELoss", "probabilities"),
    "binary_cross_entropy_with_logits": ("BCEWithLogitsLoss", "logits"),
    "cosine_embedding_loss": ("CosineEmbeddingLoss", "values"),
    "cross_entropy": ("CrossEntropyLoss", "logits"),
    "ctc_loss": ("CTCLoss", "log_probabilities"),
    "gaussian_nll_loss": ("GaussianNLLLoss", "values"),
    "hinge_embedding_loss": ("HingeEmbeddingLoss", "values"),
    "huber_loss": ("HuberLoss", "values"),
    "kl_div": ("KLDivLoss", "log_probabilities"),
    "l1_loss": ("L1Loss", "values"),
    "margin_ranking_loss": ("MarginRankingLoss", "values"),
    "mse_loss": ("MSELoss", "values"),
    "multi_margin_loss": ("MultiMarginLoss", "logits"),
    "multilabel_margin_loss": ("MultiLabelMarginLoss", "logits"),
    "multilabel_soft_margin_loss": ("MultiLabelSoftMarginLoss", "logits"),
    "nll_loss": ("NLLLoss", "log_probabilities"),
    "poisson_nll_loss": ("PoissonNLLLoss", "values"),
    "smooth_l1_loss": ("SmoothL1Loss", "values"),
    "soft_margin_loss": ("SoftMarginLoss", "logits"),
    "triplet_margin_loss": ("TripletMarginLoss", "values"),
}
# Nodes of autograd's graph that only move numbers about.
_MOVES = re.compile(
    r"^(?:View|UnsafeView|Reshape|ReshapeAlias|Squeeze|Unsqueeze|T|Transpose|Permute|Expand|Alias|Clone|ToCopy|Slice|"
    r"Select|Contiguous|Copy|Identity|Split|Chunk|AsStrided|Index|Gather)$"
)
_LINEAR = re.compile(r"^(?:Addmm|Mm|Bmm|Baddbmm|Matmul|Linear|MkldnnLinear|Convolution|MkldnnConvolution|Addmv|Mv)$")
# Further back than this no head has its last layer.
_DEPTH = 30


class Losses:
    """Records each loss, at every step, and describes it once."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._described: set[str] = set()
        self._inside: str | None = None
        recorder.watch(LOSS, self._loss_computed)

    def register(self, loss: nn.Module) -> None:
        """Record a module's output as a loss under its class's name, whatever it computes it with."""
        self._recorder.watch_module(loss, self._registered_called, self._registered_returned)

    def _registered_called(self, loss: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inside = type(loss).__name__

    def _registered_returned(self, loss: nn.Module, output: Any) -> None:
        step = self._recorder.step
        self._inside = None
        if step is not None:
            self._record_value(step, _numbered(step, type(loss).__name__), output)

    def _loss_computed(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        recorder, step = self._recorder, self._recorder.step
        if step is None:
            return
        kind, expects = KINDS[function]
        given = args[0] if args else kwargs.get("input", kwargs.get("input1", kwargs.get("anchor")))
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if self._inside is None:
            name = _numbered(step, kind)
            self._record_value(step, name, output)
        else:
            name = f"{self._inside}_output_{step.calls.get(f'{self._inside}_output_', 0)}"
        if isinstance(given, Tensor):
            self._describe(step, name, function, expects, given, target, kwargs, output)
            if step.light and given.dim() > 0 and name.endswith("_0"):
                recorder.put("batch_size", float(given.shape[0]))
            if step.heavy and name.endswith("_0"):
                self._look_at(step, given, target)

    def _record_value(self, step: Step, name: str, output: Any) -> None:
        recorder = self._recorder
        value = measurable(output)
        if value is None:
            return
        recorder.member("losses", name)
        if recorder.selection.configured("losses"):
            recorder.save(name, output, "loss")
        elif step.light:
            mean = value.mean() if value.dim() else value
            if mean.device.type == "cpu":
                number = mean.item()
                recorder.put(name, number, "mean")
                if number - number != 0:  # NaN or infinite
                    recorder.save_next()
            else:
                recorder.put(name, mean.clone(), "mean")

    def _look_at(self, step: Step, given: Tensor, target: Any) -> None:
        """Record the range of the logits and, of a classification, the labels and how many are hit."""
        recorder = self._recorder
        logits = measurable(given)
        if logits is None:
            return
        for reduction, value in reduce(logits, DEFAULT_REDUCTIONS["output"]):
            recorder.put("logits", value, reduction)
        if _classifies(given, target):
            classes = given.shape[1]
            valid = (target >= 0) & (target < classes)
            recorder.put("logits_correct", ((logits.argmax(1) == target) & valid).float().mean())
            counts = torch.bincount(target.detach().clamp(0, classes - 1)[valid].cpu(), minlength=classes)
            found = {str(label): int(counts[label]) for label in counts.nonzero().flatten().tolist()}
            recorder.writer.fact("labels", step.number, step.mode, histogram=found, classes=classes)

    def _describe(
        self,
        step: Step,
        name: str,
        function: str,
        expects: str,
        given: Tensor,
        target: Any,
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        if not step.heavy and len(self._described) > 1:
            return
        operations, linear = path_of(given, self._recorder)
        fact = {
            "name": name,
            "function": function,
            "reduction": kwargs.get("reduction", "mean") if output.dim() == 0 else "none",
            "weighted": kwargs.get("weight") is not None,
            "input_shape": list(given.shape),
            "target_shape": list(target.shape) if isinstance(target, Tensor) else None,
            "target_dtype": str(target.dtype).removeprefix("torch.") if isinstance(target, Tensor) else None,
            "expects": expects,
            "operations": operations,
            "linear": linear,
        }
        # The batch's size is no difference: the last batch of a pass is often smaller.
        alike = repr((step.mode, {**fact, "input_shape": list(given.shape[1:]), "target_shape": None}))
        if alike not in self._described:
            self._described.add(alike)
            self._recorder.writer.fact("loss", step.number, step.mode, **fact)


def _numbered(step: Step, kind: str) -> str:
    """Return the name of a loss's output: the last number counts the calls within the step."""
    number = step.calls.get(f"{kind}_output_", 0)
    step.calls[f"{kind}_output_"] = number + 1
    return f"{kind}_output_{number}"


def path_of(tensor: Tensor, recorder: Recorder) -> tuple[list[str], dict[str, Any] | None]:
    """Return what was done to the last linear layer's output to make a tensor, and that layer.

    It is read off autograd's graph, so that functions and methods are seen as modules are. Without a graph (evaluation)
    nothing is known: `([], None)`.
    """
    node: Any = tensor.grad_fn
    operations: list[str] = []
    for _ in range(_DEPTH):
        if node is None:
            return list(reversed(operations)), None
        name = re.sub(r"Backward\d*$", "", type(node).__name__)
        if _LINEAR.match(name):
            return list(reversed(operations)), _linear(name, node, recorder)
        if not _MOVES.match(name):
            operations.append(name.lower())
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return list(reversed(operations)), None


def _linear(operation: str, node: Any, recorder: Recorder) -> dict[str, Any]:
    """Return which layer a node of the graph is, by a parameter that leads into it."""
    for before, _ in node.next_functions:
        while before is not None and not hasattr(before, "variable"):
            before = before.next_functions[0][0] if len(before.next_functions) == 1 else None
        if before is not None and (name := recorder.names.parameter(before.variable)) is not None:
            return {
                "operation": operation.lower(),
                "parameter": name,
                "out_features": int(before.variable.shape[0]),
            }
    return {"operation": operation.lower(), "parameter": None, "out_features": None}


def _classifies(given: Tensor, target: Any) -> bool:
    return (
        isinstance(target, Tensor)
        and given.dim() == 2
        and target.dim() == 1
        and len(given) == len(target)
        and target.dtype in (torch.int64, torch.int32, torch.uint8)
    )


class PassLabels:
    """Counts the labels of a whole pass over a loader; the loaders' observer asks for them."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._counts: Tensor | None = None
        recorder.watch(LOSS, self._loss_computed)

    def _loss_computed(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        step = self._recorder.step
        target = args[1] if len(args) > 1 else kwargs.get("target")
        if step is None or not step.light or step.mode is ModeKeys.PREDICT or not args:
            return
        if step.calls.get("PassLabels") or not _classifies(args[0], target):
            return
        step.calls["PassLabels"] = 1
        assert isinstance(target, Tensor)
        classes = args[0].shape[1]
        if self._counts is None or len(self._counts) != classes:
            self._counts = torch.zeros(classes, dtype=torch.int64, device=target.device)
        labels = target.detach().long()
        valid = (labels >= 0) & (labels < classes)
        self._counts.scatter_add_(0, labels.clamp(0, classes - 1), valid.long())

    def take(self) -> dict[str, int]:
        """Return the counts since the last call."""
        counts, self._counts = self._counts, None
        if counts is None:
            return {}
        return {str(label): count for label, count in enumerate(counts.tolist()) if count}
