"""The recipes of the field: headers that say what a reader needs, numbers as published, and the matrix of methods."""

from __future__ import annotations

import re
from typing import Any

import pytest

from onnxcake.recipe import method_table
from onnxcake.recipe.recipe import Recipe, names, text_of

OURS = {"cake-image", "cake-vector", "layercake", "layercake-offline"}  # sizes of our own
METHODS = {
    *("deepdream", "deepinversion", "adi", "zskd", "soft-target", "zsdb3kd", "dafl", "dfad", "zskt", "dfq", "cmi"),
    *("fast-dfkd", "mb-dfkd", "pre-dfkd", "retain-acquire", "retain-acquire-replay", "random-noise", "kd", "metadata"),
    *("adversarial-noise", "generative", "cake", "lake", "naive"),
}


def header(name: str) -> str:
    """The comment before the recipe, without its marks."""
    lines = text_of(name).split("\nrecipe: 1\n")[0].strip().splitlines()
    assert all(line.startswith("#") for line in lines)
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def section(name: str, title: str) -> str:
    """A header's paragraph, from its title to the next one or an empty line."""
    text = re.search(rf"^{title}\b.*?(?=^[A-Z][A-Za-z0-9 ]*\b[^\n]*:|^$|\Z)", header(name), re.M | re.S)
    assert text is not None, f"{name} says nothing of {title}"
    return text[0]


def value(recipe: Recipe, path: str) -> Any:
    found: Any = recipe.as_dict()
    for key in path.split("."):
        found = found[key]
    return found


# --- headers -----------------------------------------------------------------------------------------------


def test_every_method_has_a_recipe() -> None:
    assert set(names()) >= METHODS | OURS


@pytest.mark.parametrize("name", sorted(METHODS | OURS))
def test_a_header_names_paper_venue_year_and_deviations(name: str) -> None:
    venue = r"(AISTATS|CVPR|ICCV|ICML|ICLR|IJCAI|AAAI|WACV|NeurIPS|NIPS|arXiv|[Bb]log)\b[^.]*?\b20[12]\d\b"
    text = " ".join(header(name).split())
    assert re.search(venue, text) or re.search(r"\(blog and code, [^)]*\)\. 20\d\d", text)
    told = section(name, "Deviations")
    assert "  - " in told or "none" in told or name in OURS
    assert name in OURS or "Published" in text or "no figure" in text


@pytest.mark.parametrize("name", sorted(METHODS | OURS))
def test_a_header_tells_what_the_teacher_must_offer(name: str) -> None:
    told = " ".join(section(name, "Needs").split())
    words = {
        "gradient": ["the gradient at the inputs"],
        "statistics": ["statistics"],
        "features": ["what goes into th"],
        "last_layer": ["the last layer's weights"],
        "similarity": ["how alike two classes are"],
        "labels": ["the class alone"],
        "data": ["data, no gradient"],
    }
    needs = method_table.needs(Recipe.load(name))
    assert set(needs) <= set(words)
    for need, phrases in words.items():
        assert any(phrase in told for phrase in phrases) == (need in needs), need


@pytest.mark.parametrize("name", sorted(METHODS | OURS))
def test_a_title_tells_the_passes_with_gradient(name: str) -> None:
    recipe = Recipe.load(name)
    synthesis, told = recipe.synthesis, re.search(r"\(([\d.]+) M teacher passes", recipe.title)
    assert "\n" not in recipe.title
    if "gradient" not in method_table.needs(recipe):
        assert told is None and "(no gradient" in recipe.title
        return
    assert told is not None
    passes = synthesis.rounds * synthesis.batches * synthesis.batch * synthesis.steps
    assert float(told[1]) == pytest.approx(passes / 1e6, rel=0.03)


@pytest.mark.parametrize("name", sorted(METHODS | OURS))
def test_overrides_in_headers_load(name: str) -> None:
    blocks = re.findall(r"(?:^ +-o .*\n?)+", header(name), re.M)
    for block in blocks:
        overrides = [line.strip().removeprefix("-o ") for line in block.strip().splitlines()]
        if any("TEACHER_TAP" in line for line in overrides):
            overrides = [
                line.replace("TEACHER_TAP", "conv_3").replace("STUDENT_MODULE", "body.1") for line in overrides
            ]
        digests = [Recipe.load(name, overrides[:count]).digest for count in range(len(overrides) + 1)]
        assert len(set(digests)) == len(digests)  # each says something


