from __future__ import annotations

from pathlib import Path

import pytest
from tests.acceptance.conftest import Finepoint

COMMANDS = ["run", "tune", "train", "evaluate", "predict", "deploy", "query", "endpoints", "undeploy"]
COMMANDS += ["runs", "report", "demo", "doctor", "cache", "logs", "wait", "stop", "rm"]


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), ["data", "check"], ["data", "fetch"]])
def test_every_command_has_help_with_examples_and_json(finepoint: Finepoint, command: list[str]) -> None:
    text = finepoint(*command, "--help").stdout
    assert "Examples" in text
    assert "--json" in text


def test_help_is_fast(finepoint: Finepoint) -> None:
    import resource
    import subprocess
    import sys
    from collections.abc import Callable

    def once(work: Callable[[], object]) -> float:
        """Return the seconds of computing: other tests run beside this one, and the clock would count theirs."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        work()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # A machine's speed may halve from one minute to the next; an empty Python, 0.02 s on an idle one, tells.
    empty = min(once(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(5))
    assert min(once(lambda: finepoint("--help")) for _ in range(5)) < max(0.5, 25 * empty)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nix"], "no such folder"),
        (["run", "."], "images"),
        (["run", "PATH", "--lr", "-1"], "lr is -1"),
        (["run", "PATH", "--backbone", "nix"], "neither timm nor torchvision"),
        (["run", "PATH", "--weights", "nix.pth"], "no such file"),
        (["run", "PATH", "--range", "lr=100"], "from 0 to 10"),
        (["run", "PATH", "--range", "nix=1:2"], "no hyperparameter"),
        (["run", "PATH", "--objective", "test_loss"], "test part"),
        (["run", "PATH", "--strategy", "magic"], "unknown"),
        (["run", "PATH", "--max-jobs", "0"], "at least 1"),
        (["run", "PATH", "--space", "nix.toml"], "cannot be read"),
        (["run", "PATH", "--run", "../x"], "run name"),
        (["run", "PATH", "--warm-start", "nix"], "no run"),
        (["run", "PATH", "--test-fraction", "0.9"], "test_fraction"),
        (["evaluate", "nix"], "no run 'nix'"),
        (["predict", "nix", "x.jpg"], "no such file"),
        (["deploy", "nix"], "no run 'nix'"),
        (["query", "nix", "x.jpg"], "no endpoint"),
        (["undeploy"], "--all"),
        (["undeploy", "nix"], "no endpoint"),
        (["report", "nix"], "no run"),
        (["data", "check", "nix"], "no such folder"),
        (["cache", "--clear", "nix"], "the cache has compiled, features"),
        (["nix"], "No such command"),
    ],
)
def test_the_users_mistakes_get_a_sentence_and_exit_code_2(
    finepoint: Finepoint, colours: Path, arguments: list[str], words: str
) -> None:
    import re

    given = [str(colours) if argument == "PATH" else argument for argument in arguments]
    done = finepoint(*given, code=2)
    assert re.search(words, done.stderr), done.stderr
    assert done.stdout == ""


def test_several_mistakes_are_listed_at_once(finepoint: Finepoint, colours: Path) -> None:
    done = finepoint("run", colours, "--lr", "-1", "--epochs", "0", "--strategy", "x", "--seed", "-3", code=2)
    assert "4 settings are wrong" in done.stderr


def test_a_package_that_is_none_cannot_be_deployed(finepoint: Finepoint, tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_text("hello")
    assert "is neither a zip nor a tar archive" in finepoint("deploy", tmp_path / "model.tar.gz", code=2).stderr


def test_remote_addresses_must_be_allowed(finepoint: Finepoint, tmp_path: Path) -> None:
    from finepoint.errors import ConfigurationError
    from finepoint.serving.__main__ import check_host

    for host in ("127.0.0.1", "::1", "localhost"):
        check_host(host, allowed=False)
    for host in ("0.0.0.0", "192.168.0.1", "::", "example"):
        with pytest.raises(ConfigurationError, match="--token-file"):
            check_host(host, allowed=False)
