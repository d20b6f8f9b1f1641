# Writes down everything that a script can see of its place, and then does as it is told.
import json
import os
import sys

base = os.environ["SAGEMAKER_BASE_DIR"]
seen = {
    "argv": sys.argv,
    "cwd": os.getcwd(),
    "path0": sys.path[0],
    "imports_from_code": os.path.dirname(__import__("beside").__file__),
    "stdin": sys.stdin.read() if not sys.stdin.isatty() else "terminal",
    "environment": dict(os.environ),
    "folders": sorted(
        os.path.relpath(os.path.join(root, name), base)
        for root, names, _ in os.walk(base, followlinks=True)
        for name in names
        if name != "__pycache__"
    ),
    "files": {
        name: json.load(open(os.path.join(base, "input", "config", f"{name}.json")))
        for name in ("hyperparameters", "inputdataconfig", "resourceconfig")
    },
}
with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "probe.json"), "w") as f:
    json.dump(seen, f)
end = os.environ.get("SM_HP_END", "well")
if end == "raise":
    raise ValueError("as told")
if end == "kill":
    os.kill(os.getpid(), 9)
if end.startswith("exit"):
    sys.exit(int(end[4:]))
