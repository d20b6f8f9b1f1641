"""Our rules about loading data. Below their shares of the loop's time advice is not worth reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from finepoint.profiler.phases import Mode
from finepoint.profiler.prediction import best_workers, computing_beside, first_waits, loop_speedup
from finepoint.profiler.recording import ProfilerRecording, total
from finepoint.profiler.rules.base import StepRule, own_rule
from finepoint.results import RuleResult

# Shrinking a copy to the crop, and turning that into a tensor and stacking it (2.5 ms for 224 x 224, measured where
# all cores were at work; 1.75 ms where one was).
_CROP_SECONDS_PER_PIXEL = 5e-8
# Of the time of decoding a JPEG, what decoding it at a quarter or less of its size takes (0.4 to 0.5, measured).
_DRAFT_DECODING = 0.5
# Of the time of decoding a PNG of a photograph, what decoding the same as JPEG takes (0.15 to 0.3, measured).
_JPEG_DECODING = 0.2
_ROUNDS = 20
_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")


@own_rule
@dataclass(frozen=True)
class DataLoaderWorkers(StepRule):
    """Fires where the training process loads the data itself although cores are free, or far too many workers do."""

    share: float = 0.1
    speedup: float = 1.03
    workers_per_core: float = 2.0

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Predict what workers would give, from the times of waiting and computing."""
        loader = recording.loader()
        if loader is None:
            return self.not_applicable(recording.why_no_loader())
        waiting, workers = recording.share("data_wait"), int(loader["workers"])
        if workers == 0:
            return self._none(recording, waiting)
        if workers > self.workers_per_core * recording.cores:
            return self._many(recording, workers)
        return self.clean(workers=workers, data_wait=waiting)

    def _none(self, recording: ProfilerRecording, waiting: float) -> RuleResult:
        workers, saved = best_workers(recording)
        speedup = loop_speedup(recording, saved)
        if waiting < self.share or speedup < self.speedup:
            return self.clean(workers=0, data_wait=waiting, predicted_speedup=speedup)
        return self.issue(
            meaning=f"Training stands still for {100 * waiting:.0f} % of the time while one process loads each batch.",
            remedy=f"give the DataLoader num_workers={workers}",
            share=recording.phases()["data_wait"] + _evaluation_wait(recording),
            speedup=speedup,
            change={"num_workers": workers},
            workers=0,
            cores=recording.cores,
        )

    def _many(self, recording: ProfilerRecording, workers: int) -> RuleResult:
        wanted = max(int(recording.cores), 1)
        # The first batch of each pass waits for the workers to start; the time is in proportion to their number.
        rows = recording.loop
        waits = np.nan_to_num(rows["phase/data_wait"])
        usual = float(np.median(waits[waits > 0])) if (waits > 0).any() else 0.0
        starts = float(np.clip(waits - 3 * usual, 0, None).sum())
        saved = starts * (1 - wanted / workers)
        return self.issue(
            meaning=f"{workers} workers share {recording.cores:g} cores: they start slowly, hold memory, and interrupt "
            "each other and the training.",
            remedy=f"give the DataLoader num_workers={wanted}",
            share=starts / max(recording.loop_seconds, 1e-9),
            speedup=loop_speedup(recording, saved),
            change={"num_workers": wanted},
            workers=workers,
            cores=recording.cores,
        )


