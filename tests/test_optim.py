"""Optimisers, schedules and clipping against torch's."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle.optim
from npnet import optim

RULES = {
    "SGD": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "Nesterov": ("SGD", {"momentum": 0.7, "nesterov": True}),
    "AdamW": ("AdamW", {"betas": (0.9, 0.99), "weight_decay": 0.01}),
    "AdamW, its defaults": ("AdamW", {}),
    "AdamW without decay": ("AdamW", {"weight_decay": 0.0, "eps": 1e-3}),
}


def steps(rule, data, gradients, schedule=lambda k: 0.1 / (k + 1), start=0, state=None, **options):
    """`data` after each gradient in turn, and the optimiser's state."""
    data, grad = data.copy(), np.zeros_like(data)
    optimizer = rule(data, grad, **options)
    for name, array in (state or {}).items():
        optimizer.state()[name][...] = array
    after = []
    for k, gradient in enumerate(gradients, start):
        grad[...] = gradient
        optimizer.step(schedule(k))
        after.append(data.copy())
    return np.array(after), optimizer


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1.0, 1e-4, 1e3]))
def test_twenty_steps_are_those_of_torch(name, dtype, tolerance, seed, scale):
    rule, options = RULES[name]
    rng = np.random.default_rng(seed)
    data = rng.standard_normal(7).astype(dtype)
    gradients = (rng.standard_normal((20, 7)) * scale).astype(dtype)
    gradients[rng.random(gradients.shape) < 0.2] = 0
    found, _ = steps(getattr(optim, rule), data, gradients, **options)
    expected, _ = steps(getattr(oracle.optim, rule), data, gradients, **options)
    assert found.dtype == dtype
    size = np.maximum.accumulate(np.abs(expected)) + np.abs(data)
    assert np.all(np.abs(found - expected) <= tolerance * size)


