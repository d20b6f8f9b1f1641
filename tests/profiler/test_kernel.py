"""Reading files of the kernel's."""

from __future__ import annotations

from pathlib import Path

from finepoint.profiler.kernel import kernel_text


def test_a_file_that_takes_several_reads_is_read_whole(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    (tmp_path / "long").write_text(text)
    assert kernel_text(str(tmp_path / "long")) == text
