# Trains the best: smdebug's hook on the model and the loss, as public scripts for SageMaker have it.
import argparse
import os

import smdebug.pytorch as smd
import torch
import torch.nn as nn
import torch.optim as optim
import torchvision
import torchvision.models as models
import torchvision.transforms as transforms


def net(classes):
    model = models.resnet18(weights="IMAGENET1K_V1")  # from TORCH_HOME
    for param in model.parameters():
        param.requires_grad = False
    num_features = model.fc.in_features
    model.fc = nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(inplace=True), nn.Linear(32, classes))
    return model


def loader(folder, batch_size, shuffle):
    transform = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    data = torchvision.datasets.ImageFolder(root=folder, transform=transform)
    return torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=shuffle), len(data.classes)


def train(model, train_loader, criterion, optimizer, hook):
    hook.set_mode(smd.modes.TRAIN)
    model.train()
    for data, target in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(data), target)
        loss.backward()
        optimizer.step()


def validate(model, valid_loader, criterion, hook):
    hook.set_mode(smd.modes.EVAL)
    model.eval()
    running_loss, running_corrects = 0, 0
    for data, target in valid_loader:
        outputs = model(data)
        loss = criterion(outputs, target)
        running_loss += loss.item() * data.size(0)
        running_corrects += torch.sum(outputs.argmax(1) == target).item()
    total = len(valid_loader.dataset)
    print(f"Validation: Average loss: {running_loss / total:.4f}, Accuracy: {running_corrects}/{total}", flush=True)


def main(args):
    train_loader, classes = loader(args.data_dir, args.batch_size, True)
    valid_loader, _ = loader(args.valid_dir, args.batch_size, False)
    model = net(classes)
    hook = smd.Hook.create_from_json_file()
    hook.register_hook(model)
    criterion = nn.CrossEntropyLoss()
    hook.register_loss(criterion)
    optimizer = optim.Adam(model.fc.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        train(model, train_loader, criterion, optimizer, hook)
        validate(model, valid_loader, criterion, hook)
    torch.save(model.state_dict(), os.path.join(args.model_dir, "model.pth"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--data_dir", type=str, default=os.environ["SM_CHANNEL_TRAIN"])
    parser.add_argument("--valid_dir", type=str, default=os.environ["SM_CHANNEL_VALID"])
    parser.add_argument("--model_dir", type=str, default=os.environ["SM_MODEL_DIR"])
    main(parser.parse_args())