def test_adam_is_adamw_without_decay():
    gradients = np.random.default_rng(0).standard_normal((20, 5))
    found, _ = steps(optim.AdamW, np.ones(5), gradients, weight_decay=0)
    expected, _ = steps(oracle.optim.Adam, np.ones(5), gradients)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_the_state_is_all_that_a_resumed_run_needs(name):
    rule, options = RULES[name]
    rule = getattr(optim, rule)
    gradients = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    whole, _ = steps(rule, np.ones(5, np.float32), gradients, **options)
    first, optimizer = steps(rule, np.ones(5, np.float32), gradients[:10], **options)
    second, _ = steps(rule, first[-1], gradients[10:], start=10, state=optimizer.state(), **options)
    assert np.concatenate([first, second]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", RULES)
def test_the_gradient_is_not_modified_and_the_data_stays_in_place(name):
    rule, options = RULES[name]
    data, grad = np.ones(5, np.float32), np.full(5, 0.5, np.float32)
    optimizer = getattr(optim, rule)(data, grad, **options)
    for _ in range(3):
        optimizer.step(np.float64(0.1))
    assert optimizer.data is data and data.dtype == np.float32 and np.all(data < 1)
    assert grad.tolist() == [0.5] * 5


def test_impossible_options_are_an_error():
    data = np.ones(2)
    for options in ({"momentum": -0.1}, {"nesterov": True}):
        with pytest.raises(ValueError, match="momentum"):
            optim.SGD(data, data, **options)


def torch_rates(make, lr, n):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules_are_those_of_torch():
    schedulers = torch.optim.lr_scheduler
    pairs = (
        (optim.constant(0.3), lambda o: schedulers.ConstantLR(o, factor=1.0)),
        (optim.step_decay(0.3, 7), lambda o: schedulers.MultiStepLR(o, [7])),
        (optim.step_decay(0.3, 7, 0.5), lambda o: schedulers.MultiStepLR(o, [7], 0.5)),
        (optim.linear_decay(0.3, 12), lambda o: schedulers.LinearLR(o, 1.0, 0.0, 12)),
        (optim.cosine(0.3, 20, final=0.1), lambda o: schedulers.CosineAnnealingLR(o, 20, 0.1)),
    )
    for schedule, make in pairs:
        np.testing.assert_allclose(
            [schedule(k) for k in range(20)], torch_rates(make, 0.3, 20), rtol=1e-9, atol=1e-15
        )


def test_cosine_warms_up_and_stays_at_its_end():
    schedule = optim.cosine(1.0, 20, warmup=4, final=0.1)
    assert [schedule(k) for k in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert schedule(12) == pytest.approx(0.55)
    assert schedule(20) == schedule(1000) == pytest.approx(0.1)
    assert optim.linear_decay(1.0, 20)(30) == 0


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    max_norm=st.sampled_from([0.1, 1.0, 100.0]),
)
def test_clipping_is_that_of_torch(seed, scale, max_norm):
    grad = np.random.default_rng(seed).standard_normal(50) * scale
    parameter = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
    parameter.grad = torch.from_numpy(grad.copy())
    expected = torch.nn.utils.clip_grad_norm_([parameter], max_norm)
    assert optim.clip_grad_norm(grad, max_norm) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(grad, parameter.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("max_norm", [5.0, 5.0 + 5e-7, 5.0 + 2e-6])
def test_clipping_at_the_bound_is_that_of_torch(max_norm):
    grad = np.array([3.0, 4.0])
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    parameter.grad = torch.from_numpy(grad.copy())
    torch.nn.utils.clip_grad_norm_([parameter], max_norm)
    assert optim.clip_grad_norm(grad, max_norm) == 5.0
    assert (grad < [3, 4]).all() == (max_norm < 5 + 1e-6)
    np.testing.assert_allclose(grad, parameter.grad.numpy(), rtol=1e-15)


@pytest.mark.parametrize("parts", [[slice(0, 3), slice(5, 8)], []])
def test_decay_in_groups_is_that_of_torch(parts):
    rng = np.random.default_rng(0)
    data, grad = rng.standard_normal(9), rng.standard_normal(9)
    decayed = np.zeros(9, bool)
    for part in parts:
        decayed[part] = True
    groups = []
    for decay, chosen in ((0.3, decayed), (0.0, ~decayed)):
        parameter = torch.nn.Parameter(torch.from_numpy(data[chosen]))
        parameter.grad = torch.from_numpy(grad[chosen])
        groups.append({"params": [parameter], "weight_decay": decay})
    expected = torch.optim.AdamW(groups)
    optimizer = optim.AdamW(data, grad, weight_decay=0.3, decayed=parts)
    for lr in (0.1, 0.03):
        for group in expected.param_groups:
            group["lr"] = lr
        expected.step()
        optimizer.step(lr)
    for group, chosen in zip(groups, (decayed, ~decayed), strict=True):
        found = group["params"][0].detach().numpy()
        np.testing.assert_allclose(data[chosen], found, rtol=1e-12, strict=True)


@pytest.mark.parametrize("name", RULES)
@given(cuts=st.lists(st.integers(0, 9), max_size=3), resumed=st.booleans())
def test_the_updates_of_parts_make_up_the_update_of_all(name, cuts, resumed):
    """To the bit, on one vector, with one state."""
    rule, options = RULES[name]
    rng = np.random.default_rng(0)
    first, gradients = rng.standard_normal(9), rng.standard_normal((4, 9))
    if rule == "AdamW":
        options = {**options, "decayed": [slice(1, 4), slice(6, None)]}
    expected, whole = steps(getattr(optim, rule), first, gradients, **options)
    rows = [np.full(9, np.nan) for array in whole.state().values() if array.ndim]

    def part(start, stop):
        _, optimizer = steps(getattr(optim, rule), first, gradients[:resumed], **options)
        optimizer.move(data, grad, rows, slice(start, stop))
        return optimizer

    data, grad = (expected[0] if resumed else first).copy(), np.zeros(9)
    parts = [part(*bounds) for bounds in pairwise([0, *sorted(cuts), 9])]
    for k, gradient in enumerate(gradients[resumed:], int(resumed)):
        grad[...] = gradient
        for optimizer in parts:
            optimizer.step(0.1 / (k + 1))
        np.testing.assert_array_equal(data, expected[k])
    for found in parts:
        for array, other in zip(found.state().values(), whole.state().values(), strict=True):
            np.testing.assert_array_equal(array, other)
