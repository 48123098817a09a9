"""Time one training step in every way the library knows, in one run, as ratios to values alone.

    python tests/benchmarks/step_cost.py                 # one and two threads; prints tables
    python tests/benchmarks/step_cost.py --json out.json # writes the records as well
    python tests/benchmarks/step_cost.py --ledger        # enters them in data/ledger/cost.jsonl
    python tests/benchmarks/step_cost.py --device cuda

Not a test: its result depends on what else the machine does. Repetitions are interleaved, so that a
ratio compares times of the same round.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sobolev_lib.cost import ways as cost
from sobolev_lib.records import ledger


def main() -> int:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device is cuda, but PyTorch sees no CUDA device", file=sys.stderr)
        return 2
    names = [n for n in options.ways if not (options.no_compile and n in cost.COMPILED)]
    entries = []
    for threads in options.threads:
        entries += compare(options, names, threads)
    if options.json:
        options.json.write_text(json.dumps([asdict(e) for e in entries], indent=1))
    if options.ledger:
        print(f"{ledger.Ledger(cost.EXPERIMENT).append(entries)} records entered")
    return 0


def compare(options: argparse.Namespace, names: list[str], threads: int) -> list[ledger.Record]:
    torch.set_num_threads(threads)
    clock = "cpu" if options.cpu_clock and threads == 1 else "wall"
    built = {}
    for size in (cost.Size(*pair) for pair in options.sizes):
        built[size] = {name: cost.way(name, size, options.device) for name in names}
        for chosen in built[size].values():  # compiles
            chosen.step()
    print(f"ready to measure: {options.device}, {threads} thread(s), {clock} clock", flush=True)
    measured = {}
    for size, ways in built.items():
        measured[size] = cost.measure(ways, options.seconds, clock=clock)
        show(size, measured[size], threads)
    print("measured; counting", flush=True)
    return [r for size in built for r in cost.records(size, measured[size], built[size], clock)]


def show(size: cost.Size, times: dict[str, cost.Timing], threads: int) -> None:
    whole, alone = cost.ratios(times), cost.ratios(times, "gradient")
    rounds = len(times[cost.BASE].step)
    print(f"\n{size.members} x {size.n}, {threads} thread(s), {rounds} rounds")
    print(f"{'way':24}{'ms':>9}   {'ratio of steps (min - max)':28}{'ratio of gradients':>20}")
    for name, timing in times.items():
        r, g = whole[name], statistics.median(alone[name])
        spread = f"{statistics.median(r):6.2f} ({min(r):.2f} - {max(r):.2f})"
        milliseconds = 1e3 * statistics.median(timing.step)
        print(f"{name:24}{milliseconds:9.2f}   {spread:28}{g:20.2f}", flush=True)


def parse() -> argparse.Namespace:
    def pair(text: str) -> tuple[int, int]:
        members, n = text.split("x")
        return int(members), int(n)

    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    add = parser.add_argument
    add("--sizes", nargs="+", type=pair, default=list(cost.SIZES), metavar="ExN")
    add("--ways", nargs="+", choices=list(cost.WAYS), default=list(cost.WAYS), metavar="WAY")
    add("--threads", nargs="+", type=int, default=[1, 2])
    add("--seconds", type=float, default=20.0, help="of measuring, for each size")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--cpu-clock", action="store_true", help="with one thread: count its computing time only")
    add("--no-compile", action="store_true", help="leave out what torch.compile needs minutes for")
    add("--json", type=Path, metavar="FILE", help="write the records")
    add("--ledger", action="store_true", help="enter the records in the ledger")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
