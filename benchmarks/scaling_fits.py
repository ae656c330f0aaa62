"""Whether fitted scaling laws can be trusted: laws recovered, the public Chinchilla runs, larger models predicted.

    FOUNDLING_DATA=DIR python benchmarks/scaling_fits.py [--fits 400] [--bootstraps 100]

Without the public runs (scaling/ in FOUNDLING_DATA: chinchilla_epoch.csv, mlfoundations_104.jsonl.gz,
pythia_zero_shot.jsonl.gz) only the recovery is run. Bounds: each parameter inside its 95% interval in at least 92% of
the fits; the published re-fit inside every interval, its Huber sum matched or beaten; the larger models inside the
predicted intervals.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import time
from pathlib import Path

import numpy as np

from foundling.planning.isoflop import envelope, isoflop
from foundling.planning.runs import Runs, read_runs
from foundling.planning.scaling_fit import NAMES, Fit, fit_law, huber_loss
from foundling.planning.scaling_law import LAWS, Law

DATA = Path(os.environ.get("FOUNDLING_DATA", "")) / "scaling"
SIZES = {"70m": 70e6, "160m": 162e6, "410m": 405e6, "1b": 1.01e9, "1.4b": 1.41e9, "2.8b": 2.78e9, "6.9b": 6.86e9}
SIZES |= {"12b": 11.8e9}
PYTHIA_STEP, PYTHIA_BATCH = 13_000, 2_097_152  # from where the learning rate's warm-up is long past; tokens in a step


def drawn(law: Law, noise: float, seed: int) -> Runs:
    """48 runs on a grid of six sizes and eight lengths, with log-normal noise."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(5e7, 1.6e10, 6), np.geomspace(5e8, 3e11, 8)))
    clean = law.E + law.A / n**law.alpha + law.B / d**law.beta
    return Runs(n, d, clean * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))))


def recovery(fits: int, bootstraps: int) -> None:
    laws = list(LAWS.values())
    inside, start = np.zeros(len(NAMES)), time.perf_counter()
    for seed in range(fits):
        law = laws[seed % len(laws)]
        fit = fit_law(drawn(law, 0.005, seed), bootstraps=bootstraps, seed=seed)
        spans = fit.intervals()
        inside += [spans[name][0] <= getattr(law, name) <= spans[name][1] for name in NAMES]
    shown = ", ".join(f"{name} {share:.1%}" for name, share in zip(NAMES, inside / fits, strict=True))
    print(f"{fits} fits of {len(laws)} known laws, 48 runs each, 0.5% noise, {bootstraps} bootstraps a fit:")
    print(f"  truth inside the 95% interval: {shown} (bound 92%)")
    print(f"  {(time.perf_counter() - start) / fits * 1000:.0f} ms a fit with its intervals\n")


def chinchilla() -> None:
    runs = read_runs(DATA / "chinchilla_epoch.csv")
    runs = runs.where(np.argsort(runs.loss)[:-5])
    fit = fit_law(runs, bootstraps=400)
    published = LAWS["besiroglu"]
    print("Public Chinchilla runs (240: all but the five of highest loss, as in Besiroglu et al. 2024):")
    for name, (low, high) in fit.intervals().items():
        other = getattr(published, name)
        within = "inside" if low <= other <= high else "OUTSIDE"
        print(f"  {name:<6} {getattr(fit.law, name):9.4f} [{low:.4f}, {high:.4f}]  published {other:9.4f} {within}")
    print(f"  Huber sum {fit.huber:.7f}, of the published re-fit {huber_loss(published, runs):.7f}")
    curves, parabolas = envelope(runs).a, isoflop(runs).a
    print(f"  N_opt ~ C^a: approach 1 {curves:.3f} (Hoffmann et al.: 0.50), approach 2 {parabolas:.3f} (0.49),")
    print(f"               approach 3 {fit.law.beta / (fit.law.alpha + fit.law.beta):.3f} (Besiroglu et al.: 0.512)\n")


def held_out(name: str, runs: Runs, up_to: float) -> None:
    small, large = runs.where(runs.parameters < up_to), runs.where(runs.parameters >= up_to)
    fit: Fit = fit_law(small)
    guesses = [fit.predict(float(n), float(d)) for n, d in zip(large.parameters, large.tokens, strict=True)]
    inside = sum(g.low <= loss <= g.high for g, loss in zip(guesses, large.loss, strict=True))
    errors = [abs(g.loss / loss - 1) for g, loss in zip(guesses, large.loss, strict=True)]
    widths = [g.high / g.low - 1 for g in guesses]
    print(
        f"  {name}: {len(small)} runs up to {up_to:.0e} parameters; {inside} of {len(large)} larger ones inside, "
        f"error {np.median(errors):.1%} (median), {max(errors):.1%} (largest); interval {np.median(widths):.0%} wide"
    )


def public() -> None:
    print("Larger models predicted from smaller ones, 95% intervals:")
    with gzip.open(DATA / "mlfoundations_104.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for dataset in sorted({row["dataset"] for row in rows}):
        own = [row for row in rows if row["dataset"] == dataset]
        loss = [next(r["loss"] for r in row["results"] if "c4_val" in r["val_data"][0]) for row in own]
        columns = ([float(row["params_no_embed"]) for row in own], [float(row["tokens"]) for row in own], loss)
        held_out(f"open_lm on {dataset}, C4 loss", Runs(*map(np.array, columns)), 1e9)
    with gzip.open(DATA / "pythia_zero_shot.jsonl.gz", "rt") as lines:
        rows = [row for row in map(json.loads, lines) if row["step"] >= PYTHIA_STEP]
    for suffix in ("", "-deduped"):
        sizes = {f"pythia-{name}{suffix}": n for name, n in SIZES.items()}
        points = [
            (sizes[row["model"]], row["step"] * PYTHIA_BATCH, math.log(row["results"]["lambada_openai"]["ppl"]))
            for row in rows
            if row["model"] in sizes
        ]
        held_out(f"pythia{suffix}, LAMBADA log perplexity", Runs(*np.array(points).T), 4e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=400)
    parser.add_argument("--bootstraps", type=int, default=100)
    options = parser.parse_args()
    recovery(options.fits, options.bootstraps)
    if DATA.is_dir():
        chinchilla()
        public()
    else:
        print("FOUNDLING_DATA is not set: the public runs are left out")


if __name__ == "__main__":
    main()