@own_rule
@dataclass(frozen=True)
class Oversized(StepRule):
    """Fires where images have many times the pixels that the network sees, and decoding them is what is waited for."""

    share: float = 0.15
    pixel_ratio: float = 8.0
    decode_share: float = 0.25

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Compare the images' pixels with the batch's."""
        loading = Loading.of(recording)
        if loading is None:
            return self.not_applicable(_why_no_image(recording))
        facts = loading.facts()
        if not loading.crop_pixels:
            return self.not_applicable("the batches are no images")
        ratio = loading.pixels / loading.crop_pixels
        if ratio < self.pixel_ratio or loading.blamed < self.share or loading.decode_share < self.decode_share:
            return self.clean(pixel_ratio=ratio, **facts)
        side = round(float(np.sqrt(loading.crop_pixels)) * 1.5 / 32) * 32
        fewer = side**2 * 4 / 3 / loading.pixels  # photographs are 4:3, and the shorter side is `side`
        same = loading.crop_pixels * _CROP_SECONDS_PER_PIXEL / max(loading.item_seconds, 1e-9)
        kept = min(fewer + same, 1.0)
        remedy = f"save copies once whose shorter side is {side} pixels"
        also = []
        if loading.formats.get("JPEG", 0) > loading.images / 2:
            # Decoded at a fraction of its size, a file must still be read through.
            drafted = loading.decode_share * _DRAFT_DECODING + (1 - loading.decode_share) * kept
            speedup = loading.speedup(recording, drafted)
            also.append({"change": {"draft_side": side}, "predicted_speedup": speedup})
            remedy += (
                f"; or, for {speedup:.1f} times the speed, call image.draft(None, ({side}, {side})) "
                "between opening and decoding a JPEG"
            )
        return self.issue(
            meaning=f"The images have {ratio:.0f} times the pixels that the network sees; decoding and shrinking them "
            f"takes {100 * loading.blamed:.0f} % of the time.",
            remedy=remedy,
            share=loading.at_most(recording, loading.blamed, 0.0),
            speedup=loading.speedup(recording, kept),
            change={"image_side": side},
            also=also,
            pixel_ratio=ratio,
            **facts,
        )


@own_rule
@dataclass(frozen=True)
class SlowImageFormat(StepRule):
    """Fires where most images are stored losslessly, and decoding them is what is waited for."""

    share: float = 0.15

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Look at the formats of the images that were decoded."""
        loading = Loading.of(recording)
        if loading is None:
            return self.not_applicable(_why_no_image(recording))
        slow = sum(count for name, count in loading.formats.items() if name in _LOSSLESS) / loading.images
        share = loading.blamed * loading.decode_share
        if slow < 0.5 or share < self.share:
            return self.clean(lossless=slow, **loading.facts())
        names = " and ".join(name for name in loading.formats if name in _LOSSLESS)
        return self.issue(
            meaning=f"{100 * slow:.0f} % of the images are {names}; decoding takes {100 * share:.0f} % of the time.",
            remedy="save them once as JPEG of quality 95, or as arrays of the size that is trained on",
            share=loading.at_most(recording, share, 1 - loading.decode_share),
            speedup=loading.speedup(recording, 1 - loading.decode_share * (1 - _JPEG_DECODING)),
            **loading.facts(),
        )


@own_rule
@dataclass(frozen=True)
class DecodeBound(StepRule):
    """Fires where training waits for images to be decoded although workers do it already."""

    share: float = 0.15

    def look(self, recording: ProfilerRecording) -> RuleResult:
        """Look at what the loading is made of."""
        loading = Loading.of(recording)
        if loading is None:
            return self.not_applicable(_why_no_image(recording))
        share = loading.blamed * loading.decode_share
        if share < self.share:
            return self.clean(**loading.facts())
        said = [
            kind.__name__ for kind in (Oversized, SlowImageFormat, DataLoaderWorkers) if kind().judge(recording).fired
        ]
        if said:
            return self.clean(said_by=" and ".join(said), **loading.facts())
        return self.issue(
            meaning=f"Decoding {'/'.join(loading.formats)} files takes {100 * share:.0f} % of the time.",
            remedy="decode once: keep the images as uint8 arrays of the size that is trained on (np.save, mmap)",
            share=loading.at_most(recording, share, 1 - loading.decode_share),
            speedup=loading.speedup(recording, 1 - loading.decode_share),
            change={"decoded_once": True},
            **loading.facts(),
        )


