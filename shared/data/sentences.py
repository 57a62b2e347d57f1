"""A sentence encoder of the BERT family from files on disk: torch and a tokenizer, nothing else.

Source: Devlin et al. 2019 (the encoder), Reimers & Gurevych 2019 (mean of the token vectors).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["bert_states", "sentence_vectors"]

BATCH = 64
LONGEST = 256


def sentence_vectors(folder: Path, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the mean token vectors of texts.

    Args:
        folder: Holds `config.json`, `tokenizer.json` and `model.safetensors`.
        texts: Any; at most 256 tokens of each are read.

    Returns:
        float64 [texts, hidden].

    Raises:
        DataError: The folder holds no such model.
        MissingExtraError: The package tokenizers is not installed.
    """
    import torch
    from safetensors.torch import load_file

    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError("A sentence encoder needs: pip install tokenizers.") from error
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizer raises bare ones
        raise DataError(f"{folder} holds no BERT model in safetensors; check the path.") from error
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    found = np.zeros((len(texts), config["hidden_size"]))
    order = np.argsort([-len(text) for text in texts], kind="stable")
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            read = tokenizer.encode_batch([texts[row] for row in rows])
            tokens = torch.tensor([one.ids for one in read])
            inside = torch.tensor([one.attention_mask for one in read], dtype=torch.float32)
            states = bert_states(config, weights, tokens, inside)
            means = (states * inside.unsqueeze(-1)).sum(1) / inside.sum(1, keepdim=True)
            found[rows] = means.numpy()
    return found


def bert_states(
    config: Mapping[str, int], weights: Mapping[str, "Torch"], tokens: "Torch", inside: "Torch"
) -> "Torch":
    """Return the last hidden states [texts, tokens, hidden] of a BERT encoder.

    Args:
        config: `num_hidden_layers`, `num_attention_heads`, and perhaps `layer_norm_eps`.
        weights: By their usual names.
        tokens: int64 [texts, tokens].
        inside: [texts, tokens], 1 for a token, 0 for padding.
    """
    import torch

    table = {name: weights[f"embeddings.{name}.weight"] for name in _EMBEDDINGS}
    states = table["word_embeddings"][tokens] + table["position_embeddings"][: tokens.shape[1]]
    states = _normal(
        config, weights, "embeddings.LayerNorm", states + table["token_type_embeddings"][0]
    )
    shut = torch.where(inside > 0, 0.0, -torch.inf)[:, None, None]
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        seen = _attended(config, weights, f"{at}.attention", states, shut)
        states = _normal(config, weights, f"{at}.attention.output.LayerNorm", states + seen)
        inner = torch.nn.functional.gelu(_linear(weights, f"{at}.intermediate.dense", states))
        outer = _linear(weights, f"{at}.output.dense", inner)
        states = _normal(config, weights, f"{at}.output.LayerNorm", states + outer)
    return states


_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


def _attended(
    config: Mapping[str, int],
    weights: Mapping[str, "Torch"],
    at: str,
    states: "Torch",
    shut: "Torch",
) -> "Torch":
    import torch

    texts, width, hidden = states.shape
    heads = config["num_attention_heads"]
    query, key, value = (
        _linear(weights, f"{at}.self.{part}", states)
        .reshape(texts, width, heads, -1)
        .transpose(1, 2)
        for part in ("query", "key", "value")
    )
    seen = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=shut)
    return _linear(
        weights, f"{at}.output.dense", seen.transpose(1, 2).reshape(texts, width, hidden)
    )


def _linear(weights: Mapping[str, "Torch"], at: str, values: "Torch") -> "Torch":
    return values @ weights[f"{at}.weight"].T + weights[f"{at}.bias"]


def _normal(
    config: Mapping[str, int], weights: Mapping[str, "Torch"], at: str, values: "Torch"
) -> "Torch":
    import torch

    return torch.nn.functional.layer_norm(
        values,
        values.shape[-1:],
        weights[f"{at}.weight"],
        weights[f"{at}.bias"],
        float(config.get("layer_norm_eps", 1e-12)),
    )
