"""The tests are tested: the property rejects every wrong backward pass, and none that only looks
wrong."""

import collections

import pytest
from wrong_backwards import ALL_CASES, EQUIVALENT, WRONG, Wrong, find, planted, rejection

from oracle.cases import CASES
from oracle.model_cases import MODEL_CASES


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_wrong_is_rejected(wrong):
    message, _ = rejection(wrong)
    assert message.startswith(f"{wrong.case} (float"), f"{wrong.name} was not rejected"
    sentence, _, reproduce = message.partition("\nReproduce: ")
    assert wrong.says in sentence
    assert repr(wrong.case) in reproduce


@pytest.mark.parametrize("wrong", EQUIVALENT, ids=[wrong.name for wrong in EQUIVALENT])
def test_equivalent_is_not_rejected(wrong):
    message, _ = rejection(wrong)
    assert message == ""


def test_the_registry_covers_every_operation_and_every_model():
    names = [wrong.name for wrong in WRONG + EQUIVALENT]
    assert len(names) == len(set(names))
    assert len(WRONG) >= 100
    count = collections.Counter(wrong.case for wrong in WRONG)
    assert count.keys() == ALL_CASES.keys()
    assert all(count[name] >= 5 for name in CASES) and all(count[name] >= 1 for name in MODEL_CASES)


def test_a_planted_mistake_is_gone_afterwards():
    for wrong in WRONG:
        function = find(wrong.where)
        code, attributes = function.__code__, dict(vars(function))
        with planted(wrong):
            assert function.__code__ is not code
        assert function.__code__ is code and vars(function) == attributes


def test_an_edit_without_its_text_is_an_error():
    wrong = Wrong("tanh", "", "", "tanh_backward", "dx = x * x", "dx = y", "out of date")
    with pytest.raises(LookupError, match="has to stand once in tanh_backward"), planted(wrong):
        pass
