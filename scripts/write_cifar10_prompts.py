"""Write prompts/cifar10_prompts.csv: the published name of `write_prompts.py cifar10`, whose options it takes."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.argv.insert(1, "cifar10")
    runpy.run_path(str(Path(__file__).with_name("write_prompts.py")), run_name="__main__")
