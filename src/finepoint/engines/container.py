"""The container contract: a host's folder, laid out as SageMaker's `/opt/ml`, and the variables its process finds."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.engines.checkpoints import is_remote
from finepoint.engines.confidential import without_secrets
from finepoint.engines.encoding import as_arguments, as_variable, platform_hyperparameters, user_hyperparameters
from finepoint.engines.spec import TORCH_DISTRIBUTED, JobSpec
from finepoint.errors import ConfigurationError
from finepoint.files import write_json
from finepoint.models.runtimes import cores

INTERFACE = "lo"
_GROUP = "homogeneousCluster"
_LOG_LEVEL = 20
# The container's; the port of a job of one host, which nobody connects to.
PORT = 7777
_RECORDED = ("debug-output", "profiler-output", "rule-output")
_SHARED = ("checkpoints", *_RECORDED)
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", ".venv", "*.pyc", ".ipynb_checkpoints")


@dataclass(frozen=True)
class Host:
    """One host of a job, and its folder.

    Args:
        name: `algo-1`, `algo-2`, ...
        folder: what the container has at `/opt/ml`.
        names: of all hosts.
        master_address: where the first host is reached.
        master_port: for the processes of a distributed job.
    """

    name: str
    folder: Path
    names: tuple[str, ...]
    master_address: str
    master_port: int

    @property
    def code(self) -> Path:
        """The folder that a script runs in."""
        return self.folder / "code"


def hosts_of(folder: Path, spec: JobSpec, *, named: bool, port: int) -> list[Host]:
    """Return the hosts of a job: the first has the job's own folder.

    Args:
        folder: the job's, absolute.
        spec: of the job.
        named: whether the processes can find hosts by their names.
        port: for the processes of a distributed job.
    """
    names = tuple(f"algo-{number}" for number in range(1, spec.resources.instance_count + 1))
    address = names[0] if named else "127.0.0.1"
    folders = [folder, *(folder / "hosts" / name for name in names[1:])]
    return [Host(name, where, names, address, port) for name, where in zip(names, folders, strict=True)]


def lay_out(host: Host, spec: JobSpec) -> None:
    """Make a host's folders and its `input/config` files; channels are linked, and checkpoints are kept.

    A script begins with empty `model` and `output` and unrecorded, as in a new container: it counts its steps from 0
    again. finepoint's own modules go on from what is there.
    """
    for name in ("model", "output", *_RECORDED) if spec.is_script else ():
        shutil.rmtree(host.folder / name, ignore_errors=True)
    for name in ("input/config", "input/data", "model", "output/data"):
        (host.folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("failure", "success"):
        (host.folder / "output" / name).unlink(missing_ok=True)
    _lay_out_checkpoints(host, spec)
    configuration = host.folder / "input" / "config"
    # SageMaker hands every hyperparameter over as a JSON-encoded string.
    given = {"module": spec.module, "hyperparameters": spec.hyperparameters}
    values = without_secrets(given)[0]["hyperparameters"]
    encoded = {name: json.dumps(value) for name, value in values.items()}
    write_json(configuration / "hyperparameters.json", encoded)
    write_json(configuration / "inputdataconfig.json", _input_data(spec))
    write_json(configuration / "resourceconfig.json", _resources(host, spec))
    for name, channel in spec.channels.items():
        _link_channel(host.folder / "input" / "data" / name, channel.path.resolve())
    if spec.is_script:
        copy_code(spec, host.code)


def variables(
    host: Host, spec: JobSpec, python: str = sys.executable, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the environment of a host's process: the inherited one, and the container's variables.

    Args:
        host: on which it runs.
        spec: of the job.
        python: that runs scripts; a shell script that calls `python` or `pip` finds its.
        inherited: the environment to start from.
    """
    values = _toolkit_variables(host, spec) if spec.is_script else _module_variables(host, spec)
    values |= {
        "SAGEMAKER_BASE_DIR": host.folder,
        "TRAINING_JOB_NAME": spec.name,
        "SAGEMAKER_JOB_NAME": spec.name,
        "PYTHONUNBUFFERED": "1",
    }
    if spec.is_script:
        values |= {
            "CURRENT_HOST": host.name,
            "SAGEMAKER_REGION": inherited.get("AWS_REGION", inherited.get("AWS_DEFAULT_REGION", "")),
            "MASTER_ADDR": host.master_address,
            "MASTER_PORT": str(host.master_port),
            "NCCL_SOCKET_IFNAME": INTERFACE,
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "PATH": os.pathsep.join([str(Path(python).parent), inherited.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(host.code), inherited.get("PYTHONPATH", "")))),
        }
    if spec.resources.cpus is not None:
        values |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(spec.resources.cpus))
    kept = {name: value for name, value in inherited.items() if not name.startswith("SM_")}
    return {**kept, **{name: as_variable(value) for name, value in values.items()}, **spec.environment}


