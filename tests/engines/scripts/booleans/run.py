# In the style of Hugging Face's example scripts: boolean flags with a value, --output_dir, the channels under input/data.
import argparse
import json
import os


def boolean(text):
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(text)


parser = argparse.ArgumentParser()
parser.add_argument("--do_train", type=boolean, nargs="?", const=True, default=False)
parser.add_argument("--do_eval", type=boolean, nargs="?", const=True, default=False)
parser.add_argument("--output_dir", required=True)
parser.add_argument("--model_name_or_path", default="none")
parser.add_argument("--per_device_train_batch_size", type=int, default=8)
args = parser.parse_args()
os.makedirs(args.output_dir, exist_ok=True)
if args.do_train:
    with open(os.path.join(args.output_dir, "trained.json"), "w") as f:
        json.dump(vars(args), f)
    with open("/opt/ml/checkpoints/state.txt", "a") as f:
        f.write("started\n")
print("eval_loss = 0.125" if args.do_eval else "not evaluated")
