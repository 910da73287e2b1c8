"""make_vllm_model.py OUT_DIR FILE.gguf: the model of a GGUF file as vLLM on the CPU wants it.

Run by the Python of the environment that make_vllm_venv.sh makes, not by the project's own.
Weights are dequantised to bfloat16 (270 MB for SmolLM2-135M, 17 s on 2 cores). OUT_DIR appears
whole or not at all, and is left alone when it is there.
"""

import shutil
import sys
import tempfile
from pathlib import Path

# transformers' SmolLM2 template puts in a system prompt of its own, with which the quantised
# weights answer "What is the capital of France?" in bad French; plain ChatML gets "Paris".
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(out: Path, gguf: Path) -> int:
    if (out / "config.json").is_file():
        print(f"the model is there: {out}")
        return 0
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".model-", dir=out.parent))
    try:
        convert(work, gguf)
        work.chmod(0o755)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"made {out}")
    return 0


def convert(out: Path, gguf: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]).resolve()))
