"""Fixtures of several test files; imports are inside, since the tests of the site need none of them."""

import pytest


@pytest.fixture(scope="session")
def lively_folder(tmp_path_factory):
    """A random BERT of the smallest size whose attention does something, with MiniLM's tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from companion import data

    folder = tmp_path_factory.mktemp("lively-bert")
    tokenizer = data.load_tokenizer("minilm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        config = BertConfig(vocab_size=len(tokenizer), initializer_range=0.2, **sizes)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
