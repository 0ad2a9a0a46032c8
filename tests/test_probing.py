"""Probes find what is planted, find nothing in shuffled labels, and never see a group on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from dit_lens import probing
from dit_lens.lens import DiTLens
from dit_lens.probing import Probe, Reads, check_labels, estimator, out_of_fold_logits

GROUPS, WIDTH = 60, 12
READS = Reads("blocks.2.hook_resid_post", step=25, sigma=0.5, model="mini-wan-untrained")
POSSIBLE = np.tile([True, True, False, False], GROUPS)
QUADRUPLET = np.repeat(np.arange(GROUPS), 4)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def features(rng: np.random.Generator, strength: float = 1.5, at: int = 5) -> np.ndarray:
    """Noise with possibility planted on one axis; axes have their own scales and offsets."""
    noise = rng.normal(size=(len(POSSIBLE), WIDTH))
    noise[:, at] += strength * np.where(POSSIBLE, 1, -1)
    return noise * rng.uniform(0.5, 2, WIDTH) + rng.normal(size=WIDTH)


def accuracy(logits: np.ndarray, possible: np.ndarray) -> float:
    return float(((logits > 0) == possible).mean())


def test_a_planted_direction_is_found(rng: np.random.Generator) -> None:
    x = features(rng, at=5)
    assert accuracy(out_of_fold_logits(x, POSSIBLE, QUADRUPLET), POSSIBLE) > 0.88
    probe = Probe.fit(x, POSSIBLE, QUADRUPLET, READS)
    standardised = probe.weight * torch.from_numpy(x.std(0))
    assert standardised.abs().argmax() == 5 and standardised[5] > 0
    assert standardised.abs().sort().values[-2] < 0.3 * standardised[5]


def test_shuffled_labels_are_at_chance(rng: np.random.Generator) -> None:
    x = features(rng)
    reached = []
    for _ in range(5):
        shuffled = rng.permuted(POSSIBLE.reshape(GROUPS, 4), axis=1).ravel()
        reached.append(accuracy(out_of_fold_logits(x, shuffled, QUADRUPLET), shuffled))
    assert 0.42 < np.mean(reached) < 0.58


def test_a_group_is_never_on_both_sides(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    # Labels belong to whole groups, and features say which group it is: only a leak can tell the label.
    identity = rng.normal(size=(GROUPS, WIDTH))[QUADRUPLET] + 0.01 * rng.normal(size=(len(QUADRUPLET), WIDTH))
    possible = rng.permuted(np.arange(GROUPS) % 2 == 0)[QUADRUPLET]
    memory = KNeighborsClassifier(1)
    leaking = cross_val_predict(memory, identity, possible, cv=KFold(5, shuffle=True, random_state=0))
    assert (leaking == possible).mean() > 0.95
    remembering = make_pipeline(memory)
    monkeypatch.setattr(KNeighborsClassifier, "decision_function", lambda self, x: self.predict(x) - 0.5, raising=False)
    monkeypatch.setattr(probing.linear, "estimator", lambda strength: remembering)
    assert accuracy(out_of_fold_logits(identity, possible, QUADRUPLET), possible) < 0.7


def test_a_leak_by_a_linear_probe_is_closed_too(rng: np.random.Generator) -> None:
    identity = rng.normal(size=(GROUPS, 200))[QUADRUPLET] + 0.01 * rng.normal(size=(len(QUADRUPLET), 200))
    possible = rng.permuted(np.arange(GROUPS) % 2 == 0)[QUADRUPLET]
    cv = KFold(5, shuffle=True, random_state=0)
    leaking = cross_val_predict(estimator(), identity, possible, cv=cv, method="decision_function")
    assert accuracy(leaking, possible) > 0.95
    assert accuracy(out_of_fold_logits(identity, possible, QUADRUPLET), possible) < 0.7


def test_the_logit_is_scikit_learns_decision_function(rng: np.random.Generator) -> None:
    x, unseen = features(rng), features(rng)
    probe = Probe.fit(x, POSSIBLE, QUADRUPLET, READS)
    expected = torch.from_numpy(estimator().fit(x, POSSIBLE).decision_function(unseen)).float()
    deviation = torch.from_numpy(rng.normal(size=(len(unseen), 7, WIDTH)))
    tokens = torch.from_numpy(unseen)[:, None] + deviation - deviation.mean(1, keepdim=True)
    for activation in (tokens, tokens.float()):
        logit = probe.logit(None, {READS.point: activation})
        torch.testing.assert_close(logit.float(), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_a_positive_logit_says_possible(rng: np.random.Generator) -> None:
    x = features(rng, strength=4)
    probe = Probe.fit(x, POSSIBLE, QUADRUPLET, READS)
    logits = probe.of_activation(torch.from_numpy(x)[:, None]).numpy()
    assert accuracy(logits, POSSIBLE) > 0.99


def test_the_spread_is_that_of_out_of_fold_logits(rng: np.random.Generator) -> None:
    x = features(rng)
    probe = Probe.fit(x, POSSIBLE, QUADRUPLET, READS)
    assert probe.spread == pytest.approx(out_of_fold_logits(x, POSSIBLE, QUADRUPLET).std())


def test_the_gradient_by_each_token_is_the_weight_over_their_number(
    rng: np.random.Generator, generator: torch.Generator
) -> None:
    probe = Probe.fit(features(rng), POSSIBLE, QUADRUPLET, READS)
    activation = torch.randn(3, 8, WIDTH, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(probe.logit(None, {READS.point: activation}).sum(), activation)
    torch.testing.assert_close(gradient, (probe.weight / 8).expand(3, 8, WIDTH))
    assert probe.weight.abs().min() > 0


def test_logits_are_one_per_clip_and_independent_of_the_batch(
    rng: np.random.Generator, generator: torch.Generator
) -> None:
    probe = Probe.fit(features(rng), POSSIBLE, QUADRUPLET, READS)
    activation = torch.randn(3, 8, WIDTH, generator=generator)
    logits = probe.logit(None, {READS.point: activation})
    assert logits.shape == (3,)
    torch.testing.assert_close(logits[1:2], probe.of_activation(activation[1:2]))
    assert probe.logit.points == (READS.point,)


def test_a_probe_comes_back_as_it_was_saved(rng: np.random.Generator, tmp_path: Path) -> None:
    probe = Probe.fit(features(rng), POSSIBLE, QUADRUPLET, READS)
    probe.save(tmp_path / "deeper" / "probe")
    opened = Probe.open(tmp_path / "deeper" / "probe")
    assert torch.equal(opened.weight, probe.weight)
    assert (opened.bias, opened.spread, opened.reads) == (probe.bias, probe.spread, probe.reads)
    assert opened.reads != replace(READS, step=24)


def test_a_probe_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Probe.open(tmp_path)


def test_strength_is_the_inverse_penalty(rng: np.random.Generator) -> None:
    x = features(rng)
    norms = [np.linalg.norm(estimator(strength).fit(x, POSSIBLE)[-1].coef_) for strength in (1e-3, 1e-2, 1e-1)]
    assert norms[0] < norms[1] < norms[2]
    assert isinstance(estimator()[-1], LogisticRegression)


def test_labels_come_back_as_booleans() -> None:
    labels = check_labels(np.array([True, False, True], dtype=object))
    assert labels.dtype == bool and labels.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([True, None, False], "got 1 clips without a label"), ([True, True], r"classes \['True'\]"), ([], "classes")],
)
def test_unknown_or_single_labels_are_refused(labels: list[bool | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(np.array(labels, dtype=object))


def test_fitting_refuses_unknown_labels(rng: np.random.Generator) -> None:
    labels = POSSIBLE.astype(object)
    labels[3] = None
    with pytest.raises(ValueError, match="leave out clips whose label is unknown"):
        Probe.fit(features(rng), labels, QUADRUPLET, READS)


def test_a_probe_of_frame_means_says_what_the_estimator_says_and_splits_exactly(
    rng: np.random.Generator, lens: DiTLens
) -> None:
    """Fitted on means of five frames side by side; its torch map on the tokens is scikit-learn's on the means."""
    tokens = torch.from_numpy(rng.normal(size=(40, 5 * 16, 128))).float()
    possible, groups = np.tile([True, True, False, False], 10), np.repeat(np.arange(10), 4)
    tokens[:, 16:32] += 0.2 * torch.from_numpy(np.where(possible, 1.0, -1.0)).float()[:, None, None]
    means = tokens.unflatten(1, (5, 16)).mean(2).flatten(1).double().numpy()
    probe = Probe.fit(means, possible, groups, READS, frames=5)
    expected = estimator().fit(means, possible).decision_function(means)
    np.testing.assert_allclose(probe.of_activation(tokens), expected, rtol=1e-3, atol=1e-3)
    assert probe.weight.shape == (5, 128) and probe.weight[1].norm() > 2 * probe.weight[4].norm()
    latent = torch.randn(2, 16, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    _, cache = lens.run_with_cache(latent=latent, timestep=torch.tensor(400.0))
    split = cache.attribute_to(probe)
    logit = probe.logit(None, cache)
    np.testing.assert_allclose(split.readout, logit, rtol=1e-5, atol=1e-5)
    parts = split.constant + split.embedding + split.attribution.sum(["block", "component"])
    np.testing.assert_allclose(parts, logit, rtol=1e-4, atol=1e-5)


def test_a_probe_of_other_frames_than_the_stream_has_is_refused(rng: np.random.Generator) -> None:
    probe = Probe(torch.ones(3, WIDTH), 0.0, 1.0, READS)
    with pytest.raises(ValueError, match="frames"):
        probe.of_activation(torch.ones(2, 80, WIDTH))
