"""Write prompts/cifar10_prompts.csv: the published name of `write_prompts.py cifar10`, whose options it takes."""

import runpy
from pathlib import Path

from diffusion.evaluate import options

if __name__ == "__main__":
    main = runpy.run_path(str(Path(__file__).with_name("write_prompts.py")))["main"]
    options.run(lambda argv: main(["cifar10", *argv]))
