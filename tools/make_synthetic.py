"""Render a synthetic person re-ID domain in Market-1501 layout into ``OUT/<domain>``.

Example: a source and a target domain for unsupervised adaptation::

    python tools/make_synthetic.py datasets/synthetic --domain campus --ids 100 --test-ids 60 --jobs 2
    python tools/make_synthetic.py datasets/synthetic --domain station --ids 100 --test-ids 60 --jobs 2
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from mlt.data.synthetic import DOMAINS, DomainSpec, render_domain


def parse_size(text: str) -> tuple[int, int]:
    """Read a size such as ``64x32`` as (height, width).

    Args:
        text: height x width in pixels.
    """
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted HEIGHTxWIDTH such as 64x32")
    return int(height), int(width)


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder that gets a sub-folder named like the domain")
    parser.add_argument("--domain", required=True, choices=DOMAINS, help="campus: bright, summer; station: dim, winter")
    parser.add_argument("--ids", type=int, default=DomainSpec.num_train_ids, help="training persons (%(default)s)")
    parser.add_argument("--test-ids", type=int, default=DomainSpec.num_test_ids, help="test persons (%(default)s)")
    parser.add_argument("--images", type=int, default=DomainSpec.images_per_id, help="per person (%(default)s)")
    parser.add_argument("--cams", type=int, default=DomainSpec.num_cams, help="cameras, 2 to 9 (%(default)s)")
    parser.add_argument("--seed", type=int, default=DomainSpec.seed, help="chooses persons and images (%(default)s)")
    parser.add_argument("--camera-seed", type=int, default=DomainSpec.camera_seed, help="chooses cameras (%(default)s)")
    parser.add_argument("--size", type=parse_size, default="64x32", help="HEIGHTxWIDTH in pixels (%(default)s)")
    parser.add_argument("--distractors", type=int, default=0, help="gallery images of strangers, pid 0 (%(default)s)")
    parser.add_argument("--junk", type=int, default=0, help="gallery images to be ignored, pid -1 (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes; the files do not depend on it (%(default)s)")
    return parser


def main() -> None:
    """Render the domain that the command line asks for and say what came out."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = get_parser()
    args = parser.parse_args()
    start = time.perf_counter()
    try:
        spec = DomainSpec(
            domain=args.domain,
            num_train_ids=args.ids,
            num_test_ids=args.test_ids,
            images_per_id=args.images,
            num_cams=args.cams,
            seed=args.seed,
            camera_seed=args.camera_seed,
            size=args.size,
            distractors=args.distractors,
            junk=args.junk,
        )
        result = render_domain(args.out / args.domain, spec, jobs=args.jobs)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    seconds = time.perf_counter() - start
    how = "was already there" if result.reused else f"rendered in {seconds:.1f} s"
    images = f"{result.num_train} train, {result.num_query} query and {result.num_gallery} gallery images"
    print(f"{result.folder}: {images}, {how}")


if __name__ == "__main__":
    main()
