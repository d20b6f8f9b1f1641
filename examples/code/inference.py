# Serves what train_model.py left: images in, probabilities out.
import io
import json
import os

import torch
import torchvision.models as models
import torchvision.transforms as transforms
from PIL import Image


def model_fn(model_dir):
    state = torch.load(os.path.join(model_dir, "model.pth"), map_location="cpu", weights_only=True)
    model = models.resnet18()
    classes = state["fc.2.weight"].shape[0]
    model.fc = torch.nn.Sequential(
        torch.nn.Linear(model.fc.in_features, 32), torch.nn.ReLU(inplace=True), torch.nn.Linear(32, classes)
    )
    model.load_state_dict(state)
    return model.eval()


def input_fn(request_body, content_type):
    if content_type != "image/jpeg":
        raise ValueError(f"{content_type} is not image/jpeg")
    image = Image.open(io.BytesIO(request_body)).convert("RGB")
    transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    return transform(image).unsqueeze(0)


def predict_fn(data, model):
    with torch.no_grad():
        return torch.softmax(model(data), 1)


def output_fn(prediction, accept):
    return json.dumps(prediction.tolist()), "application/json"
