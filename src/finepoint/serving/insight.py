"""What an answer says beside its probabilities: whether the image is of any class at all, and why it is of this one."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from finepoint.errors import InputError, RequestError
from finepoint.evaluation.drift import load_drift
from finepoint.evaluation.explaining import Explanation, explain, picture
from finepoint.models.building import read_head
from finepoint.models.classifier import Classifier
from finepoint.models.graphs import HeadLayers
from finepoint.models.similar import SimilarImages, load_similar
from finepoint.models.unknown import UnknownDetector
from finepoint.serving.drift import Watch
from finepoint.serving.formats import PNG
from finepoint.serving.messages import Response


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation and its picture, a PNG file."""

    explanation: Explanation
    png: bytes

    def to_json(self) -> dict[str, Any]:
        """Return the `explanation` object of an answer."""
        return {
            "label": self.explanation.label,
            "share": round(self.explanation.share, 4),
            "image": "data:image/png;base64," + base64.b64encode(self.png).decode(),
        }

    def response(self) -> Response:
        """Return the picture as an answer of its own; the class's name is percent-encoded in its header."""
        headers = {
            "x-finepoint-explained-class": quote(self.explanation.label),
            "x-finepoint-explained-share": f"{self.explanation.share:.4f}",
        }
        return Response(self.png, 200, PNG, headers)


@dataclass(frozen=True)
class Insight:
    """What is known of a package beside its classifier.

    Args:
        classes: the class names.
        unknown: tells images of none of the classes, or None where the package does not say how.
        head: maps features to logits, or None where nothing can be explained.
        feature_map: the name of the graph's output that heat maps are made of, or "".
        similar: small pictures of training images, or None.
        watch: notes what is asked about, or None where the package does not say what it was trained on.
    """

    classes: tuple[str, ...] = ()
    unknown: UnknownDetector | None = None
    head: HeadLayers | None = None
    feature_map: str = ""
    similar: SimilarImages | None = None
    watch: Watch | None = None

    def outputs(self, *, embedding: bool, explained: bool) -> tuple[str, ...]:
        """Return the names of the graph's outputs that an answer needs.

        Raises:
            RequestError: the package cannot explain.
        """
        if explained and not (self.feature_map and self.head):
            raise RequestError("this model's graph has no feature map; it cannot be explained by a heat map", 400)
        features = embedding or explained or self.unknown is not None
        return (*(("features",) if features else ()), *((self.feature_map,) if explained else ()), "logits")

    def likest(self, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Return the training images most like one, each with its class, as far as the package has their pictures."""
        if self.similar is None or self.unknown is None:
            return []
        return self.similar.nearest(self.unknown.coordinates(outputs["features"][None])[0], self.classes)

    def judge(self, found: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
        """Return what to add to each answer: whether the image is unknown, by which score and threshold."""
        if self.unknown is None or not found:
            return [{} for _ in found]
        features, logits = (np.stack([outputs[name] for outputs in found]) for name in ("features", "logits"))
        judged = self.unknown.judge(features, logits)
        if self.watch is not None:
            self.watch.observe(features, logits.argmax(axis=1).tolist(), [one["unknown"] for one in judged])
        return judged

    def explain(self, found: Sequence[Mapping[str, np.ndarray]], label: str | None) -> list[Explained]:
        """Return why each image is of a class, by default of its most probable one.

        Args:
            found: the outputs for each image, with its `crop`.
            label: the class.

        Raises:
            RequestError: there is no such class, or this backbone has no heat map.
        """
        assert self.head is not None
        explained = []
        for outputs in found:
            try:
                why = explain(self.head, self.classes, outputs["features"], outputs[self.feature_map], label)
            except InputError as error:
                raise RequestError(str(error), 400) from error
            explained.append(Explained(why, picture(why, outputs["crop"])))
        return explained


def read_insight(classifier: Classifier) -> Insight:
    """Return what a classifier's package knows beside it."""
    outputs = classifier.description["graph"].get("outputs", ())
    feature_map = next((name for name in ("feature_map", "feature_map_0") if name in outputs), "")
    head = read_head(classifier.folder) if feature_map else None
    drift = load_drift(classifier.folder, classifier.description)
    watch = Watch(classifier.unknown, drift) if classifier.unknown is not None and drift is not None else None
    similar = load_similar(classifier.folder, classifier.description)
    return Insight(classifier.classes, classifier.unknown, head, feature_map, similar, watch)
