"""MLServer with our model, runtime and preprocessing: `PACKAGE=... python rival_mlserver.py PORT`.

Its own protocol wraps an image in JSON and base64; a handler with a path of its own, as its guide describes, is spared
that. Without parallel workers, since that was the fastest here: one model on all cores.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from fastapi import Request, Response
from mlserver import MLModel
from mlserver.handlers import custom_handler

from finepoint.models.classifier import load_classifier


class Classifier(MLModel):
    async def load(self) -> bool:
        self.classifier = load_classifier(os.environ["PACKAGE"])
        return True

    @custom_handler(rest_path="/invocations")
    async def classify(self, request: Request) -> Response:
        found = self.classifier.predict(await request.body())
        return Response(json.dumps(asdict(found)), media_type="application/json")


if __name__ == "__main__":
    from serving_processes import free_port  # not above: the server needs nothing of what that imports

    here, folder = Path(__file__), Path(tempfile.mkdtemp())
    ports = {"http_port": int(sys.argv[1]), "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "classifier", "implementation": f"{here.stem}.{Classifier.__name__}"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] += f":{here.parent}"
    start = "from mlserver.cli import main; main()"
    os.execv(sys.executable, [sys.executable, "-c", start, "start", str(folder)])
