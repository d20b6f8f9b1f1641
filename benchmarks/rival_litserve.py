"""LitServe with our model, runtime and preprocessing: `PACKAGE=... python rival_litserve.py PORT`.

It reads JSON and forms only, so that it is sent each image as a form.
"""

import json
import os
import sys
from dataclasses import asdict

import litserve as ls
from fastapi import Request, Response

from finepoint.models.classifier import Prediction, load_classifier


class Api(ls.LitAPI):
    def setup(self, device: object) -> None:
        self.classifier = load_classifier(os.environ["PACKAGE"])

    def decode_request(self, request: Request) -> bytes:
        return request["file"].file.read()

    def predict(self, data: bytes) -> Prediction:
        return self.classifier.predict(data)

    def encode_response(self, output: Prediction) -> Response:
        return Response(json.dumps(asdict(output)), media_type="application/json")


if __name__ == "__main__":
    server = ls.LitServer(Api(api_path="/invocations"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
