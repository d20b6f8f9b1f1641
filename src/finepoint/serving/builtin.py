"""The fast path: a package with the built-in handler, served without torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from finepoint.data.preprocessing import Preprocessing
from finepoint.errors import RequestError
from finepoint.models.answers import MAX_IMAGES, answer, is_single, read_images
from finepoint.models.classifier import prediction
from finepoint.serving import formats
from finepoint.serving.admission import Admission, Service
from finepoint.serving.arrays import read_array
from finepoint.serving.batching import Batcher, Compute, ExpiredError
from finepoint.serving.bulk import NamedImage, read_batch
from finepoint.serving.decoders import DecoderPool
from finepoint.serving.insight import Explained, Insight
from finepoint.serving.messages import JSON, Request, Response, json_response
from finepoint.serving.metrics import SECONDS, SIZES, Counter, Gauge, Histogram, Metric


class Model(Protocol):
    """What the fast path asks of a classifier; `Classifier` has it."""

    classes: tuple[str, ...]
    version: str
    random_weights: bool
    description: dict[str, Any]
    preprocessings: tuple[Preprocessing, ...]

    def compute(self, crops: Sequence[np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the graph's outputs by name for crops [n, h, w, 3]."""
        ...

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities [n, classes]."""
        ...


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request wants of each image's answer."""

    form: str
    top: int | None
    embedding: bool
    explain: bool = False
    label: str | None = None
    similar: bool = False