FIGURES = {
    "adi": ["93.3", "93.26", "83.04"],
    "adversarial-noise": ["11.8", "20.9"],
    "cake": ["78.9 ± 2.59", "94.2 ± 0.54", "53.8 ± 5.63", "83.7 ± 4.77"],
    "cake-mnist": ["98.4 ± 0.18", "76.5 ± 1.01"],
    "cmi": ["90.01", "88.82", "87.38", "94.84", "77.04", "57.91"],
    "dafl": ["92.22", "98.20", "74.47", "65.71"],
    "deepdream": ["30.0"],
    "deepinversion": ["91.4", "68.0"],
    "dfad": ["93.3", "67.7", "98.3 ± 0.2"],
    "dfq": ["94.61", "86.14", "77.01"],
    "fast-dfkd": ["88.36 / 88.90 / 89.29", "92.62 / 93.63 / 94.05", "69.76 / 72.82 / 74.34", "53.45"],
    "kd": ["98.8", "89.7", "94.3", "76.87", "80.08"],
    "mb-dfkd": ["76.14", "66.05, 207", "92.4"],
    "metadata": ["91.24", "92.47"],
    "pre-dfkd": ["76.93", "70.23, 86.6", "94.10"],
    "random-noise": ["9.8", "10.3", "88.01", "14.89", "74.7"],
    "retain-acquire": ["77.11", "69.87, 75.67"],
    "retain-acquire-replay": ["77.21", "71.49, 60.17"],
    "soft-target": ["99.08", "73.91", "93.31"],
    "zsdb3kd": ["96.54", "72.3", "59.5"],
    "zskd": ["98.77", "69.56", "79.62", "96.98"],
    "zskt": ["83.74", "93.32", "67.74"],
}


@pytest.mark.parametrize("name", FIGURES)
def test_published_figures_stand_in_the_header(name: str) -> None:
    published = header(name)[header(name).index("Published") :]
    assert [figure for figure in FIGURES[name] if figure not in published] == []


# --- numbers -----------------------------------------------------------------------------------------------

NUMBERS: list[tuple[str, str, Any]] = [
    # CAKE: the step is coupled to a batch of 500; rows of different labels; soft labels alone
    ("cake", "synthesis.reference_batch", 500),
    ("cake", "synthesis.labels", {"row_permutation": {}}),
    ("cake", "synthesis.groups", "auto"),
    ("cake", "synthesis.losses.contrastive.weight", 10.0),
    ("cake", "synthesis.losses.total_variation.weight", 1e5),
    ("cake", "synthesis.update.sgd.step_size.decay", {"start": 0.1, "magnitude": 4.0, "shape": "linear"}),
    ("cake", "student.loss.hard", 0.0),
    ("cake", "student.optimiser.sgd.lr", 0.5),
    ("cake-mnist", "synthesis.losses.contrastive.weight", 1e-3),
    ("cake-mnist", "synthesis.losses.total_variation.weight", 1e7),
    # DeepInversion: norms, not squared; no clipping; ADI clips
    ("deepinversion", "synthesis.losses.statistics.distance", "l2"),
    ("deepinversion", "synthesis.losses.statistics.weight", 10.0),
    ("deepinversion", "synthesis.losses.total_variation_l2.weight", 2.5e-5),
    ("deepinversion", "synthesis.augment.jitter.pixels", 2),
    ("deepinversion", "synthesis.update.adam.step_size.constant.value", 0.05),
    ("deepinversion", "synthesis.source.pixels.clip", False),
    ("deepdream", "synthesis.losses.l2.weight", 3e-8),
    ("adi", "synthesis.source.pixels.clip", True),
    ("adi", "synthesis.losses.disagreement.temperature", 3.0),
    ("adi", "synthesis.update.adam.beta2", 0.99),
    ("adi", "synthesis.augment.flip.whole_batch", True),
    # ZSKD: temperature 20 on both sides; the scale that the released code loses
    ("zskd", "synthesis.losses.classification.temperature", 20.0),
    ("zskd", "synthesis.losses.classification.toward", "targets"),
    ("zskd", "synthesis.labels.dirichlet", {"scales": [1.0, 0.1], "scaled": "after"}),
    ("zskd", "student.loss.temperature", 20.0),
    ("soft-target", "synthesis.labels.features.sigma", 2.0),
    ("zsdb3kd", "synthesis.update.sgd.step_size.constant.value", 0.5),
    ("zsdb3kd", "synthesis.source.boundary.queries", 5000),
    # DAFL: weights that the README's command line loses, log10, ε 0.8
    ("dafl", "synthesis.losses.classification", {"weight": 0.05, "after": 0.0, "toward": "self", "temperature": 1.0}),
    ("dafl", "synthesis.losses.activation.weight", 0.01),
    ("dafl", "synthesis.losses.balance.base", 10),
    ("dafl", "synthesis.source.generator.epsilon", 0.8),
    ("dafl", "synthesis.source.generator.latent", 1000),
    ("dafl", "student.learning_rate.milestones", {"after": [0.4, 0.8], "factor": 0.1}),
    # the base of the balance's logarithm
    ("mb-dfkd", "synthesis.losses.balance.base", 10),
    ("pre-dfkd", "synthesis.losses.balance.base", 10),
    ("retain-acquire", "synthesis.losses.balance.base", 10),
    ("dfq", "synthesis.losses.balance.base", "e"),
    # who masks the adversarial term, and how it is reduced
    ("cmi", "synthesis.losses.disagreement.masked", True),
    ("fast-dfkd", "synthesis.losses.disagreement.masked", True),
    ("dfq", "synthesis.losses.disagreement.masked", False),
    ("zskt", "synthesis.losses.disagreement.masked", False),
    ("zskt", "synthesis.losses.disagreement.reduction", "mean"),
    ("pre-dfkd", "synthesis.losses.disagreement.reduction", "mean"),
    ("retain-acquire", "synthesis.losses.disagreement.detach_teacher", True),
    # the student learns from logits, or at a temperature
    ("dfad", "student.loss.l1", 1.0),
    ("dfad", "student.loss.soft", 0.0),
    ("dfad", "synthesis.losses.disagreement.distance", "l1"),
    ("cmi", "student.loss.temperature", 20.0),
    ("zskt", "student.loss.temperature", 1.0),
    # DFQ: the statistics' divergence, weights of 0.01, nothing adversarial in the warm-up of 50 of 250 epochs
    ("dfq", "synthesis.losses.statistics.distance", "kl"),
    ("dfq", "synthesis.losses.sample_entropy.weight", 0.01),
    ("dfq", "synthesis.losses.disagreement.after", 50 / 250),
    ("dfq", "student.after", 50 / 250),
    ("dfq", "synthesis.update.adam.beta1", 0.5),
    # CMI and Fast-DFKD
    ("cmi", "synthesis.losses.instance_contrast.weight", 0.8),
    ("cmi", "synthesis.losses.instance_contrast.temperature", 0.1),
    ("cmi", "synthesis.losses.instance_contrast.bank", 40960),
    ("cmi", "synthesis.losses.instance_contrast.negatives", 4096),
    ("cmi", "synthesis.losses.instance_contrast.head", 128),
    ("fast-dfkd", "synthesis.losses.statistics.momentum", 0.9),
    ("fast-dfkd", "synthesis.losses.statistics.weight", 10.0),
    ("fast-dfkd", "student.optimiser.sgd.lr", 0.2),
    # memories
    ("mb-dfkd", "student.memory.bank", {"entries": 10, "every": 180, "share": 0.125}),
    ("pre-dfkd", "student.memory.replay.latent", 1000),
    ("pre-dfkd", "student.memory.replay.divergence", 1e-5),
    ("pre-dfkd", "synthesis.source.generator.spectral_norm", True),
    ("retain-acquire", "student.retain.lr", 0.9),
    ("retain-acquire-replay", "student.retain.lr", 0.9),
    # anchors
    ("kd", "student.loss.hard", 0.1),
    ("random-noise", "synthesis.steps", 0),
    ("random-noise", "synthesis.source.noise.clip", True),
    ("adversarial-noise", "synthesis.update.adam.step_size.constant.value", 1e-2),
]


