"""Rules about what the model is given to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import TRAIN, first_rank, modules, plot, series
from finepoint.debugger.rules.result import RuleResult

_NORMALIZE = "transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])"
_CENTRE = "transforms.Normalize([0.5] * 3, [0.5] * 3)"
# What is wrong where the images fit the weights only after this has been done to them.
_EXPLAINED = {
    "scaled": ("are raw, 0 to 255", f"put transforms.ToTensor() and {_NORMALIZE} into the transform"),
    "normalised": ("have not had mean and standard deviation taken off", f"put {_NORMALIZE} after ToTensor()"),
    "scaled_normalised": ("are raw, 0 to 255", f"put transforms.ToTensor() and {_NORMALIZE} into the transform"),
    "centred": ("have not had 0.5 taken off and been divided by 0.5", f"put {_CENTRE} after ToTensor()"),
    "scaled_centred": ("are raw, 0 to 255", f"put transforms.ToTensor() and {_CENTRE} into the transform"),
    "undone": ("have been normalised twice", "take one of the two Normalize out"),
    **dict.fromkeys(
        ("reversed", "reversed_before"),
        ("have their channels in the order blue, green, red", "image = image[..., ::-1] (RGB), or read with Pillow"),
    ),
}
# Mean divergence per channel, in nats, between what the first batch norm sees and what it saw in pretraining: above
# this the input does not fit, if a correction brings it down to a third (docs/decisions/015 has the measurement).
_MISFIT, _EXPLAINS = 0.35, 1 / 3
# A reversed order of the channels changes little: photographs that fit were below 0.1, and reversing made the fit of
# none of them better.
_MISFIT_REVERSED, _EXPLAINS_REVERSED = 0.1, 0.6


@rule
@dataclass(frozen=True)
class InputNotNormalised(Rule):
    """Images are not normalised the way the weights expect.

    Evidence, best first:

    - The first batch norm of pretrained weights remembers what it saw. At the first steps the recorder compares that
      with what it sees now, and, where that does not fit, with what it would see if the images were divided by 255,
      had ImageNet's mean and standard deviation (or 0.5) taken off, had that undone, or had their channels reversed.
      Fires when the images do not fit and one of these corrections fits.
    - Without batch norm: frozen weights are pretrained, and images that they see in 0..1 have had no mean taken off.
    - Whatever the weights: images beyond ±30 are raw; a mean below -1 with a spread above 3 is normalising twice.

    What the first weighted layer receives is looked at, so that a model that normalises inside passes. Features that
    were computed beforehand are no images: then it does not apply. Networks trained from scratch on 0..1 are sound.

    Args:
        misfit: mean divergence (Kullback-Leibler, of Gaussians, nats per channel) above which images do not fit; of
            channels in the wrong order 0.1 will do.
    """

    misfit: float = _MISFIT

    def judge(self, recording: Recording) -> RuleResult:
        facts = recording.facts("first_layer_input", rank=first_rank(recording))
        # A perceptron's first layer is given images that have been made flat.
        given = [fact["shape"] for fact in recording.facts("sample_input", rank=first_rank(recording))]
        flat = any(_is_image(shape) for shape in given)
        images = [fact for fact in facts if _is_image(fact["shape"]) or (flat and len(fact["shape"]) == 2)]
        if not facts:
            return self.not_applicable("the input of the first layer was not seen")
        if not images:
            shape = "x".join(map(str, facts[0]["shape"]))
            return self.not_applicable(f"the first layer was given {shape}, no images: features computed beforehand")
        for fact in images:
            found = self._by_range(recording, fact) or self._by_fit(recording, fact)
            if found is not None:
                return found
        first = images[0]
        return self.clean(
            minimum=float(first["min"]),
            maximum=float(first["max"]),
            mean=float(first["mean"]),
            **({"misfit": first["fit"]["given"]} if first["fit"] else {}),
        )

    def _by_range(self, recording: Recording, fact: dict[str, Any]) -> RuleResult | None:
        low, high, mean, std = (float(fact[key]) for key in ("min", "max", "mean", "std"))
        if high > 30 and low >= 0:
            return self._found(recording, fact, "scaled")
        if low < -4.5 and mean < -1 and std > 3:
            return self._found(recording, fact, "undone")
        pretrained = any(module.frozen for module in modules(recording))
        if pretrained and not fact["fit"] and low >= 0 and 0.5 < high <= 1:
            return self._found(recording, fact, "normalised")
        return None

    def _by_fit(self, recording: Recording, fact: dict[str, Any]) -> RuleResult | None:
        fit = {name: float(value) for name, value in (fact["fit"] or {}).items()}
        given = fit.pop("given", 0.0)
        if not fit:
            return None
        name = min(fit, key=fit.__getitem__)
        turned = name.startswith("reversed")
        least, share = (_MISFIT_REVERSED, _EXPLAINS_REVERSED) if turned else (self.misfit, _EXPLAINS)
        return self._found(recording, fact, name) if given > least and fit[name] < share * given else None

    def _found(self, recording: Recording, fact: dict[str, Any], name: str) -> RuleResult:
        what, remedy = _EXPLAINED[name]
        return self.issue(
            int(fact["step"] or 0),
            fact["mode"] or "TRAIN",
            meaning=f"The images {what}.",
            remedy=remedy,
            minimum=float(fact["min"]),
            maximum=float(fact["max"]),
            mean=float(fact["mean"]),
            std=float(fact["std"]),
            fit=fact["fit"],
            series=plot(*(series(recording, "input", kind) for kind in ("min", "mean", "max"))),
        )


def _is_image(shape: list[int]) -> bool:
    return len(shape) == 4 and shape[1] in (1, 3)


@rule
@dataclass(frozen=True)
class CheckInputImages(Rule):
    """The mean of the images differs from zero by more than `threshold_mean`.

    Not judged unless asked for: photographs on a white ground have a mean of one when they are normalised rightly,
    and a network trained from scratch on 0..1 is sound; `InputNotNormalised` asks the better question. Where it is
    asked, images that reach as far below zero as a mean that was taken off leaves them pass.

    Args:
        threshold_mean: SageMaker's default.
        threshold_samples: images to have seen. SageMaker's default; where a job has fewer, all of them.
        regex: input tensors; by default the model's input.
        channel: position of the channels, which are looked at each for itself. SageMaker's default.
    """

    default: ClassVar[bool] = False
    threshold_mean: float = 0.2
    threshold_samples: int = 500
    regex: str = ""
    channel: int = 1

    def judge(self, recording: Recording) -> RuleResult:
        named = recording.names(self.regex) if self.regex else []
        shapes = [fact["shape"] for fact in recording.facts("sample_input")]
        if not self.regex and shapes and len(shapes[0]) != 4:
            return self.not_applicable(f"the input is {shapes[0]}, no images")
        sizes = series(recording, "batch_size")
        parts = named or recording.names(r"^input/channel\d+$", mode=TRAIN) or ["input"]
        means = [item for item in (series(recording, name, "mean") for name in parts) if len(item)]
        if not means:
            return self.not_applicable("no input was saved")
        enough = int(np.searchsorted(np.cumsum(sizes.values), self.threshold_samples)) if len(sizes) else 0
        enough = int(sizes.steps[min(enough, len(sizes) - 1)]) if len(sizes) else 0
        centred = self._centred(recording)
        for mean in means:
            kept = mean.values[: max(1, int(np.searchsorted(mean.steps, enough, "right")))]
            if abs(kept.mean()) > self.threshold_mean and not centred:
                return self.issue(
                    min(enough, int(mean.steps[-1])),
                    "TRAIN",
                    meaning=f"The mean of {mean.name} is {kept.mean():.3g}, not 0.",
                    remedy=f"put {_NORMALIZE} (or your images' own mean and standard deviation) after ToTensor()",
                    mean=float(kept.mean()),
                    threshold_mean=self.threshold_mean,
                    series=plot(mean),
                )
        return self.clean(means={mean.name: float(mean.values.mean()) for mean in means})

    def _centred(self, recording: Recording) -> bool:
        lowest, highest = series(recording, "input", "min"), series(recording, "input", "max")
        if not len(lowest) or not len(highest):
            return False
        low, high = float(lowest.values.min()), float(highest.values.max())
        return low < 0 and -low > 0.3 * high and abs(low) < 4.5
