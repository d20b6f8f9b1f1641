"""Rules about the last layers."""

from __future__ import annotations

from dataclasses import dataclass

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import first_rank, modules, plot, series
from finepoint.debugger.rules.result import RuleResult

# As autograd names what is done to the last linear layer's output; a log-softmax before cross-entropy changes nothing.
_ACTIVATIONS = {
    "relu": "ReLU",
    "clampmin": "ReLU",
    "threshold": "ReLU",
    "leakyrelu": "LeakyReLU",
    "hardtanh": "ReLU6 or Hardtanh",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "softplus": "softplus",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
}


@rule
@dataclass(frozen=True)
class ActivationOnLogits(Rule):
    """ReLU, sigmoid or softmax stands between the last linear layer and a loss that expects logits.

    Seen at the first loss, from what autograd recorded of the way from the layer to the loss.
    """

    def judge(self, recording: Recording) -> RuleResult:
        losses = [fact for fact in recording.facts("loss", rank=first_rank(recording)) if fact["expects"] == "logits"]
        if not losses:
            return self.not_applicable("no loss that expects logits was seen")
        for fact in losses:
            found = [_ACTIVATIONS[name] for name in fact["operations"] or () if name in _ACTIVATIONS]
            if found:
                lowest = series(recording, "logits", "min")
                return self.issue(
                    int(fact["step"] or 0),
                    fact["mode"] or "TRAIN",
                    meaning=f"A {found[0]} stands between the last linear layer and {fact['function']}, which expects "
                    "logits: it cannot say what it wants to say.",
                    remedy=f"take the {found[0]} after the last linear layer out; {fact['function']} does the softmax",
                    operations=list(fact["operations"]),
                    loss=fact["function"],
                    series=plot(lowest, series(recording, "logits", "max")),
                )
        if not any(fact.get("linear") for fact in losses):
            return self.not_applicable("no linear layer was found on the way to the loss")
        return self.clean(operations=list(losses[0]["operations"] or ()))


@rule
@dataclass(frozen=True)
class HeadBottleneck(Rule):
    """A hidden layer of the head is too narrow for the classes behind it and the features before it.

    The logits of C classes have rank C - 1 at most, and no more than the narrowest layer before them (Yang et al.,
    "Breaking the Softmax Bottleneck", 2018). Fires when the layer before the last has fewer than `share` times both its
    own inputs and the classes. A backbone's own width, such as 512 features for 1,000 classes, is none of this: it is
    not narrower than what comes before it.

    Args:
        share: of the smaller of inputs and classes.
    """

    share: float = 0.5

    def judge(self, recording: Recording) -> RuleResult:
        linear = [module for module in modules(recording) if "in_features" in module.settings]
        logits = [fact["linear"] for fact in recording.facts("loss") if fact.get("linear")]
        if len(linear) < 2 or not logits:
            return self.not_applicable("the head is a single linear layer, or was not seen")
        out = int(logits[0]["out_features"])
        ends = [index for index, module in enumerate(linear) if int(module.settings["out_features"]) == out]
        if not ends or ends[-1] == 0:
            return self.not_applicable("the head is a single linear layer, or was not seen")
        last, before = linear[ends[-1]], linear[ends[-1] - 1]
        width = int(last.settings["in_features"])
        if width != int(before.settings["out_features"]):
            return self.not_applicable("what stands before the last linear layer is no linear layer")
        inputs = int(before.settings["in_features"])
        if width >= self.share * min(inputs, out):
            return self.clean(width=width, inputs=inputs, outputs=out)
        return self.issue(
            0,
            "TRAIN",
            meaning=f"{inputs} features go through {width} numbers to {out} classes.",
            remedy=f"make {before.name} at least {max(out, 2 * width)} wide, or use one linear layer",
            layer=before.name,
            width=width,
            inputs=inputs,
            outputs=out,
        )
