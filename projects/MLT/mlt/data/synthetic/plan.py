"""Which images there are: who is seen by which camera, and in which set of the Market-1501 layout it goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlt.data.synthetic.spec import DomainSpec, Stream

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
DISTRACTOR_PID, JUNK_PID = 0, -1


@dataclass(frozen=True)
class Shot:
    """One image to render: its set, person, camera (from 1) and number among the images of its pid."""

    folder: str
    pid: int
    cam: int
    index: int

    @property
    def name(self) -> str:
        """File name as in Market-1501: person, camera, sequence, frame, box."""
        pid = f"{self.pid:04d}" if self.pid >= 0 else str(self.pid)
        return f"{pid}_c{self.cam}s1_{self.index:06d}_{0 if self.folder == QUERY else 1:02d}.jpg"


def plan_shots(spec: DomainSpec) -> list[list[Shot]]:
    """Return the images of each pid, pids in ascending order, distractors and junk last.

    As in Market-1501, the test images of a person by one camera are one query and its gallery images, so every query
    has a match from another camera.

    Args:
        spec: the domain.
    """
    last = spec.num_train_ids + spec.num_test_ids
    groups = [_plan_person(spec, pid, train=pid <= spec.num_train_ids) for pid in range(1, last + 1)]
    extras = ((DISTRACTOR_PID, spec.distractors), (JUNK_PID, spec.junk))
    return groups + [
        [Shot(GALLERY, pid, index % spec.num_cams + 1, index) for index in range(count)] for pid, count in extras
    ]


def _plan_person(spec: DomainSpec, pid: int, *, train: bool) -> list[Shot]:
    rng = spec.rng(Stream.VISITS, pid)
    most = min(spec.num_cams, spec.images_per_id // 2)  # two images per camera make a query and its gallery
    visits = int(rng.integers(max(2, most - 2), most + 1))
    cams = np.sort(rng.permutation(spec.num_cams)[:visits]) + 1
    shots = []
    for index in range(spec.images_per_id):
        first = index < visits
        folder = TRAIN if train else QUERY if first else GALLERY
        shots.append(Shot(folder, pid, int(cams[index % visits]), index))
    return shots
