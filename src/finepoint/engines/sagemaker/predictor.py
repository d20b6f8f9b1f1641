"""Asking an endpoint in AWS about images, as one asks an endpoint on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from finepoint.engines.sagemaker.asynchronous import ask
from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.endpoints import predict
from finepoint.engines.sagemaker.settings import SageMakerSettings
from finepoint.errors import AnswerError, DataError, RequestError
from finepoint.models.classifier import Prediction
from finepoint.serving.client import Endpoint, Image, rows_of

# Requests whose answers are waited for at once: an asynchronous endpoint has a queue, and each look is one short call.
_WAITING = 32


@dataclass(frozen=True)
class CloudPredictor(Endpoint):
    """An endpoint in AWS; `predict` is that of every endpoint.

    Args:
        cloud: the account.
        by_way_of: settings that say where in S3 requests are put, for an asynchronous endpoint; None for others.
    """

    cloud: Cloud | None = field(default=None, repr=False)
    by_way_of: SageMakerSettings | None = field(default=None, repr=False)

    def predict_many(
        self,
        images: Sequence[Image],
        *,
        top: int | None = None,
        parallel: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Prediction | DataError | RequestError]:
        """Return for each image its prediction, or the error that says why there is none; as of every endpoint."""
        waiting = max(parallel, _WAITING) if self.by_way_of else parallel
        return super().predict_many(images, top=top, parallel=waiting, progress=progress)

    def _post(self, body: bytes, content_type: str, top: int | None) -> Any:
        assert self.cloud is not None
        if self.by_way_of is not None:
            answer, _ = ask(self.cloud, self.by_way_of, self.name, body, content_type)
        else:
            answer, _ = predict(self.cloud, self.name, body, content_type)
        try:
            value = json.loads(answer)
        except ValueError as error:
            raise AnswerError(answer.decode(errors="replace")) from error
        rows = rows_of(value)
        for row in rows:  # the container's handler knows no `top`
            row["probabilities"] = dict(list(row["probabilities"].items())[:top])
        return {**value, "predictions": rows}
