#!/bin/bash
# Positional: "$2" is the value of the first hyperparameter by name.
set -eu
echo "arguments: $# first: $1 value: $2"
wc -l < "$SM_CHANNEL_TRAIN/lines.txt" > "$SM_MODEL_DIR/count.txt"
echo "greeting: $SM_HP_GREETING"