@dataclass(frozen=True)
class Loading:
    """What loading a batch is made of.

    Args:
        images: decoded, `pixels` of one on average, `formats` how many of each.
        decode_share: of the processor time of fetching, what decoding takes.
        crop_pixels: of what the network is given; 0 where batches are no images.
        blamed: share of the loop's time that is waiting for data.
        workers: of the loader.
        cpu: processor time of all fetching.
        batch_seconds: that fetching a batch takes.
        item_seconds: of processor time that fetching one item takes.
    """

    images: float
    pixels: float
    formats: dict[str, int]
    decode_share: float
    crop_pixels: float
    blamed: float
    workers: int
    cpu: float = 0.0
    batch_seconds: float = 0.0
    item_seconds: float = 0.0

    @classmethod
    def of(cls, recording: ProfilerRecording) -> Loading | None:
        """Return it, or None where no decoding was seen."""
        rows, loader = recording.loading, recording.loader()
        images = total(rows, "images")
        if not images or loader is None:
            return None
        shape = loader.get("shape") or []
        return cls(
            images=images,
            pixels=total(rows, "pixels") / images,
            formats={name.removeprefix("format/"): int(total(rows, name)) for name in rows.named("format/")},
            decode_share=min(total(rows, "decode_cpu") / max(total(rows, "cpu"), 1e-9), 1.0),
            crop_pixels=float(shape[-1] * shape[-2]) if len(shape) == 4 else 0.0,
            blamed=min(recording.phases().get("data_wait", 0.0) + _evaluation_wait(recording), 1.0),
            workers=int(loader["workers"]),
            cpu=total(rows, "cpu"),
            batch_seconds=total(rows, "seconds") / max(total(rows, "fetches"), 1.0),
            item_seconds=total(rows, "cpu") / max(total(rows, "items"), 1.0),
        )

    def speedup(self, recording: ProfilerRecording, kept: float) -> float:
        """Return how many times faster the loop is when loading takes only the share `kept` of its time.

        Workers that load ahead hide what is shorter than the computing, so that a wait shrinks by more than the
        loading does: what is waited for is the loading less the computing that it hides behind, which gets faster
        itself where it had too few cores beside the workers. Nothing hides the beginning of a pass: workers start as
        slowly as before, and the first batch is loaded by one of them. Nor can all of it last less than the cores need
        for it.
        """
        rows = recording.loop
        wait, whole = total(rows, "phase/data_wait"), total(rows, "seconds")
        if self.workers == 0:
            return loop_speedup(recording, wait * (1 - kept))
        computing = whole - wait
        firsts = first_waits(recording)
        first = np.minimum(firsts, self.batch_seconds)
        later = wait - float(firsts.sum())
        begins = float((firsts - first).sum() + first.sum() * kept)
        after = whole
        work = (kept * self.cpu + total(rows, "cpu")) / recording.cores
        for _ in range(_ROUNDS):  # the cores that loading takes depend on how long the loop lasts, and that on them
            faster = computing_beside(recording, min(kept * self.cpu / after, self.workers))
            after = max(begins + max((later + computing) * kept, faster), work)
        return loop_speedup(recording, whole - after)

    def at_most(self, recording: ProfilerRecording, waited: float, least: float) -> float:
        """Return the share of the loop's time that can be won: more than is waited where workers take its cores.

        Args:
            recording: of the job.
            waited: the share that is waited.
            least: the share of loading that stays, whatever is changed.
        """
        return max(waited, 1 - 1 / self.speedup(recording, least))

    def facts(self) -> dict[str, Any]:
        """Return the numbers for a finding's evidence."""
        return {
            "images_decoded": int(self.images),
            "mean_pixels": round(self.pixels),
            "formats": self.formats,
            "decode_share_of_loading": self.decode_share,
            "data_wait": self.blamed,
        }


def _why_no_image(recording: ProfilerRecording) -> str:
    if recording.loader() is None:
        return recording.why_no_loader()
    return "no image was seen being decoded (only Pillow's decoding is watched)"


def _evaluation_wait(recording: ProfilerRecording) -> float:
    rows = recording.loop
    evaluating = rows.where(rows["mode"] == Mode.EVALUATION)
    return total(evaluating, "phase/data_wait") / max(total(rows, "seconds"), 1e-9)
