"""Every method of the study on a small real encoder: what it costs, what it chooses, and what it leaves."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from companion import methods, peft_methods
from companion.finetune import adapter_parameters, finetune
from companion.gradients import gradient_spectra
from companion.methods import MAX_RANK, METHODS, RANKS, Problem, adapt, floor_ranks
from companion.rank_rules import threshold_rank
from companion.spectral_lora import spectral_ranks
from companion.truncation import adapter_spectra
from tiny_models import text_batches, tiny_bert

TARGETS = ["query", "value", "dense"]  # matrices of three shapes


class Loader(list):
    """Batches that know how many examples they hold, as a DataLoader does."""

    @property
    def dataset(self):
        return [None] * sum(len(batch["labels"]) for batch in self)


def problem(**options) -> Problem:
    settings = {"rank": 3, "steps": 12, "targets": TARGETS, "seed": 5} | options
    return Problem(tiny_bert(), text_batches(48, 16, seed=2), **settings)


def costs_of(ranks, costs):
    return sum(rank * costs[name] for name, rank in ranks.items())


def trained(method, **options):
    given = problem(**options)
    adapted = adapt(method, given)
    finetune(adapted.model, Loader(text_batches(48, 16, seed=2)), 4, 1e-2, callbacks=adapted.callbacks)
    model, ranks = adapted.finish(adapted.model)
    return given, model, ranks


WITH_BUDGET = [name for name in METHODS if name not in ("gap-printed", "full", "eva", "adalora")]


@pytest.mark.parametrize("method", WITH_BUDGET)
def test_a_method_spends_its_budget_and_no_more(method):
    given, model, ranks = trained(method, parameter=1e-4 if method == "threshold" else None)
    spent = costs_of(ranks, given.costs)
    assert given.budget - max(given.costs.values()) < spent <= given.budget == 3 * sum(given.costs.values())
    assert set(ranks) == set(given.costs) and max(ranks.values()) <= given.largest
    assert adapter_parameters(model) == spent


# EVA draws its decomposition from the global state of several libraries; it has tests of its own below.
@pytest.mark.parametrize("method", [name for name in METHODS if name != "eva"])
def test_a_method_follows_from_its_seed_and_leaves_the_global_one(method):
    before, states = torch.get_rng_state(), []
    for _ in range(2):
        model = adapt(method, problem(parameter=1e-4 if method == "threshold" else None)).model
        states.append({name: value.clone() for name, value in model.named_parameters() if value.requires_grad})
    assert torch.equal(before, torch.get_rng_state())
    assert states[0].keys() == states[1].keys() and states[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_printed_gap_is_algorithm_1_and_costs_what_it_costs():
    given, model, ranks = trained("gap-printed")
    spectra = gradient_spectra(tiny_bert(), text_batches(48, 16, seed=2), TARGETS, rng=5)
    assert ranks == spectral_ranks(spectra, "gap", max_rank=MAX_RANK)
    assert adapter_parameters(model) == costs_of(ranks, given.costs) != given.budget


def test_floor_pays_for_modes_first_and_spreads_the_rest():
    given = problem()
    for name, spectrum in given.spectra.items():  # lift the floor over everything: nothing to tell matrices apart
        object.__setattr__(spectrum, "floors", np.full(9, 1e9))
    assert floor_ranks(given) == adapt_ranks("uniform", given)
    first = next(iter(given.spectra))
    values = given.spectra[first].singular_values
    object.__setattr__(given.spectra[first], "floors", np.full(9, (values[1] + values[2]) / 2))
    ranks = floor_ranks(given)
    left = given.budget - 2 * given.costs[first]
    assert ranks[first] >= 2 + left // sum(given.costs.values())
    assert costs_of(ranks, given.costs) <= given.budget


def test_no_rule_gives_a_matrix_more_than_the_largest_rank():
    given = problem()
    for i, spectrum in enumerate(given.spectra.values()):  # all of the signal in one matrix
        object.__setattr__(spectrum, "floors", np.full(9, 1e9 if i else 0.0))
    ranks = floor_ranks(given)
    assert max(ranks.values()) == given.largest and given.budget - max(given.costs.values()) < costs_of(ranks, given.costs) <= given.budget


def adapt_ranks(method, given):
    return RANKS[method](given)


def test_permuted_ranks_are_those_of_the_rule_on_other_matrices_of_the_same_cost():
    given = problem()
    given.rank = 4
    for i, spectrum in enumerate(given.spectra.values()):
        object.__setattr__(spectrum, "floors", np.full(9, spectrum.singular_values[i % 5]))
    ours, control = floor_ranks(given), RANKS["permuted"](given)
    assert ours != control

    def by_cost(ranks):
        return Counter((given.costs[name], rank) for name, rank in ranks.items())

    assert by_cost(ours) == by_cost(control)


def test_wide_then_cut_keeps_the_largest_directions_of_the_wide_adapter():
    given = problem()
    adapted = adapt("wide-then-cut", given)
    assert adapter_parameters(adapted.model) == 2 * given.budget
    finetune(adapted.model, Loader(text_batches(48, 16, seed=2)), 4, 1e-2)
    wide = adapter_spectra(adapted.model)
    model, ranks = adapted.finish(adapted.model)
    for name, values in adapter_spectra(model).items():
        np.testing.assert_allclose(values, wide[name][: ranks[name]], rtol=1e-4)


def test_adalora_ends_at_the_budget_with_the_rest_masked():
    given, model, ranks = trained("adalora", rank=2)
    assert isinstance(model, PeftModel) and set(ranks) == set(given.costs)
    assert sum(ranks.values()) == 2 * len(given.costs)
    for name, module in model.get_base_model().named_modules():
        if name in ranks:
            assert int((module.lora_E["default"] != 0).sum()) <= ranks[name]


def test_lora_ga_starts_from_the_pretrained_function_with_our_ranks():
    given, batch = problem(), text_batches(8, 8, seed=4)[0]
    with torch.no_grad():
        before = tiny_bert()(**batch).logits
        adapted = adapt("lora-ga", given)
        torch.testing.assert_close(adapted.model(**batch).logits, before, atol=1e-5, rtol=1e-4)
    _, ranks = adapted.finish(adapted.model)
    assert ranks == floor_ranks(problem()) == peft_methods.adapter_ranks(adapted.model)
    assert all(value.any() for name, value in adapted.model.named_parameters() if "lora_B" in name)


def test_eva_redistributes_the_same_number_of_ranks_equally_for_equal_inputs():
    batches = [{**b, "labels": b["labels"]} for b in text_batches(256, 64, seed=3)]
    model = Problem(tiny_bert(), batches, rank=2, steps=4, targets=["query", "value"])
    _, ranks = (adapted := adapt("eva", model)).finish(adapted.model)
    assert sum(ranks.values()) == 2 * len(model.costs)
    for layer in range(2):
        query, value = (ranks[f"bert.encoder.layer.{layer}.attention.self.{kind}"] for kind in ("query", "value"))
        assert query == value


def test_eva_takes_layers_that_see_one_token():
    given = Problem(tiny_bert(), text_batches(96, 32, seed=3), rank=2, steps=4, targets="all-linear")
    _, ranks = (adapted := adapt("eva", given)).finish(adapted.model)
    assert set(ranks) == set(given.costs) and sum(ranks.values()) == 2 * len(ranks) and ranks["bert.pooler.dense"]


def test_eva_on_too_little_ends_with_an_error():
    model = Problem(tiny_bert(), text_batches(2, 1), rank=16, steps=4, targets=["query", "value"])
    with pytest.raises(RuntimeError, match="did not converge in 200"):
        adapt("eva", model)


def test_rslora_divides_by_the_root_of_the_rank():
    model = adapt("rslora", problem(rank=4, targets=["query"])).model
    scalings = {m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer)}
    assert scalings == {16 / 4**0.5}


def test_full_trains_every_weight():
    assert all(parameter.requires_grad for parameter in adapt("full", problem()).model.parameters())


def test_a_parameter_of_zero_is_not_the_default():
    with pytest.raises(ValueError, match="fraction: got 0"):
        adapt_ranks("energy", problem(parameter=0.0))


def test_unknown_methods_and_missing_parameters_are_named():
    with pytest.raises(ValueError, match="method: got 'spectral'; accepted: uniform"):
        adapt("spectral", problem())
    with pytest.raises(ValueError, match="C' of P2 eq. 7"):
        adapt("threshold", problem())


def planted(values, floors):
    spectrum = type("Planted", (), {})()
    spectrum.singular_values, spectrum.floors, spectrum.shape, spectrum.n_examples = np.array(values), floors, (32, 32), 64
    spectrum.flip_energies = np.full(9, 32 * 32 * 1e-4 / 64)  # noise of one example's entry: 0.01
    spectrum.noise_floor = max(floors)
    return spectrum


def test_k_star_layer_by_layer_is_the_printed_formula_and_the_corrected_one():
    given = problem(rank=4)
    values = 0.5 * 2.0 ** -np.arange(12.0)
    spectrum = planted(values, np.full(9, 0.02))
    threshold = 0.01 * (1 + (32 / 64) ** 0.5)  # eq. 5
    assert methods._k_star_printed(spectrum, given) == math.ceil(np.log(1 / threshold) / np.log(2))  # eq. 6 with C = 1
    assert methods._k_star(spectrum, given) == int(np.sum(values > 0.02)) == math.ceil(np.log(0.5 / 0.02) / np.log(2))
    nothing = planted(1e-5 * values, np.full(9, 0.02))
    assert methods._k_star_printed(nothing, given) == methods._k_star(nothing, given) == 0


def test_the_calibrated_constant_spends_the_budget_and_a_larger_one_does_not():
    given = problem()
    constant = methods.budget_constant(given)

    def spent(value):
        ranks = {n: threshold_rank(s.singular_values[: given.largest], value, s.shape, s.n_examples) for n, s in given.spectra.items()}
        return costs_of(ranks, given.costs)

    assert spent(1.0001 * constant) < given.budget <= spent(0.9999 * constant)
    assert spent(0.9999 * constant) < given.budget + max(given.costs.values())
    with pytest.raises(ValueError, match="as many as the budget"):
        methods.budget_constant(problem(rank=10_000))
