"""At and Keep mean what the single keywords mean, and no two spellings can be mixed without a word."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dit_lens import At, DiTLens, Keep

Z, STREAM = "blocks.1.attn.hook_z", "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def lens() -> DiTLens:
    return DiTLens.from_pretrained("mini-wan", verify=False)


@pytest.fixture(scope="module")
def path(lens: DiTLens) -> Any:
    shape = (2, lens.transformer.config["in_channels"], 2, 4, 4)
    return lens.invert(torch.randn(shape, generator=torch.Generator().manual_seed(0)), steps=4, solver="euler")


def mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(1)


@pytest.mark.parametrize(
    ("nouns", "keywords"),
    [
        ({"at": At(2), "keep": Z}, {"step": 2, "names_filter": Z}),
        ({"at": 2, "keep": [Z, STREAM]}, {"step": 2, "names_filter": [Z, STREAM]}),
        ({"at": At(sigma=0.5), "keep": Keep(Z)}, {"sigma": 0.5, "names_filter": Z}),
        ({"at": At(steps=[1, 3]), "keep": Keep(Z, reduce=mean)}, {"steps": [1, 3], "names_filter": Z, "reduce": mean}),
        (
            {"at": At(1, branch="cond"), "keep": Keep(STREAM, tokens=(0, slice(None), slice(None)), stop_at=STREAM)},
            {"step": 1, "branch": "cond", "names_filter": STREAM, "tokens": (0, slice(None), slice(None)),
             "stop_at": STREAM},
        ),
        ({"at": 1, "keep": Keep(Z, dtype=torch.float64)}, {"step": 1, "names_filter": Z, "dtype": torch.float64}),
    ],
)  # fmt: skip
def test_nouns_are_the_keywords(lens: DiTLens, path: Any, nouns: Any, keywords: Any) -> None:
    velocity, cache = lens.run_with_cache(path, **nouns)
    expected, reference = lens.run_with_cache(path, **keywords)
    assert list(cache) == list(reference) and cache.steps == reference.steps
    for name in reference:
        assert cache[name].dtype == reference[name].dtype and torch.equal(cache[name], reference[name])
    assert (velocity is None) == (expected is None) and (velocity is None or torch.equal(velocity, expected))


def test_an_evaluation_is_run_as_it_is(lens: DiTLens, path: Any) -> None:
    evaluation = lens.evaluation(path, 2)
    velocity, cache = lens.run_with_cache(evaluation, keep=Z)
    expected, reference = lens.run_with_cache(path, 2, names_filter=Z)
    assert torch.equal(velocity, expected) and torch.equal(cache[Z], reference[Z])
    edited = lens.run_with_hooks(evaluation, fwd_hooks=[(Z, lambda x, hook: x * 0)])
    assert torch.equal(edited, lens.run_with_hooks(path, at=2, fwd_hooks=[(Z, lambda x, hook: x * 0)]))
    assert not torch.equal(edited, velocity)
    with pytest.raises(TypeError, match="an evaluation beside a place"):
        lens.run_with_cache(evaluation, at=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": 1, "sigma": 0.5}, "at= beside sigma="),
        ({"step": 1, "at": At(2)}, "at= beside step="),
        ({"at": 1, "keep": Z, "device": "cpu"}, "keep= beside device"),
        ({"at": At(1, sigma=0.5)}, "no single place"),
        ({}, "no single place"),
        ({"step": 1, "names_fliter": Z}, "names_fliter beside a trajectory.*names_filter"),
        ({"at": "one"}, "step|whole|integer"),
    ],
)
def test_what_is_not_one_place_and_one_request_is_refused(lens: DiTLens, path: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, IndexError), match=message):
        lens.run_with_cache(path, **options)


def test_help_reads_as_one_class() -> None:
    public = [name for name in vars(DiTLens) if not name.startswith("_")]
    assert len(public) <= 32 and DiTLens.__mro__ == (DiTLens, object)
    for name in public:
        assert (getattr(DiTLens, name).__doc__ or "").strip(), name
