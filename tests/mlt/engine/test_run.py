from __future__ import annotations

from pathlib import Path

import pytest

from mlt.engine.run import argument_parser, load_cfg, run


def parse(*words: str):
    return argument_parser().parse_args(list(words))


class TestCommandLine:
    def test_defaults(self):
        args = parse()
        assert (args.config_file, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url) == (
            "", 1, 1, 0, "auto"
        )  # fmt: skip
        assert not args.resume
        assert not args.eval_only
        assert load_cfg(args).is_frozen()

    def test_file_then_words(self, tmp_path):
        (tmp_path / "a.yml").write_text("SEED: 3\nSOLVER:\n  BASE_LR: 0.5\n")
        cfg = load_cfg(parse("--config-file", str(tmp_path / "a.yml"), "--resume", "SEED", "4"))
        assert (cfg.SEED, cfg.SOLVER.BASE_LR) == (4, 0.5)

    def test_no_file(self):
        with pytest.raises(FileNotFoundError, match=r"No config file 'gone\.yml'"):
            load_cfg(parse("--config-file", "gone.yml"))

    def test_unknown_key_in_the_file(self, tmp_path):
        (tmp_path / "a.yml").write_text("SOLVER:\n  BASE_LT: 0.5\n")
        with pytest.raises(KeyError, match=r"'SOLVER.BASE_LT'. Did you mean 'SOLVER.BASE_LR'.*a\.yml"):
            load_cfg(parse("--config-file", str(tmp_path / "a.yml")))

    @pytest.mark.parametrize(
        ("words", "error", "message"),
        [
            (("SEDE", "4"), KeyError, "'SEDE'. Did you mean 'SEED'.* on the command line"),
            (("SEED",), ValueError, "Options come as KEY VALUE pairs"),
            (("SEED", "four"), ValueError, "SEED 'four' on the command line"),
        ],
    )
    def test_wrong_words(self, words, error, message):
        with pytest.raises(error, match=message):
            load_cfg(parse(*words))


def test_evaluation_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("mlt.engine.run.setup_logger", lambda *_, **__: None)  # it would stay after the test
    with pytest.raises(ValueError, match=r"--eval-only needs weights: add MODEL\.WEIGHTS path/to/model\.pth"):
        run(load_cfg(parse("OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu")), eval_only=True)


@pytest.mark.parametrize("folder", ["", "file", "file/below"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(OSError, match=rf"OUTPUT_DIR '{folder}' cannot be made: .*; choose a folder to write to"):
        run(load_cfg(parse("OUTPUT_DIR", folder, "MODEL.DEVICE", "cpu")))


def test_a_folder_that_holds_a_run(tmp_path: Path):
    (tmp_path / "last_checkpoint").write_text("model_last.pth")
    with pytest.raises(
        FileExistsError, match=r"already holds a run\. Add --resume to go on with it, or choose another"
    ):
        run(load_cfg(parse("OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu")))
    assert [path.name for path in tmp_path.iterdir()] == ["last_checkpoint"]
