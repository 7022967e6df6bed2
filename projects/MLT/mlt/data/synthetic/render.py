"""From a spec to a folder: render in parallel, and reuse what was rendered before."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

from mlt.data.synthetic.camera import sample_camera
from mlt.data.synthetic.identity import sample_identity
from mlt.data.synthetic.person import Person
from mlt.data.synthetic.plan import DISTRACTOR_PID, GALLERY, JUNK_PID, QUERY, TRAIN, Shot, plan_shots
from mlt.data.synthetic.shot import Stage, shoot
from mlt.data.synthetic.spec import DomainSpec, Stream
from mlt.data.synthetic.style import STYLES

MANIFEST = "manifest.json"
GENERATOR = 1  # raise it when the same spec gives other images, so that old folders are rendered again

_UNFINISHED = MANIFEST + ".partial"
_PASSERS_BY = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RenderResult:
    """Where the images are, how many, and whether they were there before."""

    folder: Path
    num_train: int
    num_query: int
    num_gallery: int
    reused: bool


def render_domain(folder: str | os.PathLike[str], spec: DomainSpec, *, jobs: int = 1) -> RenderResult:
    """Render a domain into a folder that then holds ``bounding_box_train``, ``query`` and ``bounding_box_test``.

    A folder with the same spec is reused; one with another spec, or left unfinished, is rendered again. The files do
    not depend on ``jobs``. One process at a time may render into a folder.

    Args:
        folder: made if missing.
        spec: what to render.
        jobs: processes, at least 1.

    Raises:
        ValueError: ``jobs`` is below 1.
        FileExistsError: the folder holds images that did not come from here; nothing is touched.
    """
    if jobs < 1:
        raise ValueError(f"jobs: got {jobs}, wanted at least 1.")
    root = Path(folder)
    groups = plan_shots(spec)
    counts = Counter(shot.folder for group in groups for shot in group)
    manifest = json.dumps({"generator": GENERATOR, "spec": asdict(spec), "images": dict(counts)}, indent=2) + "\n"
    reused = _is_complete(root, manifest, counts)
    if not reused:
        _clear(root)
        (root / _UNFINISHED).write_text(manifest)
        for name in (TRAIN, QUERY, GALLERY):
            (root / name).mkdir()
        _render_groups(root, spec, groups, jobs)
        os.replace(root / _UNFINISHED, root / MANIFEST)
    return RenderResult(root, counts[TRAIN], counts[QUERY], counts[GALLERY], reused)


def _is_complete(root: Path, manifest: str, counts: Counter[str]) -> bool:
    path = root / MANIFEST
    if not path.is_file():
        return False
    if path.read_text() != manifest:
        logger.warning("%s holds another synthetic domain; rendering it again.", root)
        return False
    for name, count in counts.items():
        found = sum(1 for _ in (root / name).glob("*.jpg"))
        if found != count:
            logger.warning("%s holds %d images instead of %d; rendering it again.", root / name, found, count)
            return False
    return True


def _clear(root: Path) -> None:
    """Make room, but only where a manifest shows that the images came from here."""
    root.mkdir(parents=True, exist_ok=True)
    ours = any((root / name).is_file() for name in (MANIFEST, _UNFINISHED))
    sets = [root / name for name in (TRAIN, QUERY, GALLERY) if (root / name).exists()]
    if sets and not ours:
        raise FileExistsError(f"{sets[0]} was not rendered by this generator: choose another folder or remove it.")
    if (root / _UNFINISHED).is_file():
        logger.warning("%s was left unfinished; rendering it again.", root)
    (root / _UNFINISHED).touch()  # before the manifest goes, so that the folder is ours at any moment
    (root / MANIFEST).unlink(missing_ok=True)
    for path in sets:
        shutil.rmtree(path)


class _Renderer:
    """What each process makes once: cameras and passers-by."""

    def __init__(self, root: Path, spec: DomainSpec) -> None:
        self.root, self.spec, self.style = root, spec, STYLES[spec.domain]
        passers_by = [self._person(Stream.STRANGER, index) for index in range(_PASSERS_BY)]
        self.stages = [
            Stage(
                sample_camera(spec.rng(Stream.CAMERA, cam), self.style, spec.size),
                passers_by,
                self.style.sun,
                spec.size,
            )
            for cam in range(spec.num_cams)
        ]

    def _person(self, stream: Stream, number: int) -> Person:
        return Person(sample_identity(self.spec.rng(stream, number), winter=self.style.winter))

    def render(self, group: list[Shot]) -> None:
        person = None
        for shot in group:
            rng = self.spec.rng(Stream.SHOT, shot.pid + 1, shot.index)
            if shot.pid in (DISTRACTOR_PID, JUNK_PID):
                person = self._stranger(shot)
            elif person is None:
                person = self._person(Stream.PERSON, shot.pid)
            image = shoot(self.stages[shot.cam - 1], person, rng, miscropped=shot.pid == JUNK_PID)
            (self.root / shot.folder / shot.name).write_bytes(image)

    def _stranger(self, shot: Shot) -> Person | None:
        if shot.pid == DISTRACTOR_PID and shot.index % 4 == 0:  # a false detection
            return None
        return self._person(Stream.STRANGER, _PASSERS_BY + 2 * shot.index + shot.pid + 1)


@lru_cache(maxsize=1)
def _renderer(root: Path, spec: DomainSpec) -> _Renderer:
    return _Renderer(root, spec)


def _render_in_worker(root: Path, spec: DomainSpec, group: list[Shot]) -> None:
    _renderer(root, spec).render(group)


def _render_groups(root: Path, spec: DomainSpec, groups: list[list[Shot]], jobs: int) -> None:
    if jobs == 1:
        renderer = _Renderer(root, spec)
        for group in groups:
            renderer.render(group)
        return
    context = multiprocessing.get_context("spawn")  # the same on every system, and safe beside CUDA and threads
    with context.Pool(jobs) as pool:
        for _ in pool.imap_unordered(partial(_render_in_worker, root, spec), groups, chunksize=4):
            pass
