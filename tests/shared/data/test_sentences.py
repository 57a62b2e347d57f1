"""The encoder of sentences against torch's own layers, and what it refuses."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from shared.data.sentences import bert_states, sentence_vectors
from shared.errors import DataError, MissingExtraError

HIDDEN, HEADS, INNER, LAYERS = 8, 2, 12, 2
CONFIG: dict[str, int] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}


def weights() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng) * 0.3

    found = {
        "embeddings.word_embeddings.weight": drawn(20, HIDDEN),
        "embeddings.position_embeddings.weight": drawn(6, HIDDEN),
        "embeddings.token_type_embeddings.weight": drawn(2, HIDDEN),
    }
    shapes = {f"attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
    shapes |= {
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (INNER, HIDDEN),
        "output.dense": (HIDDEN, INNER),
    }
    names = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        names += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
        for name, shape in shapes.items():
            found[f"{at}{name}.weight"] = drawn(*shape)
            found[f"{at}{name}.bias"] = drawn(shape[0])
    for name in names:
        found[f"{name}.weight"], found[f"{name}.bias"] = 1 + drawn(HIDDEN), drawn(HIDDEN)
    return found


def reference(given: dict[str, torch.Tensor], layer: int) -> torch.nn.TransformerEncoderLayer:
    """One layer of torch with the same weights."""
    made = torch.nn.TransformerEncoderLayer(
        HIDDEN, HEADS, INNER, dropout=0.0, activation="gelu", batch_first=True, layer_norm_eps=1e-12
    )
    at = f"encoder.layer.{layer}."
    parts = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
    made.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([given[f"{p}.weight"] for p in parts]),
            "self_attn.in_proj_bias": torch.cat([given[f"{p}.bias"] for p in parts]),
            **{
                f"{ours}.{kind}": given[f"{at}{theirs}.{kind}"]
                for ours, theirs in (
                    ("self_attn.out_proj", "attention.output.dense"),
                    ("linear1", "intermediate.dense"),
                    ("linear2", "output.dense"),
                    ("norm1", "attention.output.LayerNorm"),
                    ("norm2", "output.LayerNorm"),
                )
                for kind in ("weight", "bias")
            },
        }
    )
    return made


def test_states_are_those_of_torch_s_own_layers() -> None:
    given = weights()
    tokens, inside = torch.tensor([[3, 5, 7, 9], [4, 6, 0, 0]]), torch.ones(2, 4)
    inside[1, 2:] = 0.0
    states = given["embeddings.word_embeddings.weight"][tokens]
    states = states + given["embeddings.position_embeddings.weight"][:4]
    states = states + given["embeddings.token_type_embeddings.weight"][0]
    states = torch.nn.functional.layer_norm(
        states,
        (HIDDEN,),
        given["embeddings.LayerNorm.weight"],
        given["embeddings.LayerNorm.bias"],
        1e-12,
    )
    for layer in range(LAYERS):
        states = reference(given, layer)(states, src_key_padding_mask=inside == 0)
    found = bert_states(CONFIG, given, tokens, inside)
    torch.testing.assert_close(found[inside > 0], states[inside > 0], atol=1e-5, rtol=1e-5)
    alone = bert_states(CONFIG, given, tokens[1:, :2], inside[1:, :2])
    torch.testing.assert_close(found[1, :2], alone[0], atol=1e-5, rtol=1e-5)


def test_a_missing_tokenizer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match="pip install tokenizers"):
        sentence_vectors(tmp_path, ["a"])


def test_a_folder_without_a_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module: Any = ModuleType("tokenizers")
    module.Tokenizer = object
    monkeypatch.setitem(sys.modules, "tokenizers", module)
    with pytest.raises(DataError, match="holds no BERT model"):
        sentence_vectors(tmp_path, ["a"])
