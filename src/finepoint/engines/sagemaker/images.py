"""AWS's PyTorch images, from one dated table, or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from finepoint.errors import ConfigurationError
from finepoint.files import read_json

_TABLE = Path(__file__).with_name("images.json")
# Families of machine types with an NVIDIA GPU: p2, p3, p4d, g4dn, g5, g6e, ...
_GPU_FAMILIES = ("p", "g")


def image_for(
    kind: Literal["training", "inference"],
    region: str,
    instance_type: str,
    given: str = "",
    *,
    version: str = "",
    python: str = "",
) -> str:
    """Return the image for a machine type in a region.

    Args:
        kind: of work.
        region: where it runs; an image is pulled from the same region.
        instance_type: decides between the CPU's and the GPU's.
        given: the user's own goes before.
        version: of PyTorch, `1.13.1`; by default the table's.
        python: `py39`; by default the table's.

    Raises:
        ConfigurationError: the table has no such region.

    >>> image_for("training", "eu-west-1", "ml.m5.xlarge")
    '763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:2.6.0-cpu-py312'
    """
    if given:
        return given
    table = image_table()
    account = table["account"] if region in table["regions"] else table["other_accounts"].get(region)
    if account is None:
        raise ConfigurationError(
            f"the table of images ({table['date']}) has no region {region}; give image= and inference_image="
        )
    suffix = ".cn" if region.startswith("cn-") else ""
    device = "gpu" if has_gpu(instance_type) else "cpu"
    tag = f"{version or table['version']}-{device}-{python or table['python']}"
    return f"{account}.dkr.ecr.{region}.amazonaws.com{suffix}/pytorch-{kind}:{tag}"


def has_gpu(instance_type: str) -> bool:
    """Return whether a machine type has a GPU.

    >>> has_gpu("ml.g4dn.xlarge"), has_gpu("ml.m5.xlarge")
    (True, False)
    """
    family = instance_type.split(".")[1]
    return family[0] in _GPU_FAMILIES and family[1:2].isdigit()


def image_table() -> dict[str, Any]:
    """Return the table: its source, date, version, and the account of each region."""
    return dict(read_json(_TABLE))
