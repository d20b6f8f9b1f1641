"""Asking an endpoint in AWS about images, as one asks an endpoint on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from finepoint.engines.sagemaker.cloud import Cloud
from finepoint.engines.sagemaker.endpoints import predict
from finepoint.errors import AnswerError
from finepoint.serving.client import Endpoint, rows_of


@dataclass(frozen=True)
class CloudPredictor(Endpoint):
    """An endpoint in AWS; `predict` is that of every endpoint.

    Args:
        cloud: the account.
    """

    cloud: Cloud | None = field(default=None, repr=False)

    def _post(self, body: bytes, content_type: str, top: int | None) -> Any:
        assert self.cloud is not None
        answer, _ = predict(self.cloud, self.name, body, content_type)
        try:
            value = json.loads(answer)
        except ValueError as error:
            raise AnswerError(answer.decode(errors="replace")) from error
        rows = rows_of(value)
        for row in rows:  # the container's handler knows no `top`
            row["probabilities"] = dict(list(row["probabilities"].items())[:top])
        return {**value, "predictions": rows}
