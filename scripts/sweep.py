"""Search for training options with Optuna (Akiba et al. 2019), which is no dependency: pip install optuna

Usage: python scripts/sweep.py DATA -o FOLDER [--trials 20] [-- OPTIONS OF cxrbatch train]

Each trial is a `cxrbatch train` of its own with a learning rate, a weight decay and an augmentation that Optuna chose;
its figure is the macro AUROC of the validation images. FOLDER/sweep.sqlite remembers every trial: the same command goes
on where it was stopped. The figures of the best trial are the best of many, and promise too much by that: measure it on
images that chose nothing (`cxrbatch evaluate --split test`) before anything is said of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the trials, and say which one was best."""
    arguments = _read_arguments()
    try:
        import optuna
    except ImportError:
        sys.exit("scripts/sweep.py needs Optuna: pip install optuna")
    arguments.output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="cxrbatch",
        direction="maximize",
        storage=f"sqlite:///{(arguments.output / 'sweep.sqlite').resolve()}",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=arguments.seed),
    )
    done = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    # A training that fails, such as one whose loss is no number, is a trial without a figure.
    study.optimize(
        lambda trial: _train(trial, arguments), n_trials=max(0, arguments.trials - done), catch=(RuntimeError,)
    )
    if study.best_trials:
        best = study.best_trial
        print(f"best of {len(study.trials)} trials: {best.number}, macro AUROC {best.value:.4f}, {best.params}")
        print(f"checkpoint: {_checkpoint(arguments.output, best.number)}")


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    # What comes after the first -- is for every `cxrbatch train`.
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:at], argparse.Namespace(train_options=words[at + 1 :]))


def _train(trial: Any, arguments: argparse.Namespace) -> float:
    """Train once; return the macro AUROC of the validation images."""
    checkpoint = _checkpoint(arguments.output, trial.number)
    chosen = {
        "--lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        "--weight-decay": trial.suggest_float("weight_decay", 1e-4, 0.1, log=True),
        "--augment": trial.suggest_categorical("augment", ["none", "light", "strong"]),
    }
    options = [str(word) for pair in chosen.items() for word in pair]
    command = [sys.executable, "-m", "cxrbatch", "train", str(arguments.data), "-o", str(checkpoint)]
    ended = subprocess.run([*command, *options, *arguments.train_options], check=False)
    if ended.returncode < 0 or ended.returncode >= 128:
        trial.study.stop()  # somebody ended it, and means the sweep
    if ended.returncode:
        raise RuntimeError(f"trial {trial.number}: cxrbatch train ended with exit code {ended.returncode}")
    folder = checkpoint.with_name(f"{checkpoint.stem}-training")
    summary = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    run = summary["cross_fitted"] or summary["runs"][summary["chosen"]]
    return float(run["measured"]["macro"]["auroc"]["value"])


def _checkpoint(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:03}.safetensors"


if __name__ == "__main__":
    main()
