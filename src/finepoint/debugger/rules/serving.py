"""A rule that compares a serving script with the training that was recorded."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finepoint.debugger.recording import Recording
from finepoint.debugger.rules.base import Rule, rule
from finepoint.debugger.rules.reading import first_rank, modules
from finepoint.debugger.rules.result import RuleResult

# (name, numbers): a layer or a transform, with those of its arguments that say what it does.
Step = tuple[str, tuple[Any, ...]]
_UNKNOWN = object()
# The arguments that are compared, in the order in which they may be given by place.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features"),
    "Dropout": ("p",),
    "Resize": ("size",),
    "CenterCrop": ("size",),
    "RandomResizedCrop": ("size",),
    "Normalize": ("mean", "std"),
}


@rule
@dataclass(frozen=True)
class TrainServeSkew(Rule):
    """The serving script's head or transform is not the one that was trained.

    The script is read, never run: assignments of layers to a module (`model.fc = nn.Sequential(...)`) are compared with
    the recorded module of that name, `transforms.Compose([...])` with the transform of the loader that was evaluated
    (else of the one that was trained on). Numbers are compared where they are written down, or assigned once; what the
    script computes cannot be compared and is left out.

    Args:
        inference_script: the serving script's file; needed.
    """

    inference_script: str = ""

    def judge(self, recording: Recording) -> RuleResult:
        if not self.inference_script:
            return self.not_applicable("say which script serves: --set inference_script=code/inference.py")
        try:
            tree = ast.parse(Path(self.inference_script).read_text())
        except OSError as error:
            return self.not_applicable(f"{self.inference_script} cannot be read: {error.strerror}")
        except (SyntaxError, ValueError) as error:
            return self.not_applicable(f"{self.inference_script} is no Python: {error}")
        constants = _constants(tree)
        differences: list[str] = []
        compared: list[str] = []
        for name, served in _assigned_layers(tree, constants):
            trained = _recorded_layers(recording, name)
            if trained:
                compared.append(name)
                differences += _differences(f"layers of {name}", trained, served)
        transforms, recorded = list(_served_transforms(tree, constants)), _recorded_transform(recording)
        if transforms and recorded:
            compared.append("transform")
            each = [_differences("transform", recorded, steps) for steps in transforms]
            differences += sorted(each, key=len)[0]
        if not compared:
            return self.not_applicable("the script writes down neither a recorded module nor a recorded transform")
        if not differences:
            return self.clean(compared=compared)
        return self.issue(
            0,
            "TRAIN",
            meaning=f"What is served is not what was trained: {differences[0]}.",
            remedy="build both from one definition; finepoint's model package carries its own preprocessing",
            differences=differences,
            script=self.inference_script,
        )


def _differences(what: str, trained: list[Step], served: list[Step]) -> list[str]:
    names = [name for name, _ in trained], [name for name, _ in served]
    if names[0] != names[1]:
        return [f"{what}: trained {', '.join(names[0])}; served {', '.join(names[1])}"]
    return [
        f"{what}: trained {name}{_text(a)}; served {name}{_text(b)}"
        for (name, a), (_, b) in zip(trained, served, strict=True)
        if any(x != y for x, y in zip(a, b, strict=False) if _UNKNOWN not in (x, y))
    ]


def _text(arguments: tuple[Any, ...]) -> str:
    return "(" + ", ".join("?" if item is _UNKNOWN else str(item) for item in arguments) + ")"


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Return names that are assigned one literal, and only once."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found[name] = _UNKNOWN if name in found else _literal(node.value, {})
    return found


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return constants.get(node.id, _UNKNOWN)
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return _UNKNOWN
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return a size or a list of numbers so that 224, (224, 224) and [224, 224] are one."""
    if isinstance(value, list | tuple):
        if len(value) == 2 and value[0] == value[1]:
            return value[0]
        return tuple(round(item, 6) if isinstance(item, float) else item for item in value)
    return value


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _step(call: ast.Call, constants: dict[str, Any]) -> Step:
    name = _name(call.func)
    wanted = _ARGUMENTS.get(name, ())
    given = dict(zip(wanted, call.args, strict=False)) | {key.arg: key.value for key in call.keywords if key.arg}
    return name, tuple(_literal(given[key], constants) if key in given else _UNKNOWN for key in wanted)


def _steps(arguments: list[ast.expr], constants: dict[str, Any]) -> list[Step] | None:
    """Return the layers or transforms that are written down; None where one is computed."""
    if len(arguments) == 1 and isinstance(arguments[0], ast.List):
        arguments = arguments[0].elts
    if not all(isinstance(item, ast.Call) for item in arguments):
        return None
    return [_step(item, constants) for item in arguments if isinstance(item, ast.Call)]


def _assigned_layers(tree: ast.Module, constants: dict[str, Any]) -> Iterator[tuple[str, list[Step]]]:
    """Yield (attribute, layers) of each `model.fc = nn.Sequential(...)` or `model.fc = nn.Linear(...)`."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        targets = [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
        kind = _name(node.value.func)
        if not targets:
            continue
        if kind == "Sequential":
            layers = _steps(node.value.args, constants)
            if layers:
                yield targets[0], layers
        elif kind == "Linear":
            yield targets[0], [_step(node.value, constants)]


def _recorded_layers(recording: Recording, name: str) -> list[Step]:
    found = []
    for module in modules(recording):
        if module.name.split(".")[-1] == name and module.type == "Linear":
            return [_recorded_step(module.type, module.settings)]
        if re.fullmatch(rf"(.*\.)?{re.escape(name)}\.\d+", module.name):
            found.append(_recorded_step(module.type, module.settings))
    return found


def _recorded_step(kind: str, settings: Any) -> Step:
    return kind, tuple(settings.get(key, _UNKNOWN) for key in _ARGUMENTS.get(kind, ()))


def _served_transforms(tree: ast.Module, constants: dict[str, Any]) -> Iterator[list[Step]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) == "Compose":
            steps = _steps(node.args, constants)
            if steps:
                yield steps


def _recorded_transform(recording: Recording) -> list[Step]:
    """Return the transform of the loader that was evaluated, else of any, from its `repr`."""
    loaders = {fact["number"]: fact for fact in recording.facts("loader", rank=first_rank(recording))}
    passes = recording.facts("pass", rank=first_rank(recording))
    numbers = [fact["loader"] for mode in ("EVAL", "TRAIN") for fact in passes if fact["mode"] == mode]
    for number in numbers:
        text = (loaders.get(number) or {}).get("transform") or ""
        steps = [_from_repr(line.strip()) for line in text.splitlines()]
        known = [step for step in steps if step is not None]
        if known:
            return known
    return []


def _from_repr(line: str) -> Step | None:
    matched = re.fullmatch(r"(\w+)\((.*)\)", line)
    if not matched or matched[1] == "Compose":
        return None
    values = dict(re.findall(r"(\w+)=(\[[^\]]*\]|\([^)]*\)|[^,]+)", matched[2]))
    found = []
    for key in _ARGUMENTS.get(matched[1], ()):
        try:
            found.append(_plain(ast.literal_eval(values[key])))
        except (KeyError, ValueError, SyntaxError):
            found.append(_UNKNOWN)
    return matched[1], tuple(found)
