"""The official PyTorch inference toolkit's Transformer with a usual handler: `python rival_toolkit.py PORT`.

The toolkit's own server is TorchServe, in Java; here uvicorn hands the Transformer each body, one at a time, as one of
TorchServe's workers does.
"""

import io
import sys
import tempfile
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image
from sagemaker_inference.transformer import Transformer
from sagemaker_pytorch_serving_container.default_pytorch_inference_handler import DefaultPytorchInferenceHandler

HANDLER = """
import io, timm, torch
from PIL import Image
from torchvision import transforms

transform = transforms.Compose([
    transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])

def model_fn(folder):
    return timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10).eval()

def input_fn(body, content_type):
    return transform(Image.open(io.BytesIO(body)).convert("RGB")).unsqueeze(0)

def predict_fn(images, model):
    with torch.no_grad():
        return model(images).softmax(dim=1)
"""


class Context:
    """What TorchServe hands the toolkit: a request's headers there, a status back."""

    def __init__(self, folder: str) -> None:
        self.system_properties = {"model_dir": folder}
        self.request_processor = [self]
        self.headers: dict[str, str] = {}
        self.status = 200

    def get_request_properties(self) -> dict[str, str]:
        return self.headers

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status = code

    def set_response_content_type(self, index: int, value: str) -> None:
        """The measuring client does not look at it."""


app = FastAPI()
folder = tempfile.mkdtemp()
(Path(folder) / "code").mkdir()
(Path(folder) / "code" / "inference.py").write_text(HANDLER)
sys.path.insert(0, f"{folder}/code")
context = Context(folder)
transformer = Transformer(default_inference_handler=DefaultPytorchInferenceHandler())


def transformed(body: bytes, kind: str) -> bytes:
    context.headers, context.status = {"Content-Type": kind, "Accept": "application/json"}, 200
    (answer,) = transformer.transform([{"body": bytearray(body)}], context)
    return answer.encode() if isinstance(answer, str) else bytes(answer)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/invocations")
async def predict(request: Request) -> Response:
    answer = transformed(await request.body(), request.headers["content-type"])
    return Response(answer, context.status)


if __name__ == "__main__":
    first = io.BytesIO()
    Image.new("RGB", (400, 533)).save(first, "JPEG")
    transformed(first.getvalue(), "image/jpeg")  # loads the model, before anybody asks
    assert context.status == 200
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
