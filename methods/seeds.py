"""Seeds that are the same in every process and on every machine."""
import hashlib


def stable_seed(*parts):
    """A seed (int, 0 <= seed < 2**63) that follows from the text of `parts` alone: `stable_seed(seed, "data", epoch)`.

    Python's own `hash` of a string changes with every process, so it cannot be resumed from.
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