@pytest.mark.parametrize(("name", "path", "published"), NUMBERS, ids=lambda given: str(given)[:60])
def test_numbers_are_as_published(name: str, path: str, published: Any) -> None:
    assert value(Recipe.load(name), path) == published


def test_numbers_that_follow_from_others() -> None:
    recipes = {name: Recipe.load(name) for name in names()}
    mb, retain, fast = (recipes[name].synthesis for name in ("mb-dfkd", "retain-acquire", "fast-dfkd"))
    assert (mb.rounds, retain.rounds) == (400 * 36, 400 * 36 * 1024 // 512)
    for name, synthesis in (("mb-dfkd", mb), ("retain-acquire", retain)):  # an entry every five of 400 epochs
        assert recipes[name].student.memory.bank.every == synthesis.rounds // 400 * 5
    meta, step = fast.source.meta_latent, 2e-3
    assert (meta.latent_rate * step, meta.outer_rate) == (pytest.approx(1e-2), fast.steps)
    assert value(recipes["fast-dfkd"], "synthesis.update.adam.step_size.constant.value") == step
    first = next(index for index in range(fast.rounds) if index / fast.rounds >= fast.losses.disagreement.after)
    assert first == 20 and recipes["fast-dfkd"].student.after == fast.losses.disagreement.after
    assert value(recipes["fast-dfkd"], "student.learning_rate.cosine.final") * 0.2 == pytest.approx(2e-4)
    zsdb = recipes["zsdb3kd"]  # a sum over the batch without τ², where ours is a mean with it
    assert zsdb.student.loss.soft == pytest.approx(zsdb.student.batch / zsdb.student.loss.temperature**2)
    assert zsdb.synthesis.batch * zsdb.synthesis.batches == 15 * 200 * 10
    dafl, dfq, zskt = (recipes[name].synthesis.rounds for name in ("dafl", "dfq", "zskt"))
    assert (dafl, dfq, zskt) == (2000 * 120, 250 * 400, 80_000)
    assert value(recipes["pre-dfkd"], "student.memory.replay.step_size") == 0.02 / 40


def test_no_recipe_names_data() -> None:
    for name in names():
        assert recipe_mentions_no_path(Recipe.load(name).as_dict())


def recipe_mentions_no_path(tree: Any) -> bool:
    if isinstance(tree, dict):
        return all(recipe_mentions_no_path(part) for part in tree.values())
    return not (isinstance(tree, str) and ("/" in tree or "\\" in tree) and "teacher" not in tree)
