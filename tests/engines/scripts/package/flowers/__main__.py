import importlib.metadata
import sys

print("flowers", importlib.metadata.version("flowers-of-a-test"), sys.argv[1:])
