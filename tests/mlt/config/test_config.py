"""Config files and options: inheritance, types, and errors that name the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from yacs.config import CfgNode as YacsNode

from mlt.config import CfgNode, add_mlt_config, configurable, get_cfg
from mlt.config.config import read_yaml, save_cfg


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def merged(folder: Path, text: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(write(folder, "config.yml", text))
    return cfg


# --- _BASE_


def test_nearer_files_win_over_bases_and_later_bases_over_earlier(tmp_path: Path) -> None:
    write(tmp_path, "a.yml", "SEED: 1\nSOLVER: {MAX_EPOCH: 1, GAMMA: 0.5}")
    write(tmp_path, "sub/b.yml", "_BASE_: ../a.yml\nSEED: 2\nSOLVER: {MAX_EPOCH: 2}")
    write(tmp_path, "c.yml", "SOLVER: {MAX_EPOCH: 3}")
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "top.yml", "_BASE_: [sub/b.yml, c.yml]\nOUTPUT_DIR: here"))
    assert (cfg.SEED, cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.GAMMA, cfg.OUTPUT_DIR) == (2, 3, 0.5, "here")
    assert cfg.SOLVER.BASE_LR == get_cfg().SOLVER.BASE_LR


def test_two_files_may_share_a_base(tmp_path: Path) -> None:
    write(tmp_path, "root.yml", "SEED: 4")
    write(tmp_path, "a.yml", "_BASE_: root.yml")
    write(tmp_path, "b.yml", "_BASE_: root.yml")
    assert read_yaml(write(tmp_path, "top.yml", "_BASE_: [a.yml, b.yml]")) == {"SEED": 4}


def test_circle_is_shown(tmp_path: Path) -> None:
    write(tmp_path, "a.yml", "_BASE_: b.yml")
    write(tmp_path, "b.yml", "_BASE_: a.yml")
    with pytest.raises(ValueError, match=r"_BASE_ goes in a circle: .*a\.yml -> .*b\.yml -> .*a\.yml"):
        read_yaml(str(tmp_path / "a.yml"))


def test_missing_base_names_who_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.yml' \(named by _BASE_ of .*top\.yml"):
        read_yaml(write(tmp_path, "top.yml", "_BASE_: gone.yml"))
    with pytest.raises(FileNotFoundError, match=r"No config file .*nothing\.yml"):
        read_yaml(str(tmp_path / "nothing.yml"))


@pytest.mark.parametrize("base", ["3", "{a: b}", "[a.yml, 3]"])
def test_base_of_a_wrong_kind(tmp_path: Path, base: str) -> None:
    write(tmp_path, "a.yml", "")
    with pytest.raises(ValueError, match="_BASE_ must be a file name or a list of them"):
        read_yaml(write(tmp_path, "top.yml", f"_BASE_: {base}"))


def test_stage_one_config_is_named_beside_its_file_and_survives_saving(tmp_path: Path) -> None:
    config = write(tmp_path, "sub/top.yml", "PRETRAIN: {CONFIG_FILE: ../pretrain.yml}")
    cfg = get_cfg()
    cfg.merge_from_file(config)
    found: str = cfg.PRETRAIN.CONFIG_FILE
    assert found == str(tmp_path / "pretrain.yml")
    (tmp_path / "logs").mkdir()
    save_cfg(cfg, str(tmp_path / "logs/config.yaml"))
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "logs/config.yaml"))
    assert again == cfg


# --- YAML


def test_not_yaml_not_a_mapping_unsafe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_yaml(write(tmp_path, "a.yml", "SEED: [1"))
    with pytest.raises(ValueError, match="must hold a mapping of config keys, got list"):
        read_yaml(write(tmp_path, "a.yml", "- SEED"))
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_yaml(write(tmp_path, "a.yml", "SEED: !!python/object/apply:os.getcwd []"))


def test_a_key_given_twice_is_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key 'SOLVER' stands twice"):
        read_yaml(write(tmp_path, "a.yml", "SOLVER: {MAX_EPOCH: 3}\nSEED: 1\nSOLVER: {GAMMA: 0.5}"))


def test_empty_file_and_empty_section_change_nothing(tmp_path: Path) -> None:
    assert merged(tmp_path, "") == get_cfg()
    assert merged(tmp_path, "SOLVER:\n  # MAX_EPOCH: 3\n") == get_cfg()
    write(tmp_path, "base.yml", "SOLVER: {MAX_EPOCH: 3}")
    assert merged(tmp_path, "_BASE_: base.yml\nSOLVER:\n").SOLVER.MAX_EPOCH == 3


# --- unknown keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: {BASE_LRR: 1.0}", "No config key 'SOLVER.BASE_LRR'. Did you mean 'SOLVER.BASE_LR'"),
        ("PSEUDO_LABEL: {ROUNDS: 3}", "No config key 'PSEUDO_LABEL'"),
        ("SOLVER: 3", "SOLVER.* is a section, not a value; its keys: SOLVER.MAX_EPOCH"),
        ("SEED: {X: 3}", "SEED.* is a value, not a section: it has no keys X"),
        ("1: 3", "No config key '1'"),
    ],
)
def test_bad_keys_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(KeyError, match=message.replace("(", r"\(")) as error:
        merged(tmp_path, text)
    assert "config.yml" in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("SOLVER.BASE_LRR", "No config key 'SOLVER.BASE_LRR'. Did you mean 'SOLVER.BASE_LR'.*on the command line"),
        ("MODEL", "MODEL on the command line is a section, not a value"),
        ("SEED.X", "SEED on the command line is a value, not a section: it has no keys X"),
    ],
)
def test_bad_keys_on_the_command_line(key: str, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        get_cfg().merge_from_list([key, "3"])


def test_options_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="KEY VALUE pairs, got 3 words: SEED 1 OUTPUT_DIR"):
        get_cfg().merge_from_list(["SEED", "1", "OUTPUT_DIR"])


# --- types


@pytest.mark.parametrize(
    ("key", "written", "wanted"),
    [
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.BASE_LR", "3e-4", 3e-4),  # YAML 1.1 takes this for text
        ("SOLVER.STEPS", "[1, 2]", [1, 2]),
        ("SOLVER.STEPS", "7", [7]),
        ("SOLVER.STEPS", "()", []),
        ("PRETRAIN.SEEDS", "(1, 2)", (1, 2)),
        ("PSEUDO_LABELS.NUM_CLUSTERS", "500", (500,)),
        ("DATASETS.NAMES", "Market1501", ("Market1501",)),
        ("DATASETS.NAMES", '("Market1501","DukeMTMC",)', ("Market1501", "DukeMTMC")),  # FastReID's way in YAML
        ("DATASETS.TESTS", "()", ()),
        ("DATASETS.NAMES", "csv@a b/c.csv", ("csv@a b/c.csv",)),
        ("OUTPUT_DIR", "2024", "2024"),  # a name, not a number
        ("MODEL.DEVICE", "cpu", "cpu"),
        ("MEAN_TEACHER.ENABLED", "False", False),
    ],
)
def test_values_as_people_write_them(tmp_path: Path, key: str, written: str, wanted: object) -> None:
    from_list = get_cfg()
    from_list.merge_from_list([key, written])
    parents = key.split(".")
    quoted = written if written.startswith("[") else f"'{written}'"
    text = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(parents))
    from_file = merged(tmp_path, text.rstrip("\n") + f" {quoted}\n")
    for cfg in (from_list, from_file):
        value = cfg
        for part in parents:
            value = value[part]
        assert value == wanted
        assert type(value) is type(wanted)


def test_empty_option_is_an_empty_tuple() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TESTS", "", "MODEL.WEIGHTS", ""])
    assert cfg.DATASETS.TESTS == ()
    assert cfg.MODEL.WEIGHTS == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [("SEED", "many"), ("SEED", "1.5"), ("SOLVER.BASE_LR", "True"), ("MEAN_TEACHER.ENABLED", "1"), ("SEED", "[1]")],
)
def test_wrong_types_name_key_and_place(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{key} '.*' on the command line: Type mismatch.*{key}"):
        get_cfg().merge_from_list([key, value])
    section, _, leaf = key.rpartition(".")
    with pytest.raises(ValueError, match=rf"config\.yml: Type mismatch.*{key}"):
        merged(tmp_path, f"{section}: {{{leaf}: {value}}}" if section else f"{leaf}: {value}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.SIZE_TRAIN", "['64', '32']", "SIZE_TRAIN lists '64', a str; wanted int alone, as"),
        ("SOLVER.STEPS", "[1.5]", "STEPS lists 1.5, a float; wanted int alone"),
        ("MODEL.LOSSES.NAME", "[1]", "NAME lists 1, a int; wanted str alone"),
        ("PRETRAIN.WEIGHTS", "[1]", "WEIGHTS lists 1, a int; wanted str alone"),
        ("PRETRAIN.SEEDS", "[True]", "SEEDS lists True, a bool; wanted int alone"),
        ("MODEL.PIXEL_MEAN", "[[1, 2, 3]]", "PIXEL_MEAN lists .*, a list; wanted float alone"),
    ],
)
def test_what_a_list_holds_is_checked(tmp_path: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"on the command line: {message}"):
        get_cfg().merge_from_list([key, value])
    section, _, leaf = key.rpartition(".")
    head, _, tail = section.partition(".")
    text = f"{head}: {{{tail}: {{{leaf}: {value}}}}}" if tail else f"{head}: {{{leaf}: {value}}}"
    with pytest.raises(ValueError, match=message):
        merged(tmp_path, text)


def test_values_of_no_config_type(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.yml: OUTPUT_DIR is a date; wanted str, as 'logs/run'"):
        merged(tmp_path, "OUTPUT_DIR: 2020-01-01")
    with pytest.raises(ValueError, match=r"SOLVER.BASE_LR '\{1\}' on the command line: BASE_LR is a set; wanted float"):
        get_cfg().merge_from_list(["SOLVER.BASE_LR", "{1}"])


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.yml").write_bytes("OUTPUT_DIR: café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yml is not UTF-8 text: .*; save it as UTF-8"):
        read_yaml(str(tmp_path / "latin.yml"))


def test_null_is_no_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="OUTPUT_DIR is null; leave it out"):
        merged(tmp_path, "OUTPUT_DIR:")
    with pytest.raises(ValueError, match="SEED 'None' on the command line: SEED is null"):
        get_cfg().merge_from_list(["SEED", "None"])


def test_saved_config_reads_back_equal(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["PSEUDO_LABELS.NUM_CLUSTERS", "(5, 6)", "DATASETS.TESTS", "()", "OUTPUT_DIR", "0123"])
    save_cfg(cfg, str(tmp_path / "config.yaml"))
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert again == cfg
    assert again.OUTPUT_DIR == "0123"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


# --- the tree and its doors


def test_every_call_gives_a_tree_of_its_own() -> None:
    one = get_cfg()
    one.SOLVER.STEPS.append(1)
    one.SEED = 9
    assert get_cfg().SEED == 0
    assert get_cfg().SOLVER.STEPS == [40, 70]


def test_our_keys_join_another_toolbox_tree() -> None:
    cfg = YacsNode()
    for section in ("MODEL", "DATASETS", "SOLVER", "TEST", "DATALOADER"):
        cfg[section] = YacsNode()
    cfg.MODEL.HEADS = YacsNode({"NAME": "TheirHead"})
    add_mlt_config(cfg)
    assert cfg.MODEL.HEADS.NAME == "TheirHead"
    assert cfg.MODEL.HEADS.INIT == "normal"
    assert cfg.PSEUDO_LABELS.NUM_CLUSTERS == (600, 700, 800)
    assert type(cfg.MEMORY) is YacsNode


class Scale:
    @configurable
    def __init__(self, factor: float, *, twice: bool = False) -> None:
        self.value = factor * (2 if twice else 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, twice: bool = False) -> dict[str, object]:
        return {"factor": cfg.SOLVER.GAMMA, "twice": twice}


class HalfScale(Scale):
    @classmethod
    def from_config(cls, cfg: CfgNode, twice: bool = False) -> dict[str, object]:
        return {"factor": cfg.SOLVER.GAMMA / 2, "twice": twice}


def test_configurable_has_two_doors() -> None:
    cfg = get_cfg()
    assert Scale(3.0).value == 3.0
    assert Scale(cfg).value == cfg.SOLVER.GAMMA
    assert Scale(cfg, twice=True).value == 2 * cfg.SOLVER.GAMMA
    assert HalfScale(cfg).value == cfg.SOLVER.GAMMA / 2


def test_configurable_without_from_config() -> None:
    class Bare:
        @configurable
        def __init__(self, factor: float) -> None: ...

    with pytest.raises(TypeError, match=r"Bare was given a cfg but has no classmethod from_config"):
        Bare(get_cfg())
