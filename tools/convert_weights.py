#!/usr/bin/env python
"""Write a checkpoint in the format of another toolbox.

    python tools/convert_weights.py model_best.pth fastreid.pth --to fastreid
    python tools/convert_weights.py model_best.pth resnet.pth --to torchvision

Reads what MODEL.WEIGHTS reads: our checkpoints and those of MMT, SpCL, ClusterContrast, OpenUnReID, UDAStrongBaseline,
FastReID, IBN-a and torchvision. Of several nets the teacher is written, of two batch norms the target's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from mlt.modeling.weights import identify, stem_differences, to_fastreid, to_torchvision
from mlt.utils.checkpoint import load_checkpoint, save_checkpoint
from mlt.utils.user_errors import one_message

WRITERS: dict[str, Callable] = {"fastreid": to_fastreid, "torchvision": to_torchvision}


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="checkpoint to read")
    parser.add_argument("output", help="file to write")
    parser.add_argument("--to", required=True, choices=list(WRITERS), help="format")
    parser.add_argument("--domain", default="target", choices=["target", "source"], help="of two batch norms, which")
    return parser


@one_message()
def main(words: Sequence[str] | None = None) -> None:
    """Convert what the command line names.

    Args:
        words: the command line; None = this process's.
    """
    args = get_parser().parse_args(words)
    content = load_checkpoint(args.weights)
    state = WRITERS[args.to](content, domain=args.domain)
    save_checkpoint(state, args.output)
    print(f"{args.output}: {len(state.get('model', state))} tensors, from names of {identify(content).name}")
    for difference in stem_differences(content, args.to):
        print(f"Careful: the features will differ, because the weights were trained with {difference}")


if __name__ == "__main__":
    main()
