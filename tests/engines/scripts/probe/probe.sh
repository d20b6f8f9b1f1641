#!/bin/sh
for argument in "$@"; do printf '[%s]\n' "$argument"; done > "$SM_OUTPUT_DATA_DIR/arguments.txt"
pwd > "$SM_OUTPUT_DATA_DIR/pwd.txt"
