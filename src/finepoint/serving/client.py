"""Talking to an endpoint.

>>> endpoint = Endpoint("http://127.0.0.1:8080")                                   # doctest: +SKIP
>>> endpoint.predict("cat.jpg").label                                              # doctest: +SKIP
>>> (await endpoint.predict_async("cat.jpg")).label                                # doctest: +SKIP
>>> endpoint.predict_many(paths, progress=lambda done, total: print(done, total))  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload
from urllib.parse import unquote

import httpx

from finepoint.data.decoding import content_type
from finepoint.errors import AnswerError, DataError, EndpointError, RequestError
from finepoint.models.classifier import Prediction
from finepoint.serving.trust import trusted

Image = bytes | str | Path
_KEYS = frozenset({"label", "probability", "probabilities"})
_BATCH = 16
_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that answers at an address.

    Args:
        name: its name, or its address where it has none here.
        url: `http://127.0.0.1:PORT`; without one `name` is the address.
        model_version: of what it serves, or "".
        token: shown to the endpoint; by default what `$FINEPOINT_TOKEN` holds.
        retries: how often a request that is refused for too much load (503) is sent again, after the time that the
            endpoint says, give or take half of it, so that many clients do not come back together.
        ca: PEM file with a certificate to trust beside the system's, such as the endpoint's own; by default what
            `$FINEPOINT_CA` names. An endpoint's certificate is always verified.
        pinned: trust the first certificate in the file `ca` and no other, whatever host it names: the endpoint's own.
    """

    name: str
    url: str = ""
    model_version: str = ""
    token: str = field(default_factory=lambda: os.environ.get("FINEPOINT_TOKEN", ""), repr=False)
    retries: int = 3
    ca: str = field(default_factory=lambda: os.environ.get("FINEPOINT_CA", ""))
    pinned: bool = False

    def __post_init__(self) -> None:
        if not self.url:
            object.__setattr__(self, "url", self.name.rstrip("/").removesuffix("/invocations"))

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
            RequestError: the endpoint refused the request, or (AnswerError) has another kind of answer.
            EndpointError: it does not answer.
        """
        if isinstance(images, (bytes, str, Path)):
            data = read_image(images)
            return _predictions(self._post(data, content_type(data), top), [images])[0]
        found: list[Prediction] = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            body = json.dumps({"images": [base64.b64encode(read_image(image)).decode() for image in part]})
            found += _predictions(self._post(body.encode(), "application/json", top), part)
        return found

    def predict_many(
        self,
        images: Sequence[Image],
        *,
        top: int | None = None,
        parallel: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Prediction | DataError | RequestError]:
        """Return for each image its prediction, or the error that says why there is none.

        Args:
            images: paths, or image files' bytes.
            top: ask only for the so many most probable classes.
            parallel: requests under way at once; an endpoint lets 16 images in.
            progress: called with (images done, images to do).

        Raises:
            EndpointError: the endpoint does not answer.
        """

        def one(image: Image) -> Prediction | DataError | RequestError:
            try:
                return self.predict(image, top=top)
            except (DataError, RequestError) as error:
                return error

        found: dict[int, Prediction | DataError | RequestError] = {}
        with ThreadPoolExecutor(parallel, thread_name_prefix="predict") as pool:
            works = {pool.submit(one, image): index for index, image in enumerate(images)}
            try:
                for work in as_completed(works):
                    found[works[work]] = work.result()
                    if progress is not None:
                        progress(len(found), len(images))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [found[index] for index in range(len(images))]

    async def predict_async(
        self, image: Image, *, top: int | None = None, client: httpx.AsyncClient | None = None
    ) -> Prediction:
        """Return the endpoint's prediction for one image.

        Args:
            image: a path or an image file's bytes.
            top: ask only for the so many most probable classes.
            client: whose connections are used; without one each request has its own.

        Raises:
            DataError: the file cannot be read.
            RequestError: the endpoint refused the request.
            EndpointError: it does not answer.
        """
        if client is None:
            async with httpx.AsyncClient(trust_env=False, verify=self.trust()) as own:
                return await self.predict_async(image, top=top, client=own)
        data = await asyncio.to_thread(read_image, image)
        request = self._request(data, content_type(data), top)
        for attempt in itertools.count():
            try:
                answer = await client.post(**request)
            except httpx.HTTPError as error:
                raise self._silent(error) from error
            if not self._tries_again(answer, attempt):
                break
            await asyncio.sleep(_pause(answer))
        return _predictions(_content(answer), [image])[0]

    def explain(self, image: Image, label: str | None = None) -> tuple[str, float, bytes]:
        """Return a class, the share of the evidence for it that has a place in the image, and a heat map, a PNG file.

        Args:
            image: a path or an image file's bytes.
            label: the class; by default the most probable one.

        Raises:
            DataError: the file cannot be read.
            RequestError: the endpoint refused the request, or has no heat maps.
            EndpointError: it does not answer.
        """
        data = read_image(image)
        request = self._request(data, content_type(data), None)
        request["params"] = {"explain": "true", **({} if label is None else {"class": label})}
        answer = self._ask("POST", **request)
        if answer.status_code != 200 or answer.headers.get("content-type") != "image/png":
            raise RequestError(_reason(answer), answer.status_code)
        named, share = (answer.headers[f"x-finepoint-explained-{part}"] for part in ("class", "share"))
        return unquote(named), float(share), answer.content

    def get(self, path: str) -> Any:
        """Return the JSON that the endpoint answers at a path, such as `metadata`.

        Raises:
            RequestError: the endpoint refused the request.
            EndpointError: it does not answer.
        """
        return _content(self._ask("GET", url=f"{self.url}/{path}", headers=self._headers(), timeout=_SECONDS))

    def healthy(self, timeout: float = 2.0) -> bool:
        """Return whether the endpoint says that it can answer, within a timeout in seconds."""
        try:
            answer = httpx.get(f"{self.url}/ping", timeout=timeout, trust_env=False, verify=self.trust())
            return answer.status_code == 200
        except httpx.HTTPError:
            return False

    def trust(self) -> ssl.SSLContext:
        """Return the certificates that the endpoint's is verified by.

        Raises:
            ConfigurationError: `ca` cannot be read.
        """
        return trusted(self.ca, pinned=self.pinned)

    def delete(self) -> None:
        """Stop the endpoint and forget it.

        Raises:
            NotFoundError: this machine has no endpoint of this name.
        """
        from finepoint.serving.deployment import undeploy

        undeploy(self.name)

    def _post(self, body: bytes, content_type: str, top: int | None) -> Any:
        request = self._request(body, content_type, top)
        for attempt in itertools.count():
            answer = self._ask("POST", **request)
            if not self._tries_again(answer, attempt):
                break
            time.sleep(_pause(answer))
        return _content(answer)

    def _ask(self, method: str, **request: Any) -> httpx.Response:
        try:
            return httpx.request(method, trust_env=False, verify=self.trust(), **request)
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _tries_again(self, answer: httpx.Response, attempt: int) -> bool:
        """Whether a request is sent once more after its answer; attempts are counted from 0."""
        return answer.status_code == 503 and attempt < self.retries

    def _request(self, body: bytes, kind: str, top: int | None) -> dict[str, Any]:
        return {
            "url": f"{self.url}/invocations",
            "content": body,
            "headers": {"Content-Type": kind, **self._headers()},
            "params": {} if top is None else {"top": top},
            "timeout": _SECONDS,
        }

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _silent(self, error: httpx.HTTPError) -> EndpointError:
        return EndpointError(
            f"endpoint {self.name} at {self.url} does not answer ({error}); `finepoint endpoints` shows its state"
        )


def _pause(answer: httpx.Response) -> float:
    """Return the seconds to wait before a request is sent again."""
    said = answer.headers.get("retry-after", "")
    return min(_LONGEST_PAUSE_SECONDS, float(said) if said.isdecimal() else 1.0) * random.uniform(0.5, 1.5)  # noqa: S311


def _content(answer: httpx.Response) -> Any:
    if answer.status_code != 200:
        raise RequestError(_reason(answer), answer.status_code)
    try:
        return answer.json()
    except ValueError as error:
        raise AnswerError(answer.text) from error


def _reason(answer: httpx.Response) -> str:
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.text[:200]
    return f"the endpoint refused the request ({answer.status_code}): {message}"


def _predictions(value: Any, images: Sequence[Image]) -> list[Prediction]:
    rows = rows_of(value)
    if len(rows) != len(images):
        raise AnswerError(value)
    return [_prediction(row, image) for row, image in zip(rows, images, strict=True)]


def _prediction(row: Mapping[str, Any], image: Image) -> Prediction:
    told = {name: row.get(name) for name in ("unknown", "unknown_score", "unknown_threshold")}
    path = None if isinstance(image, bytes) else str(image)
    return Prediction(row["label"], row["probability"], row["probabilities"], path, **told)


def rows_of(value: Any) -> list[dict[str, Any]]:
    """Return what an answer says of each image: `predictions`, or the answer itself where it is about one.

    Raises:
        AnswerError: it is not a prediction as finepoint writes it.
    """
    rows = value.get("predictions", [value]) if isinstance(value, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= _KEYS for row in rows):
        raise AnswerError(value)
    return rows


def read_image(image: Image) -> bytes:
    """Return an image file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"{image} cannot be read: {error.strerror}") from error
