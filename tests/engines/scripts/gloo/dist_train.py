# Several hosts without a launcher: rank and world from SM_HOSTS, the first host's name as the master's address.
import argparse
import json
import os

import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("--backend", default="gloo")
parser.add_argument("--hosts", type=json.loads, default=os.environ["SM_HOSTS"])
parser.add_argument("--current-host", default=os.environ["SM_CURRENT_HOST"])
args = parser.parse_args()
if "RANK" not in os.environ:
    os.environ["MASTER_ADDR"] = args.hosts[0]
    os.environ["WORLD_SIZE"] = str(len(args.hosts))
    os.environ["RANK"] = str(args.hosts.index(args.current_host))
dist.init_process_group(args.backend)
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print(f"host {args.current_host} rank {dist.get_rank()} of {dist.get_world_size()} total {total.item():g}")
if dist.get_rank() == 0:
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "total.txt"), "w") as f:
        f.write(f"{total.item():g}")
else:
    with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], f"{args.current_host}.txt"), "w") as f:
        f.write("seen")
dist.barrier()
dist.destroy_process_group()
