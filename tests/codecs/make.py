"""Writes `chunks.json` anew: ``python -m tests.codecs.make``, only where a new version is meant."""

import json
from hashlib import sha256

from romzarr.coding.chunks.chunk import decode_chunk, encode_chunk
from tests.codecs.test_chunks import GOLDEN, golden_cases


def main() -> None:
    found = {}
    for name, (values, kept) in golden_cases().items():
        content = encode_chunk(values, kept)
        decoded = decode_chunk(content, values.shape, values.dtype)
        found[name] = {
            "content": content.hex(),
            "decoded": sha256(decoded.tobytes()).hexdigest(),
        }
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
