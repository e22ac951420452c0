"""Several trainings, one after the other, each in a process of its own: torch and transformers are imported once.

$ torchrun --standalone --nproc-per-node 2 -m tests.training.train_in_turn ONE.yaml 40001 OTHER.yaml 40002

Each is followed by a free port, where its processes meet: torchrun's store is for one meeting.
"""

import os
import sys
from multiprocessing import get_context

from training.train import main


def train_one(config: str, port: str) -> None:
    """Run the command line of training."""
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}
    sys.argv[1:] = [config]
    main()


if __name__ == "__main__":
    for config, port in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        process = get_context("fork").Process(target=train_one, args=(config, port))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