def script_command(host: Host, spec: JobSpec, python: str) -> list[str]:
    """Return the command line of a script on a host, as the official toolkit builds it."""
    arguments = as_arguments(user_hyperparameters(spec.hyperparameters))
    if spec.entry_point.endswith(".sh"):
        return ["/bin/sh", "-c", f'./{spec.entry_point} "$@"', spec.entry_point, *arguments]
    if spec.distribution == TORCH_DISTRIBUTED:
        several = ["--master_addr", host.master_address, "--master_port", str(host.master_port)]
        several += ["--node_rank", str(host.names.index(host.name))]
        counts = ["--nnodes", str(len(host.names)), "--nproc_per_node", str(_processes_per_host())]
        torchrun = [python, "-m", "torch.distributed.run", *counts, *(several if len(host.names) > 1 else [])]
        return [*torchrun, spec.entry_point, *arguments]
    if (host.code / "setup.py").is_file():
        return [python, "-m", spec.entry_point.removesuffix(".py"), *arguments]
    if spec.entry_point.endswith(".py"):
        return [python, "--", spec.entry_point, *arguments]
    return ["/bin/sh", "-c", f'./{spec.entry_point} "$@"', spec.entry_point, *arguments]


def gather(hosts: list[Host]) -> list[str]:
    """Bring the other hosts' `model` and `output/data` files to the first one; return those it had already."""
    first, clashes = hosts[0].folder, []
    for host in hosts[1:]:
        for part in ("model", "output/data"):
            for path in sorted((host.folder / part).rglob("*")):
                target = first / part / path.relative_to(host.folder / part)
                if path.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                elif target.exists():
                    clashes.append(f"{host.name}: {path.relative_to(host.folder)}")
                else:
                    shutil.copy2(path, target)
    return clashes


