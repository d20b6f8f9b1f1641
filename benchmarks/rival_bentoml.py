"""BentoML with our model, runtime and preprocessing: `PACKAGE=... python rival_bentoml.py PORT`."""

import os
import sys
from dataclasses import asdict
from pathlib import Path

import bentoml

from finepoint.models.classifier import load_classifier


# With one thread, which is its default, it gave half as many answers a second here; a second worker gained less.
@bentoml.service(workers=1, threads=os.cpu_count())
class Classifier:
    def __init__(self) -> None:
        self.classifier = load_classifier(os.environ["PACKAGE"])

    @bentoml.api(route="/invocations")
    def classify(self, image: Path, /) -> dict:
        return asdict(self.classifier.predict(image.read_bytes()))


if __name__ == "__main__":
    here = Path(__file__)
    service = f"{here.stem}:{Classifier.name}"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--working-dir", str(here.parent)]
    os.execv(command[0], [*command, "--host", "127.0.0.1", "--port", sys.argv[1]])
