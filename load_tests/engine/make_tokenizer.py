"""make_tokenizer.py FILE.gguf HUB NAME: a GGUF file's tokenizer, as a model hub's cache has it.

Run by the Python of the load tool's environment. Offline, aiperf takes a tokenizer from the
hub's cache and from nowhere else, so it gets a cache of its own with nothing but this in it.
Made of the vocabulary and the merges in the file: transformers reads those only with torch, which
is 5 GB. Good for the byte-level BPE of SmolLM2; another kind of tokenizer is refused.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

REVISION = "0" * 40  # the cache is laid out by commits


def main(gguf: Path, hub: Path, name: str) -> int:
    model = hub / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / REVISION
    snapshot.mkdir(parents=True, exist_ok=True)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(REVISION)
    fields = importlib.import_module("gguf").GGUFReader(gguf).fields
    save(snapshot, {key: field.contents() for key, field in fields.items() if "token" in key})
    return 0


def save(folder: Path, stored: dict[str, Any]) -> None:
    kind = stored["tokenizer.ggml.model"], stored["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise SystemExit(f"make_tokenizer: cannot make a tokenizer of the kind {kind}")
    tokenizers = importlib.import_module("tokenizers")
    words = stored["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in stored["tokenizer.ggml.merges"]]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    before = tokenizers.pre_tokenizers
    made.pre_tokenizer = before.Sequence(
        [before.Digits(individual_digits=True), before.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    end = words[stored["tokenizer.ggml.eos_token_id"]]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