def gpus() -> int:
    """Return how many NVIDIA GPUs there are."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _processes_per_host() -> int:
    return gpus() or 1


def _input_data(spec: JobSpec) -> dict[str, Any]:
    return {
        name: {
            "TrainingInputMode": channel.input_mode,
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        }
        for name, channel in spec.channels.items()
    }


def _resources(host: Host, spec: JobSpec) -> dict[str, Any]:
    kind = spec.resources.instance_type
    return {
        "current_host": host.name,
        "current_instance_type": kind,
        "current_group_name": _GROUP,
        "hosts": list(host.names),
        "instance_groups": [{"instance_group_name": _GROUP, "instance_type": kind, "hosts": list(host.names)}],
        "network_interface_name": INTERFACE,
    }


def _toolkit_variables(host: Host, spec: JobSpec) -> dict[str, Any]:
    """Return the `SM_` variables of the official toolkit (sagemaker-training 5.1.4, environment.py)."""
    seen = user_hyperparameters(spec.hyperparameters)
    resources, base = _resources(host, spec), host.folder
    channels = {name: str(base / "input" / "data" / name) for name in spec.channels}
    group = resources["instance_groups"][0]
    values: dict[str, Any] = {
        "channel_input_dirs": channels,
        "current_host": host.name,
        "current_instance_group": _GROUP,
        "current_instance_group_hosts": list(host.names),
        "current_instance_type": spec.resources.instance_type,
        "distribution_instance_groups": [_GROUP] if spec.distribution else [],
        "framework_module": None,
        "hosts": list(host.names),
        "input_config_dir": str(base / "input" / "config"),
        "input_data_config": _input_data(spec),
        "input_dir": str(base / "input"),
        "instance_groups": [_GROUP],
        "instance_groups_dict": {_GROUP: group},
        "is_hetero": False,
        "log_level": _LOG_LEVEL,
        "model_dir": str(base / "model"),
        "module_dir": str(host.code),
        "module_name": spec.entry_point.removesuffix(".py"),
        "network_interface_name": INTERFACE,
        "num_cpus": spec.resources.cpus or cores(),
        "num_gpus": gpus(),
        "num_neurons": 0,
        "output_data_dir": str(base / "output" / "data"),
        "output_dir": str(base / "output"),
        "output_intermediate_dir": str(base / "output" / "intermediate"),
        "resource_config": resources,
        "user_entry_point": spec.entry_point,
    }
    framework = platform_hyperparameters(spec.hyperparameters)
    whole = {
        **values,
        "additional_framework_parameters": framework,
        "distribution_hosts": list(host.names) if spec.distribution else [],
        "hyperparameters": seen,
        "is_master": host.name == host.names[0],
        "is_modelparallel_enabled": None,
        "is_smddpmprun_installed": False,
        "is_smddprun_installed": False,
        "job_name": spec.name,
        "master_hostname": host.names[0],
        "topology": [],
    }
    del values["channel_input_dirs"]
    values |= {"hps": seen, "framework_params": framework, "channels": sorted(channels)}
    values |= {"training_env": whole, "user_args": as_arguments(seen)}
    values |= {f"channel_{name}": path for name, path in channels.items()}
    values |= {f"hp_{name}": value for name, value in seen.items()}
    return {f"SM_{name.upper()}": value for name, value in values.items()}


def _module_variables(host: Host, spec: JobSpec) -> dict[str, Any]:
    """Return the variables that finepoint's own modules read."""
    base = host.folder
    values: dict[str, Any] = {
        "SM_MODEL_DIR": base / "model",
        "SM_OUTPUT_DATA_DIR": base / "output" / "data",
        "SM_HPS": dict(spec.hyperparameters),
    }
    return values | {f"SM_CHANNEL_{name.upper()}": base / "input" / "data" / name for name in spec.channels}


def _lay_out_checkpoints(host: Host, spec: JobSpec) -> None:
    """Make the folders that all hosts share; the first one's checkpoints may lie elsewhere."""
    checkpoints = host.folder / "checkpoints"
    if host.name != host.names[0]:
        for name in _SHARED:
            _link_made(host.folder / name, host.folder.parents[1] / name)
    elif spec.checkpoint_location and not is_remote(spec.checkpoint_location):
        _link_made(checkpoints, Path(spec.checkpoint_location.removeprefix("file://")).resolve())
    else:
        if checkpoints.is_symlink():  # an earlier run kept them elsewhere
            checkpoints.unlink()
        checkpoints.mkdir(exist_ok=True)


def _link_made(link: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _link(link, target)


def _link_channel(link: Path, target: Path) -> None:
    """Put a folder, or a folder with one file in it, where the channel is."""
    if target.is_dir():
        _link(link, target)
        return
    if link.is_symlink():
        link.unlink()
    link.mkdir(exist_ok=True)
    _link(link / target.name, target)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() or link.is_file():
        link.unlink()
    elif link.is_dir():
        for entry in link.iterdir():
            if not entry.is_symlink():
                raise ConfigurationError(f"{link} has files of an earlier job; move them away, or take another --run")
            entry.unlink()
        link.rmdir()
    link.symlink_to(target, target_is_directory=target.is_dir())


def copy_code(spec: JobSpec, target: Path) -> None:
    """Copy the user's script or folder: the job keeps what it ran, and the script may write where it stands."""
    source = Path(spec.source_dir).resolve()
    if target.exists():
        shutil.rmtree(target)
    if source.is_file():
        target.mkdir()
        shutil.copy2(source, target)
    else:
        # Data beside the script comes through its channel, and earlier jobs are no part of the next one.
        apart = {channel.path.resolve() for channel in spec.channels.values()} | set(target.parents) - {source}

        def left_out(folder: str, names: list[str]) -> set[str]:
            return {*_LEFT_OUT(folder, names), *(name for name in names if (Path(folder) / name).resolve() in apart)}

        shutil.copytree(source, target, ignore=left_out, ignore_dangling_symlinks=True)
    for script in (target / spec.entry_point, *target.rglob("*.sh")):
        if script.is_file():
            script.chmod(0o755)
