"""Head, training and evaluation on a tiny encoder and on bundled text."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from transformers import LlamaConfig, LlamaForSequenceClassification, TrainerCallback

from companion import heads
from companion.finetune import adapter_parameters, evaluate, finetune, head_of, warm_up_head
from companion.gradients import mean_gradients
from tiny_models import text_batches, tiny_bert


class Loader(list):
    """Batches with the examples they hold, as a DataLoader shows them."""

    @property
    def dataset(self):
        return [None] * sum(len(batch["labels"]) for batch in self)


def separable(n, sizes, n_labels=2, seed=0):
    """Labels that depend on the first token, so that there is something to learn."""
    batches = text_batches(n, sizes, seed)
    for batch in batches:
        first = batch["input_ids"][:, 0]
        batch["labels"] = (first % n_labels) if n_labels > 1 else first.float() / 60
    return Loader(batches)


@pytest.mark.parametrize("n_labels", [1, 2, 3])
def test_warm_up_touches_the_last_layer_only_and_lowers_the_loss(n_labels):
    model, data = tiny_bert(n_labels), separable(300, 32, n_labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cold = evaluate(model, data)["loss"]
    score = warm_up_head(model.train(), data)
    assert model.training and -1 <= score <= 1
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert evaluate(model, data)["loss"] < cold


def test_warmed_head_is_a_minimum_for_its_own_examples():
    model, data = tiny_bert(), separable(200, 50)
    cold = sum(g.mean.norm() for g in mean_gradients(model, data, r"classifier", flips=0).values())
    warm_up_head(model, data)
    warm = sum(g.mean.norm() for g in mean_gradients(model, data, r"classifier", flips=0).values())
    assert warm < 0.3 * cold  # not zero: the fit is penalised


@pytest.mark.parametrize("left", [False, True])
def test_the_head_of_a_decoder_is_fitted_to_the_tokens_that_its_loss_reads(left):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        model = LlamaForSequenceClassification(LlamaConfig(vocab_size=60, num_key_value_heads=2, pad_token_id=0, **sizes))
    batches = text_batches(80, 16)
    for batch in batches:
        last = batch["attention_mask"].sum(1) - 1
        batch["labels"] = batch["input_ids"][torch.arange(len(last)), last] % 2  # the last token says it
        if left:
            batch |= {key: batch[key].flip(1) for key in ("input_ids", "attention_mask")}
            batch["labels"] = batch["input_ids"][:, -1] % 2
    cold = evaluate(model, batches)["loss"]
    warm_up_head(model, batches)
    assert evaluate(model, batches)["loss"] < cold


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_a_rare_class_does_not_choose_the_weakest_penalty():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((40, 8)), np.array([0] * 20 + [1] * 17 + [2] * 3)
    strongest, score, fit = heads._fitted(features, labels, False, 5)
    assert strongest and fit.C == pytest.approx(1e-5) and np.isfinite(score)  # nothing but noise to be found
    data = separable(40, 10)
    for batch in data:
        batch["labels"] = torch.zeros_like(batch["labels"])
    data[0]["labels"][0] = 1
    with pytest.raises(ValueError, match="dataloader: got {0: 39, 1: 1} examples by label; a fit takes at least two of each"):
        warm_up_head(tiny_bert(), data)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("n_labels", [1, 2])
def test_predictions_that_are_not_finite_are_no_result(n_labels, wrong):
    model = tiny_bert(n_labels)
    with torch.no_grad():
        model.classifier.bias.fill_(wrong)
    with pytest.raises(ValueError, match="predictions must hold no NaN and no infinity"):
        evaluate(model, separable(20, 10, n_labels))


def test_missing_class_and_missing_head_are_named():
    data = separable(40, 10)
    for batch in data:
        batch["labels"] = torch.zeros_like(batch["labels"])
    with pytest.raises(ValueError, match="labels"):
        warm_up_head(tiny_bert(), data)
    with pytest.raises(ValueError, match="classifier"):
        head_of(tiny_bert().bert)


def adapted(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(tiny_bert(), LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query", "value"]))


def test_training_learns_is_reproducible_and_leaves_the_random_state():
    results = []
    for _ in range(2):
        model, data = adapted(), separable(128, 16)
        state, base = torch.get_rng_state(), model.base_model.model.bert.embeddings.word_embeddings.weight.clone()
        before = evaluate(model, data)
        run = finetune(model, data, epochs=4, learning_rate=1e-2, seed=3)
        assert torch.equal(state, torch.get_rng_state()) and not model.training
        assert torch.equal(base, model.base_model.model.bert.embeddings.word_embeddings.weight)
        assert run["steps"] == 32 and run["seconds"] > 0
        results.append(evaluate(model, data))
        assert results[-1]["loss"] < before["loss"]
    assert results[0] == results[1]


def test_adapter_parameters_leave_out_the_head():
    assert adapter_parameters(adapted()) == 2 * 2 * 4 * (32 + 32)


def test_evaluate_against_a_direct_computation():
    model, data = tiny_bert(3), separable(50, 7, 3)
    with torch.no_grad():
        logits = torch.cat([model(**batch).logits for batch in data])
    labels = torch.cat([batch["labels"] for batch in data])
    measured = evaluate(model, data)
    assert measured["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert measured["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert -1 <= evaluate(tiny_bert(1), separable(50, 7, 1))["spearman"] <= 1 and np.isfinite(measured["loss"])


def test_mixed_precision_trains_and_leaves_a_model_in_full_precision():
    losses = {}
    for precision in ("fp32", "bf16"):
        model, data = adapted(), separable(128, 16)
        before = evaluate(model, data)["loss"]
        finetune(model, data, epochs=4, learning_rate=1e-2, seed=3, precision=precision)
        losses[precision] = evaluate(model, data)["loss"]
        assert losses[precision] < before and all(p.dtype == torch.float32 for p in model.parameters())
        with torch.no_grad():
            logits = model(**data[0]).logits
            model.double()
            torch.testing.assert_close(model(**data[0]).logits.float(), logits, atol=1e-5, rtol=1e-5)
    assert losses["bf16"] != losses["fp32"]
    with pytest.raises(ValueError, match="precision: got 'int8'; accepted: 'fp32', 'bf16', 'fp16'"):
        finetune(adapted(), separable(32, 16), precision="int8")


def test_callbacks_hear_of_every_step():
    class Counter(TrainerCallback):
        steps = 0

        def on_optimizer_step(self, args, state, control, **kwargs):
            assert any(p.grad is not None and p.grad.any() for p in kwargs["model"].parameters())
            self.steps += 1

    counter = Counter()
    finetune(adapted(), separable(64, 16), epochs=2, callbacks=[counter])
    assert counter.steps == 8


def test_a_step_of_sgd_goes_down_the_gradient():
    model, data = adapted(), separable(32, 32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    name = "bert.encoder.layer.1.attention.self.value"
    layer = model.get_base_model().get_submodule(name)
    start = layer.lora_A["default"].weight.detach().clone()
    gradient = mean_gradients(tiny_bert(), data, [name], flips=0)[name].mean  # of the same weights: B is zero
    finetune(model, data, epochs=2, learning_rate=1e-3, optimizer="sgd")  # the first of two steps has the rate zero
    step, expected = layer.lora_B["default"].weight.detach(), -gradient @ start.T
    assert torch.nn.functional.cosine_similarity(step.flatten(), expected.flatten(), dim=0) > 0.9999
    with pytest.raises(ValueError, match="optimizer: got 'lion'; accepted: 'adamw', 'sgd'"):
        finetune(adapted(), separable(32, 16), optimizer="lion")
    with pytest.raises(ValueError, match="epochs: got 0"):
        finetune(adapted(), separable(32, 16), epochs=0)


@pytest.mark.parametrize("kind", ["regression", "two classes", "many classes"])
def test_the_penalty_is_that_of_a_search_over_all(kind):
    """The search stops where the loss rises; scikit-learn's tries the whole grid."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((160, 12))
    signal = features @ rng.standard_normal((12, 4)) + 3 * rng.standard_normal((160, 4))
    labels = {"regression": signal[:, 0], "two classes": (signal[:, 0] > 0).astype(int), "many classes": signal.argmax(1)}[kind]
    regression = kind == "regression"
    if regression:
        grid, estimator, loss = {"alpha": np.logspace(4, -2, 7)}, Ridge(), "neg_mean_squared_error"
    else:
        grid, estimator, loss = {"C": np.logspace(-5, 2, 8)}, LogisticRegression(max_iter=5000, tol=1e-6), "neg_log_loss"
    everything = GridSearchCV(estimator, grid, scoring=loss, cv=5).fit(features, labels)
    strongest, _, fit = heads._fitted(features, labels, regression, 5)
    assert not strongest and np.allclose(fit.coef_, everything.best_estimator_.coef_, rtol=1e-6)
