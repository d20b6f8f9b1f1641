"""Talking to an endpoint."""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import httpx

from finepoint.errors import DataError, EndpointError, RequestError
from finepoint.models.classifier import Prediction

Image = bytes | str | Path
_SIGNS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"BM", "image/bmp"))
_BATCH = 16
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that answers at an address.

    Args:
        name: its name, or its address where it has none here.
        url: `http://127.0.0.1:PORT`.
        model_version: of what it serves, or "".
        token: shown to the endpoint; by default what `$FINEPOINT_TOKEN` holds.
        retries: how often a request that is refused for too much load (503) is sent again, after the time that the
            endpoint says, give or take half of it, so that many clients do not come back together.
    """

    name: str
    url: str
    model_version: str = ""
    token: str = field(default_factory=lambda: os.environ.get("FINEPOINT_TOKEN", ""), repr=False)
    retries: int = 3

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is also a sequence of strs
        self, images: Image, *, top: int | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, images: Sequence[Image], *, top: int | None = None) -> list[Prediction]: ...

    def predict(self, images: Image | Sequence[Image], *, top: int | None = None) -> Prediction | list[Prediction]:
        """Return the endpoint's prediction for one image, or a list of them for several.

        Args:
            images: a path or an image file's bytes, or several of them.
            top: ask only for the so many most probable classes.

        Raises:
            DataError: a file cannot be read.
            RequestError: the endpoint refused the request.
            EndpointError: it does not answer.
        """
        if isinstance(images, (bytes, str, Path)):
            data = _read(images)
            value = self._post(data, _type_of(data), top)
            return _prediction(value, images)
        found: list[Prediction] = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            body = json.dumps({"images": [base64.b64encode(_read(image)).decode() for image in part]})
            rows = self._post(body.encode(), "application/json", top)["predictions"]
            found += [_prediction(row, image) for row, image in zip(rows, part, strict=True)]
        return found

    def healthy(self, timeout: float = 2.0) -> bool:
        """Return whether the endpoint says that it can answer, within a timeout in seconds."""
        try:
            return httpx.get(f"{self.url}/ping", timeout=timeout, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def delete(self) -> None:
        """Stop the endpoint and forget it.

        Raises:
            NotFoundError: this machine has no endpoint of this name.
        """
        from finepoint.serving.deployment import undeploy

        undeploy(self.name)

    def _post(self, body: bytes, content_type: str, top: int | None) -> dict[str, Any]:
        headers = {"Content-Type": content_type, **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        params = {} if top is None else {"top": top}
        for attempt in range(self.retries + 1):
            try:
                answer = httpx.post(
                    f"{self.url}/invocations", content=body, headers=headers, params=params, timeout=60, trust_env=False
                )
            except httpx.HTTPError as error:
                raise EndpointError(
                    f"endpoint {self.name} at {self.url} does not answer ({error}); "
                    "`finepoint endpoints` shows its state"
                ) from error
            if answer.status_code != 503 or attempt == self.retries:
                break
            time.sleep(_pause(answer))
        if answer.status_code != 200:
            raise RequestError(_reason(answer), answer.status_code)
        return dict(answer.json())


def _pause(answer: httpx.Response) -> float:
    """Return the seconds to wait before a request is sent again."""
    said = answer.headers.get("retry-after", "")
    return min(_LONGEST_PAUSE_SECONDS, float(said) if said.isdecimal() else 1.0) * random.uniform(0.5, 1.5)  # noqa: S311


def _reason(answer: httpx.Response) -> str:
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.text[:200]
    return f"the endpoint refused the request ({answer.status_code}): {message}"


def _prediction(row: dict[str, Any], image: Image) -> Prediction:
    path = None if isinstance(image, bytes) else str(image)
    return Prediction(row["label"], row["probability"], row["probabilities"], path)


def _read(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"{image} cannot be read: {error.strerror}") from error


def _type_of(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for sign, kind in _SIGNS if data.startswith(sign)), "application/octet-stream")
