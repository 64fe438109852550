"""Examples by hypothesis, with its current settings, until nothing new is found."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.control import currently_in_test_context

from oracle.proof.finding import RANDOM
from oracle.proof.proof import Failure, ImpossibleSizes, Proof
from oracle.proof.reference import ReferenceFailure
from oracle.proof.subject import Misuse

NESTED_EXAMPLES = 10  # of each check inside a test of the user's that hypothesis draws, too


class Found(AssertionError):
    """What hypothesis shrinks."""


def search_all(proof: Proof, max_examples: int | None, seed: int | None) -> None:
    """Keep every failure, shrunk: after each, search again with that one set aside."""
    while failure := search(proof, max_examples, seed):
        proof.keep(failure)


def search(proof: Proof, max_examples: int | None, seed: int | None) -> Failure | None:
    """The smallest example of the first failure that is not known yet."""
    failures: list[Failure] = []
    misuse: list[ValueError] = []
    proof.examples = 0

    def prove(example):
        if misuse:
            return
        try:
            found = proof.failures(example)
        except ImpossibleSizes:
            hypothesis.reject()
        except (Misuse, ReferenceFailure) as error:
            misuse.append(error)
        else:
            if found:
                failures[:] = found
                raise Found

    default = hypothesis.settings.default
    assert default is not None
    settings: dict[str, Any] = {
        "deadline": None,
        "phases": [phase for phase in default.phases if phase != hypothesis.Phase.shrink],
        "suppress_health_check": list(hypothesis.HealthCheck),
    }
    if max_examples is not None:
        settings["max_examples"] = max_examples
    nested = currently_in_test_context()
    if nested:  # the outer test draws again and again
        settings |= {"derandomize": True, "database": None}
        settings["max_examples"] = min(max_examples or default.max_examples, NESTED_EXAMPLES)
    elif seed is not None:
        settings |= {"derandomize": False, "database": None}

    def run() -> None:
        test: Any = hypothesis.settings(default, **settings)(
            hypothesis.given(strategy(proof))(prove)
        )
        test.hypothesis.inner_test._hypothesis_internal_add_digest = proof.digest
        (hypothesis.seed(seed)(test) if seed is not None and not nested else test)()

    first: Failure | None = None
    try:
        if nested:  # hypothesis refuses a test inside a test of the same thread
            with ThreadPoolExecutor(1) as thread:
                thread.submit(run).result()
        else:
            run()
    except Found:
        first = failures[0]
    except hypothesis.errors.Unsatisfiable:
        raise ValueError(
            f"no sizes fit the signature {proof.signature!r}: give their ranges in sizes="
        ) from None
    except hypothesis.errors.Flaky:
        if not failures:
            raise
        first = failures[0]
    if misuse:
        raise misuse[0] from misuse[0].__cause__
    if first is None:
        return None
    return smallest(proof, first) if hypothesis.Phase.shrink in default.phases else first


def smallest(proof: Proof, failure: Failure) -> Failure:
    """The same failure in as plain an example as can be found in a few dozen tries.

    hypothesis takes several hundred, most of them for the seed, of which any will do.
    """

    def failing(example: dict[str, Any]) -> Failure | None:
        try:
            found = proof.failures(example)
        except ValueError:  # these sizes do not go together
            return None
        return next((other for other in found if other.key == failure.key), None)

    again = failing(failure.example)
    if again is None:
        if failure.finding.kind != RANDOM:
            failure.remark = ". It does not fail every time: something is kept between calls"
        return failure
    failure = again
    for _ in range(3):
        before = failure.example
        for changes in plainer(proof, before):
            for example in changes:
                if example != failure.example and (found := failing(failure.example | example)):
                    failure = found
                    break
        if failure.example == before:
            break
    return failure


def plainer(proof: Proof, example: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Changes of one thing at a time, the boldest first."""
    for name, values in proof.choices.items():
        yield [{name: values[0]}] * (example[name] != values[0])
    yield [{"seed": 0}] * (example["seed"] != 0)
    sizes = dict(example["sizes"])
    for letter, size in sizes.items():
        low = proof.sizes[letter][0]
        smaller = sorted({low, low + 1, (low + size) // 2, size - 1})
        yield [{"sizes": sizes | {letter: n}} for n in smaller if low <= n < size]


def strategy(proof: Proof) -> st.SearchStrategy:
    """How hypothesis draws an example."""
    sizes = {letter: st.integers(*limits) for letter, limits in proof.sizes.items()}
    options = {
        name: option if isinstance(option, st.SearchStrategy) else st.just(option)
        for name, option in proof.options.items()
    }
    choices = {name: st.sampled_from(values) for name, values in proof.choices.items()}
    return st.fixed_dictionaries(
        {
            "sizes": st.fixed_dictionaries(sizes),
            "options": st.fixed_dictionaries(options),
            "seed": st.integers(0, 2**32 - 1),
            **choices,
        }
    )


def inputs(signature: str, **details: Any) -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    """For one's own @given: the arrays that `oracle.judge` draws, in the order of the signature.

    signature  "(n,i),(i,o)": the shapes of the inputs alone
    details    ids, positive, between, sizes, draw, dtype and magnitude, as `oracle.judge` takes
               them; an input goes by its place
    """
    proof = Proof(lambda: None, None, None, signature + "->()", **details)

    def arrays(example: dict[str, Any]) -> tuple[np.ndarray, ...]:
        try:
            return tuple(proof.problem(example, proof.dtypes[0]).inputs.values())
        except ImpossibleSizes:
            hypothesis.reject()

    return strategy(proof).map(arrays)
