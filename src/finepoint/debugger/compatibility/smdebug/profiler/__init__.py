"""What scripts import from smdebug's profiler; profiling itself is finepoint's."""
