"""Language models of a few thousand random numbers, in a folder as the large ones are released."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

END = "<|endoftext|>"
CHAT = ("<|im_start|>", "<|im_end|>")


def write_words(folder: Path, *, chat: bool = False) -> dict[str, int]:
    """Write a tokenizer of bytes; gives the numbers of its marks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(letters)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    marks = [END, *(CHAT if chat else ())]
    words.add_special_tokens([AddedToken(mark) for mark in marks])
    words.save(str(folder / "tokenizer.json"))
    return {mark: words.token_to_id(mark) for mark in marks}


def write_language(
    folder: Path, *, kind: str = "gpt2", seed: int = 0, chat: bool = False, **changes: Any
) -> Path:
    """Write a language model of random weights."""
    import transformers

    folder.mkdir(parents=True)
    marks = write_words(folder, chat=chat)
    end = marks[CHAT[1] if chat else END]
    shared = {"vocab_size": 256 + len(marks), "eos_token_id": end, "bos_token_id": None}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        config = transformers.GPT2Config(**(shared | sizes | changes))
        make = transformers.GPT2LMHeadModel
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"max_position_embeddings": 256, "tie_word_embeddings": True}
        config = transformers.Qwen3Config(**(shared | sizes | changes))
        make = transformers.Qwen3ForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(config)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Change entries of the configuration; None takes one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