class BuiltinModel:
    """A classifier behind a queue, with its decoders.

    Args:
        model: the classifier, loaded.
        decoders: whose descriptions are the classifier's.
        service: bounds.
        insight: what is known of its package beside it.
    """

    def __init__(self, model: Model, decoders: DecoderPool, service: Service, insight: Insight | None = None) -> None:
        self._model = model
        self._insight = insight or Insight()
        self._decoders = decoders
        self._service = service
        self._admission = Admission(service.queue_images)
        self._seconds = Histogram("finepoint_phase_seconds", "Seconds that a phase took.", SECONDS, "phase")
        self._sizes = Histogram("finepoint_batch_images", "Images computed at once.", SIZES)
        self._images = Counter("finepoint_images", "Images answered, by their most probable class.")
        self._batcher = Batcher(model.compute, max_batch=service.max_batch, observe=self._observe)
        self._ready = False
        self._widening: asyncio.Task[None] | None = None
        self.version = model.version
        self.metrics: list[Metric] = [
            self._seconds,
            self._sizes,
            self._images,
            Gauge("finepoint_images_in_work", "Images let in and not answered yet.", lambda: self._admission.images),
            Gauge("finepoint_images_waiting", "Decoded images waiting for the device.", lambda: self._batcher.waiting),
            Gauge("finepoint_decoder_deaths", "Decoding processes that died since the start.", lambda: decoders.deaths),
            *([self._insight.watch.gauge()] if self._insight.watch else ()),
        ]

    async def open(self) -> None:
        """Connect to the event loop and answer a warm-up request."""
        await self._decoders.open()
        blank = [np.zeros((part.height, part.width, 3), np.uint8) for part in self._model.preprocessings]
        await asyncio.gather(self._batcher.submit(blank, ("logits",)), self._decoders.warm_up())
        self._ready = True

    def widen_with(self, load: Callable[[], tuple[Compute, int]], max_batch: int) -> None:
        """Have the same model loaded for several batches at once while clients are answered, and use it under load.

        Args:
            load: returns what computes a batch, and how many at once.
            max_batch: images in each of them.
        """

        async def widen() -> None:
            compute, lanes = await asyncio.to_thread(load)
            self._batcher.widen(compute, lanes, max_batch)

        self._widening = asyncio.get_running_loop().create_task(widen())

    async def close(self) -> None:
        """End the decoders and the device's threads."""
        self._ready = False
        if self._widening is not None:
            await asyncio.wait([self._widening])
        self._decoders.close()
        self._batcher.close()

    @property
    def ready(self) -> bool:
        """Whether the warm-up request was answered."""
        return self._ready

    def retry_after(self) -> str | None:
        """Return when to come back where a request must be refused now, else None."""
        return self._admission.retry_after(self._batcher.seconds_per_image) if self._admission.full else None

    def bear_more(self, seconds: float) -> None:
        """Refuse fewer requests for so long; see `Admission`."""
        self._admission.bear_more(seconds)

    def metadata(self) -> dict[str, Any]:
        """Return what a client may want to know of the model."""
        description = self._model.description
        return {
            "handler": "builtin",
            "classes": list(self._model.classes),
            "preprocessing": [part.to_json() for part in self._model.preprocessings],
            "backbones": [backbone["name"] for backbone in description.get("backbones", ())],
            "metrics": description.get("metrics", {}),
            "versions": description.get("versions", {}),
            "schema_version": description.get("schema_version"),
            "quantisation": description.get("quantisation"),
            "unknown": description.get("unknown"),
            "drift": self._insight.watch.drift() if self._insight.watch else None,
        }

    async def invoke(self, request: Request) -> Response:
        """Answer `/invocations`.

        Raises:
            RequestError: with the status that it is refused with.
        """
        wish = _wish(request)
        kind = request.content_type.split(";")[0].strip().lower()
        if kind == formats.NPY:
            arrays, single = read_array(request.body, MAX_IMAGES)
            works = [self._classify_pixels(array, wish, request) for array in arrays]
        else:
            images = read_images(request.body, request.content_type)
            single = is_single(request.body, request.content_type)
            works = [self._classify(image, wish, request) for image in images]
        with self._holding(works):
            found = await self._all(works, named=not single)
            if not wish.explain:
                return self._response(found, wish, single=single)
            if wish.form == formats.PNG and not single:
                raise RequestError("several heat maps are no picture; ask for Accept: application/json", 406)
            explained = await asyncio.to_thread(self._insight.explain, found, wish.label)
        if wish.form == formats.PNG:
            return explained[0].response()
        return self._response(found, wish, single=single, explained=explained)

    async def invoke_batch(self, request: Request) -> Response:
        """Answer `/invocations/batch`: each image is answered or refused for itself.

        Raises:
            RequestError: the request as a whole is refused.
        """
        wish = _wish(request, default=formats.LINES)
        if wish.explain:
            raise RequestError("explain belongs to /invocations, not to a batch", 400)
        if wish.form not in (formats.LINES, JSON):
            raise RequestError(f"a batch is answered as {formats.LINES} or {JSON}: each image may be refused", 406)
        images = read_batch(request.body, request.content_type)
        if not images:
            raise RequestError("the body holds no image", 400)

        async def one(image: NamedImage) -> dict[str, Any]:
            try:
                if image.mistake or not image.data:
                    raise RequestError(image.mistake or "the image is empty", 400)
                (row,) = self._rows([await self._classify(image.data, wish, request)], wish)
            except RequestError as error:
                return {"name": image.name, "error": {"code": error.status, "message": str(error)}}
            return {"name": image.name, **row}

        works = [one(image) for image in images]
        with self._holding(works):
            rows = await self._all(works)
        if wish.form == formats.LINES:
            return Response(formats.json_lines(rows), 200, formats.LINES)
        return json_response({"predictions": rows, "model_version": self.version})

    async def _classify(self, image: bytes, wish: _Wish, request: Request) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        crops = await self._decoders.decode(image)
        self._seconds.observe(time.perf_counter() - start, "decode")
        return await self._compute(crops, wish, request)

    async def _classify_pixels(self, pixels: np.ndarray, wish: _Wish, request: Request) -> dict[str, np.ndarray]:
        return await self._compute(await asyncio.to_thread(self._resized, pixels), wish, request)

    async def _compute(self, crops: list[np.ndarray], wish: _Wish, request: Request) -> dict[str, np.ndarray]:
        deadline = min(request.arrived + self._service.request_seconds, time.monotonic() + self._service.queue_seconds)
        names = self._insight.outputs(embedding=wish.embedding, explained=wish.explain)
        try:
            found = await self._batcher.submit(crops, names, deadline)
        except ExpiredError:
            raise RequestError("the image waited too long for its turn; try again later", 503) from None
        return {**found, "crop": crops[0]} if wish.explain else found

    async def _all(self, works: Sequence[Any], *, named: bool = False) -> list[Any]:
        """Run works of one request, a window of them at a time; the first failure ends the others."""
        if len(works) == 1 and not named:
            return [await works[0]]
        window = asyncio.Semaphore(self._service.window)

        async def one(work: Any, number: int) -> Any:
            async with window:
                try:
                    return await work
                except RequestError as error:
                    raise RequestError(f"image {number}: {error}", error.status) from error

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(work, number)) for number, work in enumerate(works)]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            for work in works:
                work.close()
        return [task.result() for task in tasks]

    def _holding(self, works: Sequence[Any]) -> AbstractContextManager[None]:
        """Count a request's images as in work, from their bytes to the answer."""
        return self._admission.holding(min(len(works), self._service.window))

    def _resized(self, pixels: np.ndarray) -> list[np.ndarray]:
        return [part.apply(np.ascontiguousarray(pixels)) for part in self._model.preprocessings]

    def _rows(self, found: Sequence[dict[str, np.ndarray]], wish: _Wish) -> list[dict[str, Any]]:
        probabilities = self._model.probabilities(np.stack([outputs["logits"] for outputs in found]))
        predictions = [prediction(self._model.classes, row, wish.top) for row in probabilities]
        content = answer(predictions, self.version, self._model.random_weights)
        rows: list[dict[str, Any]] = content["predictions"]
        for row, outputs, judged in zip(rows, found, self._insight.judge(found), strict=True):
            self._images.add(label=row["label"])
            row.update(judged)
            if wish.similar:
                row["similar"] = self._insight.likest(outputs)
            if wish.embedding:
                row["embedding"] = [float(value) for value in outputs["features"]]
        return rows

    def _response(
        self,
        found: Sequence[dict[str, np.ndarray]],
        wish: _Wish,
        *,
        single: bool,
        explained: Sequence[Explained] = (),
    ) -> Response:
        if wish.form in (formats.CSV, formats.NPY):
            self._insight.judge(found)  # these forms have no place for it, but it counts for drift
            probabilities = self._model.probabilities(np.stack([outputs["logits"] for outputs in found]))
            for row in probabilities:
                self._images.add(label=self._model.classes[int(row.argmax())])
            if wish.form == formats.NPY:
                return Response(formats.array(probabilities), 200, formats.NPY)
            names = [str(number) for number in range(len(found))]
            return Response(
                formats.table(self._model.classes, names, probabilities), 200, "text/csv; charset=utf-8; header=present"
            )
        rows = self._rows(found, wish)
        for row, why in zip(rows, explained, strict=False):
            row["explanation"] = why.to_json()
        if wish.form == formats.LINES:
            return Response(formats.json_lines(rows), 200, formats.LINES)
        content: dict[str, Any] = {**rows[0]} if single else {"predictions": rows}
        content["model_version"] = self.version
        if self._model.random_weights:
            content["warning"] = "the backbone's weights are random; this answer means little"
        return json_response(content)

    def _observe(self, waits: Sequence[float], seconds: float) -> None:
        self._sizes.observe(len(waits))
        self._seconds.observe(seconds, "inference")
        for wait in waits:
            self._seconds.observe(wait, "queue")


def _wish(request: Request, default: str = JSON) -> _Wish:
    accept = request.headers.get("accept", "")
    explain, embedding, similar = (_flag(request, name) for name in ("explain", "embedding", "similar"))
    # A heat map comes alone, as a picture, unless JSON is asked for.
    form = formats.PNG if explain and _takes_picture(accept) else formats.chosen(accept, default)
    top = request.query.get("top")
    if top is not None and (not top.isdecimal() or len(top) > 6 or int(top) < 1):
        raise RequestError(f"top is {top[:20]!r}; it must be a whole number from 1 on", 400)
    if form in (formats.CSV, formats.NPY) and (top is not None or embedding or explain):
        raise RequestError(f"top, embedding and explain belong to JSON answers; {form} has every class", 400)
    return _Wish(form, int(top) if top else None, embedding, explain, request.query.get("class"), similar)


def _flag(request: Request, name: str) -> bool:
    value = request.query.get(name, "false")
    if value not in ("true", "false"):
        raise RequestError(f"{name} is {value[:20]!r}; it must be true or false", 400)
    return value == "true"


def _takes_picture(accept: str) -> bool:
    first = accept.split(",")[0].split(";")[0].strip().lower()
    return first in ("", "*/*", "image/*", formats.PNG)
