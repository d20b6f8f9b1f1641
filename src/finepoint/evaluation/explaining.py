"""Why a class: a heat map of the region that speaks for it, from the exported graph's outputs and the head. No torch.

A backbone's last features are the averages of its feature map over the picture. The evidence for class k is its logit
less the mean of all logits (what the softmax cannot see is left out); its gradient g with respect to the features goes
through the small head and is worked out by hand. Then ``heat[y, x] = sum over channels c of g[c] * map[c, y, x]``,
whose average over the picture is exactly what the last features add to the evidence.

With a linear head that is class activation mapping (B. Zhou et al., "Learning deep features for discriminative
localization", CVPR 2016); with a hidden layer it is gradient times activation at this image. The averages of earlier
stages, where a backbone has them beside its last features, have lost their places: the map says nothing of them, and
`Explanation.share` says how much of the evidence it does explain.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finepoint.errors import InputError
from finepoint.models.building import read_head
from finepoint.models.classifier import Classifier
from finepoint.models.graphs import HeadLayers

# How far averages of the map may lie from the features, as a share of the largest, in bf16 too.
_TOLERANCE = 0.02
# Black, purple, orange, pale yellow: brightness grows evenly, so that colour-blind people and grey prints see the same.
_COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What speaks for a class in one image.

    Args:
        label: the class.
        heat: float32 [h, w], in logits; its average is what the last features add to the evidence.
        evidence: the class's logit less the mean of all.
        last: what the first backbone's last features add to it, by gradient times feature.
        rest: what its other features, and other backbones', add.
    """

    label: str
    heat: np.ndarray
    evidence: float
    last: float
    rest: float

    @property
    def share(self) -> float:
        """How much of what features add, 0..1, lies in the map; the rest has no place in the picture."""
        return abs(self.last) / ((abs(self.last) + abs(self.rest)) or 1.0)


def explain(
    head: HeadLayers, classes: tuple[str, ...], features: np.ndarray, feature_map: np.ndarray, label: str | None = None
) -> Explanation:
    """Return what speaks for a class.

    Args:
        head: of the classifier.
        classes: the class names, in the order of the logits.
        features: float32 [d], the first backbone's last ones first.
        feature_map: float32 [c, h, w] of the first backbone.
        label: the class; by default the most probable one.

    Raises:
        InputError: there is no such class, or the features are not averages of the map, so that a place in
            it has no meaning for them.
    """
    if label is not None and label not in classes:
        raise InputError(f"there is no class {label[:100]!r}; /metadata lists them")
    channels = feature_map.shape[0]
    averages = feature_map.mean(axis=(1, 2))
    if channels > len(features) or np.abs(averages - features[:channels]).max() > _TOLERANCE * np.abs(averages).max():
        raise InputError("this backbone's features are not averages of its feature map; there is no heat map for it")
    logits, gradients = head.logits_and_gradients(features)
    place = int(logits.argmax()) if label is None else classes.index(label)
    gradient = gradients[place] - gradients.mean(axis=0)
    parts = gradient * features
    return Explanation(
        classes[place],
        np.tensordot(gradient[:channels], feature_map, 1).astype(np.float32),
        float(logits[place] - logits.mean()),
        float(parts[:channels].sum()),
        float(parts[channels:].sum()),
    )


def explain_image(classifier: Classifier, image: bytes, label: str | None = None) -> tuple[Explanation, bytes]:
    """Return what speaks for a class in an image file, by default for its most probable one, and a PNG of it.

    Raises:
        DecodeError: the file is not an image.
        InputError: there is no such class, or this model has no heat maps.
    """
    crops = classifier.preprocess(image)
    outputs = classifier.outputs([crop[None] for crop in crops])
    if outputs.feature_map is None:
        raise InputError("this model's graph has no feature map; it cannot be explained by a heat map")
    head = read_head(classifier.folder)
    found = explain(head, classifier.classes, outputs.features[0], outputs.feature_map[0], label)
    return found, picture(found, crops[0])


def picture(explanation: Explanation, crop: np.ndarray) -> bytes:
    """Return a PNG of the crop that the backbone saw, grey, with what speaks for the class in colour.

    Args:
        explanation: of the image.
        crop: uint8 [h, w, 3], the first backbone's.
    """
    height, width = crop.shape[:2]
    positive = np.maximum(explanation.heat, 0)
    scaled = Image.fromarray(positive / (positive.max() or 1.0)).resize((width, height), Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(scaled), 0, 1)[..., None]
    grey = crop.astype(np.float32) @ np.array([[0.299], [0.587], [0.114]], np.float32)
    position = heat[..., 0] * (len(_COLOURS) - 1)
    channels = [np.interp(position, range(len(_COLOURS)), _COLOURS[:, channel]) for channel in range(3)]
    opacity = 0.75 * heat
    stream = io.BytesIO()
    pixels = (1 - opacity) * (0.4 * grey + 100) + opacity * np.stack(channels, axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
