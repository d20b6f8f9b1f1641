from __future__ import annotations

from pathlib import Path

import pytest

from finepoint.engines.sagemaker.settings import load_settings
from finepoint.errors import ConfigurationError

ROLE = "arn:aws:iam::123456789012:role/finepoint"


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "finepoint.toml").write_text(
        f'[sagemaker]\nrole = "{ROLE}"\nbucket = "photos"\nspot = true\ntags = {{ team = "dogs" }}\n'
    )
    found = load_settings(
        ["bucket=other-photos", "instance-type=ml.g5.xlarge", "subnets=a,b", "security_groups=c"], tmp_path
    )
    assert (found.role, found.bucket, found.instance_type) == (ROLE, "other-photos", "ml.g5.xlarge")
    assert (found.spot, found.tags, found.subnets) == (True, {"team": "dogs"}, ("a", "b"))


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    given = ["role=me", "bucket=B", "nix=1", "volume_gib=x", "max_run_seconds=0", "spot=maybe"]
    with pytest.raises(ConfigurationError) as caught:
        load_settings(given, tmp_path)
    text = str(caught.value)
    for words in (
        "role is 'me'",
        "bucket is 'B'",
        "nix is no setting",
        "volume_gib is 'x'",
        "max_run_seconds is 0",
        "spot",
    ):
        assert words in text


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "finepoint.toml").write_text("[sagemaker")
    with pytest.raises(ConfigurationError, match=r"finepoint\.toml cannot be used"):
        load_settings([], tmp_path)
