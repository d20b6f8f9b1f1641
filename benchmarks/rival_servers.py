"""Servers to compare with, in an environment of their own: `python rival_servers.py KIND PACKAGE PORT`.

`fastapi` is how a PyTorch model is put behind HTTP by hand; `litserve` has our model, runtime and preprocessing.
"""

import io
import os
import sys

KIND, PACKAGE, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])


def fastapi() -> None:
    import timm
    import torch
    import uvicorn
    from fastapi import FastAPI, Request
    from PIL import Image
    from torchvision import transforms

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10).eval()
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/invocations")
    async def predict(request: Request) -> dict[str, float]:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        with torch.no_grad():
            probabilities = model(transform(image).unsqueeze(0)).softmax(dim=1)[0]
        return {str(index): float(value) for index, value in enumerate(probabilities)}

    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")


def litserve() -> None:
    import litserve as ls
    from fastapi import Request, Response

    class Api(ls.LitAPI):
        def setup(self, device: object) -> None:
            from finepoint.models.classifier import load_classifier

            self.classifier = load_classifier(PACKAGE)

        async def decode_request(self, request: Request) -> bytes:
            return await request.body()

        def predict(self, data: bytes) -> object:
            return self.classifier.predict(data)

        def encode_response(self, output: object) -> Response:
            import json
            from dataclasses import asdict

            return Response(json.dumps(asdict(output)), media_type="application/json")

    workers = int(os.environ.get("LITSERVE_WORKERS", "1"))
    server = ls.LitServer(Api(api_path="/invocations"), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": litserve}[KIND]()
