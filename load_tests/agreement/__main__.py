"""Whether a recorded live run, replayed, is decided alike: `python -m load_tests.agreement`.

A real gateway with three models on the demo engine serves seeded bursts for `--minutes`; its store
is then replayed by the simulator of `lamplighter replay`, and all starts, stops, moves and
placements of requests are compared one by one. Talks to loopback only.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from load_tests.agreement import live, replayed
from load_tests.agreement.decisions import Agreement, agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the store, the log and the result here")
    parser.add_argument("--again", action="store_true", help="replay what --folder has of a run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not options.again:
            live.run(folder, options.minutes * 60.0, options.seed)
        recorded = live.recorded(folder)
        found = compared(recorded)
        print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, {options.minutes:g} minutes")
        print("\n".join(table(found)))
        result = json.dumps([asdict(each) for each in found], indent=1)
        (folder / "agreement.json").write_text(result)


def compared(recorded: live.Recorded) -> list[Agreement]:
    ours, theirs = live.decisions(recorded), replayed.decisions(recorded)
    return [agreement(model, ours[model], theirs[model]) for model in theirs]


def table(found: Sequence[Agreement]) -> list[str]:
    """Counts by model and kind, then what did not agree."""
    lines = [f"{'model':8} {'decision':12} {'live':>6} {'replay':>6} {'same':>6}"]
    for each in found:
        for kind in each.live:
            counts = (each.live[kind], each.replayed[kind], each.same[kind])
            lines.append(f"{each.model:8} {kind:12} " + " ".join(f"{n:6}" for n in counts))
    offsets_s = sorted(abs(s) for each in found for s in each.offsets_s)
    if offsets_s:
        middle, last = offsets_s[len(offsets_s) // 2], offsets_s[-1]
        lines.append(f"events apart by {middle * 1000:.1f} ms (p50), {last * 1000:.1f} ms (most)")
    for each in found:
        for d in each.differences:
            lines.append(
                f"{d.model} at {d.at_s:.3f} s, {d.what}: live {d.live}; replay {d.replayed}"
            )
            if d.why:
                lines.append(f"    {d.why}")
    return lines


if __name__ == "__main__":
    main()
