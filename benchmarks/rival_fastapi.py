"""A PyTorch model behind HTTP as people write it by hand: `python rival_fastapi.py PORT`."""

import io
import sys

import timm
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from torchvision import transforms

app = FastAPI()
model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10).eval()
transform = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/invocations")
async def predict(request: Request) -> dict[str, float]:
    image = Image.open(io.BytesIO(await request.body())).convert("RGB")
    with torch.no_grad():
        probabilities = model(transform(image).unsqueeze(0)).softmax(dim=1)[0]
    return {str(index): float(value) for index, value in enumerate(probabilities)}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
