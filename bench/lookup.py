"""The floor of checks of many: a raw SQL look-up, again and again.

    python -m bench.lookup DATABASE SECONDS < keys          (in hexadecimal, one a line)

Prints {"rate": keys a second}.
"""

from __future__ import annotations

import json
import sys
import time

from bench import raw

AT_ONCE = 1000


def main(path: str, seconds: float, keys: list[bytes]) -> None:
    conn = raw.connect(path)
    parts = [keys[at : at + AT_ONCE] for at in range(0, len(keys), AT_ONCE)]
    began, done = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        for part in parts:
            places = ",".join("?" * len(part))
            text = f"SELECT hash, value FROM permissions WHERE brand = 'rt' AND hash IN ({places})"
            found = dict(conn.execute(text, part).fetchall())
            done += len(part)
        assert found
    json.dump({"rate": done / (time.perf_counter() - began)}, sys.stdout)


if __name__ == "__main__":
    main(
        sys.argv[1], float(sys.argv[2]), [bytes.fromhex(line) for line in sys.stdin.read().split()]
    )
