from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mlt.modeling.heads import EmbeddingHead
from mlt.modeling.mean_teacher import MeanTeacher


@pytest.fixture
def student() -> tuple[nn.Module, EmbeddingHead]:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), EmbeddingHead(4, 5)


def fill(nets: tuple[nn.Module, ...], value: float) -> None:
    """Every parameter and running statistic becomes `value`."""
    for net in nets:
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(value)


def test_ramp_by_hand(student):
    """Student 1, 2, 3, 4: alpha is 0, 1/2, 2/3 and then the momentum 0.7."""
    teacher = MeanTeacher(*student, momentum=0.7)
    values = []
    for value in (1.0, 2.0, 3.0, 4.0):
        fill(student, value)
        teacher.update(*student)
        values.append(teacher.heads.weight[0, 0].item())
    assert values == pytest.approx([1.0, 1.5, 2.0, 0.7 * 2.0 + 0.3 * 4.0])
    assert int(teacher.ema_steps) == 4
    assert torch.equal(teacher.backbone[0].weight, torch.full_like(teacher.backbone[0].weight, values[-1]))


def test_first_step_is_an_exact_copy(student):
    teacher = MeanTeacher(*student)
    nn.init.normal_(student[1].weight)
    teacher.update(*student)
    assert torch.equal(teacher.heads.weight, student[1].weight)


def test_without_ramp(student):
    fill(student, 1.0)
    teacher = MeanTeacher(*student, momentum=0.9, ramp=False)
    fill(student, 2.0)
    teacher.update(*student)
    assert teacher.heads.weight[0, 0].item() == pytest.approx(1.1)


@pytest.mark.parametrize(("rule", "expected"), [("forward", 1.0), ("ema", 1.25), ("copy", 2.0)])
def test_running_statistics(student, rule, expected):
    fill(student, 1.0)
    teacher = MeanTeacher(*student, momentum=0.75, ramp=False, bn_buffers=rule)
    fill(student, 2.0)
    teacher.update(*student)
    assert teacher.backbone[1].running_mean[0].item() == pytest.approx(expected)
    assert teacher.heads.bottleneck[0].running_var[0].item() == pytest.approx(expected)
    assert teacher.heads.weight[0, 0].item() == pytest.approx(1.25)


def test_forward_moves_its_own_statistics_and_needs_no_gradient(student):
    teacher = MeanTeacher(*student)
    out = teacher(torch.randn(4, 3, 2, 2))
    assert not out.embeddings.requires_grad
    assert teacher.backbone[1].running_mean.any()
    assert not student[0][1].running_mean.any()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_ramp_starts_again(student):
    teacher = MeanTeacher(*student)
    fill(student, 3.0)
    teacher.update(*student)
    fill(student, 5.0)
    teacher.restart_ramp()
    assert int(teacher.ema_steps) == 0
    teacher.update(*student)
    assert teacher.heads.weight[0, 0] == 5


def test_a_loaded_teacher_goes_on_with_the_ramp(student):
    teacher = MeanTeacher(*student)
    for value in (1.0, 2.0):
        fill(student, value)
        teacher.update(*student)
    loaded, copied = MeanTeacher(*student), copy.deepcopy(teacher)
    loaded.load_state_dict(teacher.state_dict())
    fill(student, 3.0)
    for other in (teacher, loaded, copied):
        other.update(*student)
        assert other.heads.weight[0, 0].item() == pytest.approx(2.0)
        assert int(other.ema_steps) == 3


@pytest.mark.parametrize(
    ("options", "match"), [({"momentum": 1.0}, "MOMENTUM"), ({"bn_buffers": "mean"}, "got 'mean'")]
)
def test_bad_arguments(student, options, match):
    with pytest.raises(ValueError, match=match):
        MeanTeacher(*student, **options)
