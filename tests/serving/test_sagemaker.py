from __future__ import annotations

import itertools

import pytest

from finepoint.serving.sagemaker import main, options


def test_the_containers_variables_become_the_servers_flags() -> None:
    flags = options(
        {"SAGEMAKER_BASE_DIR": "/base", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "20", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6"}
    )
    given = dict(itertools.pairwise(flags))
    assert given["--model"] == "/base/model"
    assert given["--port"] == "8080"
    assert given["--host"] == "0.0.0.0"
    assert dict(itertools.pairwise(options({"FINEPOINT_BIND_TO_HOST": "127.0.0.1"})))["--host"] == "127.0.0.1"
    assert given["--request-seconds"] == "20"
    assert given["--max-body-bytes"] == str(6 * 2**20)
    assert {"--no-auth", "--allow-code"} <= set(flags)


def test_another_word_than_serve_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "only serves" in capsys.readouterr().err
