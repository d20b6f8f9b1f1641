# Takes no arguments: everything is read from SM_HPS, SM_TRAINING_ENV and the files of input/config.
import json
import os
import pathlib

hps = json.loads(os.environ["SM_HPS"])
env = json.loads(os.environ["SM_TRAINING_ENV"])
config = pathlib.Path(os.environ["SM_INPUT_CONFIG_DIR"])
raw = json.loads((config / "hyperparameters.json").read_text())
assert {key: json.loads(value) for key, value in raw.items()} == hps == env["hyperparameters"]
assert sorted(json.loads((config / "inputdataconfig.json").read_text())) == json.loads(os.environ["SM_CHANNELS"])
result = {"layers": hps["layers"], "channels": env["channel_input_dirs"], "host": env["current_host"]}
pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "result.json").write_text(json.dumps(result))
pathlib.Path("/opt/ml/output/data/literal.txt").write_text(
    pathlib.Path("/opt/ml/input/config/resourceconfig.json").read_text()
)
