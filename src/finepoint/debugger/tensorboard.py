"""Exports a recording to TensorBoard event files, so that existing tools open it; tensorboard is an extra."""

from __future__ import annotations

from pathlib import Path

from finepoint.debugger.plotting import scalars_of
from finepoint.debugger.recording import Recording
from finepoint.errors import ConfigurationError


def export_tensorboard(recording: Recording, folder: Path) -> int:
    """Write every series as scalars, a run per mode and rank; return how many values.

    Args:
        recording: to write.
        folder: for TensorBoard's `--logdir`; made if need be.

    Raises:
        ConfigurationError: tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise ConfigurationError("the export needs tensorboard: pip install 'finepoint[tensorboard]'") from None
    count = 0
    for mode in recording.modes:
        for rank in recording.ranks:
            run = mode.name.lower() if len(recording.ranks) == 1 else f"{mode.name.lower()}-rank{rank}"
            writer = EventFileWriter(str(folder / run))
            for name in recording.names(mode=mode):
                reductions = recording.reductions(name)
                found = [recording.series(name, reduction, mode, rank=rank) for reduction in reductions]
                if not reductions:
                    found = [scalars_of(recording, name, mode)]
                for series in found:
                    tag = name if series.reduction == "value" or len(found) == 1 else f"{name}/{series.reduction}"
                    for step, value, time in zip(series.steps, series.values, series.times, strict=True):
                        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                        writer.add_event(Event(wall_time=time, step=int(step), summary=summary))
                        count += 1
            writer.close()
    return count
