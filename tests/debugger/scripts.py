"""Scripts that the tests run as a user would."""

from __future__ import annotations

TRAIN = """
import sys, torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3), nn.ReLU())
optimizer = torch.optim.Adam(model.parameters(), 0.01)
criterion = nn.CrossEntropyLoss()
images, labels = torch.randn(256, 6), torch.randint(0, 3, (256,))
print("arguments", sys.argv[1:])
for epoch in range(int(sys.argv[1])):
    model.train()
    for rows in torch.randperm(256).split(16):
        optimizer.zero_grad()
        loss = criterion(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        valid = criterion(model(images), labels).item()
    print(f"epoch {epoch} valid loss: {valid:.4f}")
"""

ENDLESS = TRAIN.replace("range(int(sys.argv[1]))", "iter(int, 1)")

RANKS = """
import os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch import nn

def work(rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.manual_seed(rank)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 3, (8,))).backward()
        optimizer.step()
    if rank == 0:
        torch.save(model.module.state_dict(), sys.argv[3])
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.start_processes(work, nprocs=2, start_method=sys.argv[1])
"""

# What is run under smdebug and under ours; it writes everything that a trial tells.
SMDEBUG = """
import json, sys
import numpy as np, torch
from torch import nn
import smdebug.pytorch as smd
from smdebug import modes

out, how = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.fc = nn.Sequential(nn.Linear(4 * 36, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        return self.fc(self.relu(x).flatten(1))

REDUCTIONS = [("min", 0), ("max", 0), ("mean", 0), ("std", 0), ("variance", 0), ("sum", 0), ("prod", 0)]
REDUCTIONS += [("mean", 1), ("max", 1), ("min", 1), ("l1", 0), ("l2", 0)]
net, criterion = Net(), nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), 0.05)
if how == "file":
    parameters = {"train.save_interval": "10", "eval.save_interval": "1"}
    json.dump({"LocalPath": out, "HookParameters": parameters}, open(out + ".json", "w"))
    hook = smd.Hook.create_from_json_file(out + ".json")
else:
    reduced = smd.ReductionConfig(
        reductions=[name for name, _ in REDUCTIONS[:7]], abs_reductions=["mean", "max", "min"], norms=["l1", "l2"]
    )
    hook = smd.Hook(
        out_dir=out,
        include_collections=["weights", "biases", "gradients", "losses", "own"],
        save_config=smd.SaveConfig(save_interval=10),
        reduction_config=reduced if how == "reduced" else None,
        include_regex=["relu_output", "relu_input"],
        save_all=how == "all",
    )
    hook.get_collection("own").include("^fc.*output")
hook.register_module(net)
hook.register_loss(criterion)
images, labels = torch.randn(53 * 8, 3, 8, 8), torch.randint(0, 5, (53 * 8,))

def passes(mode, count):
    if how != "modeless":
        hook.set_mode(mode)
    net.train(mode == modes.TRAIN)
    for rows in torch.arange(count * 8).split(8):
        with torch.set_grad_enabled(mode == modes.TRAIN):
            loss = criterion(net(images[rows]), labels[rows])
        if mode == modes.TRAIN:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

for _ in range(2):
    passes(modes.TRAIN, 53)
    passes(modes.EVAL, 7)
passes(modes.EVAL, 7)
hook.close()

trial = smd.create_trial(out)
told = {}
for mode in (modes.TRAIN, modes.EVAL, modes.GLOBAL):
    try:
        names = trial.tensor_names(mode=mode)
    except KeyError:
        continue
    for name in names:
        tensor = trial.tensor(name)
        for step in tensor.steps(mode=mode):
            if how == "reduced" and "loss" not in name.lower():
                value = [float(tensor.reduction_value(step, r, mode=mode, abs=bool(a))) for r, a in REDUCTIONS]
            else:
                value = np.asarray(tensor.value(step, mode=mode)).astype(float).ravel().tolist()
            told[f"{name} {mode.name} {step}"] = value
collections = ("weights", "gradients", "losses", "biases")
collections = {name: sorted(trial.tensor_names(collection=name)) for name in collections}
steps = {mode.name: list(trial.steps(mode=mode)) for mode in (modes.TRAIN, modes.EVAL)}
json.dump({"told": told, "collections": collections, "steps": steps, "file": smd.__file__}, open(out + ".told", "w"))
"""
