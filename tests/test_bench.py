"""What the benchmarks share: their command line, their tables, and processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import folder_paths
import pytest

from bench import _table
from bench._command import benchmark
from bench._process import apart, held, peak
from conftest import ROOT


def test_a_table_puts_numbers_to_the_right_text_to_the_left_and_leaves_gaps(capsys):
    _table.show("method", {"share": "{:.1%}", "95 % interval": "{}", "seconds": "{:.1f} s"}, {"a": [0.5, "42% to 58%", 12], "longer": [1, None]})
    assert capsys.readouterr().out.splitlines() == [
        "method   share  95 % interval  seconds",
        "a        50.0%  42% to 58%      12.0 s",
        "longer  100.0%",
    ]  # fmt: skip


def test_options_reach_the_question_and_its_figures_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--rounds", "2", "--json", str(tmp_path / "figures.json")])
    benchmark(lambda chosen: {"rounds": chosen.rounds, "quick": chosen.quick, "large": chosen.large}, quick="fewer", large="more", rounds=(9, "how many"))
    assert json.loads((tmp_path / "figures.json").read_text()) == {"rounds": 2, "quick": True, "large": False}
    assert capsys.readouterr().out.endswith(" s, quick sample\n")


def test_an_option_that_a_benchmark_lacks_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    with pytest.raises(SystemExit):
        benchmark(lambda chosen: {})
    assert "unrecognized arguments: --quick" in capsys.readouterr().err


def test_a_process_of_its_own_has_its_environment_and_leaves_ours():
    assert apart(os.getenv, "BENCH_TEST", environment={"BENCH_TEST": "1"}) == "1"
    assert "BENCH_TEST" not in os.environ and apart(os.getpid) != os.getpid()


def previews() -> str:
    """Where nodes of this process write their previews."""
    return folder_paths.get_temp_directory()


def test_previews_of_a_process_of_its_own_go_with_it_and_never_into_the_comfyui_tree(host):
    folder = Path(apart(previews))
    assert host.comfyui not in folder.parents and not folder.exists()
    assert Path(previews()).exists() and folder != Path(previews())


def test_the_peak_is_of_what_is_held_inside():
    before = held()
    with peak() as most:
        some = bytearray(os.urandom(2**20)) * 64
    assert 60 < (most[0] - before) / 2**20 < 200 and len(some) == 2**26


IN_SMALL = """
import torch
from bench import candidates

def main():
    candidates.by_the_node, candidates.RACE, candidates.STEPS = lambda tools, case, latent: None, 4, 4
    peak = candidates.peak_memory(2)
    with torch.inference_mode():
        tools, edit = candidates.load(), candidates.case(candidates.EDIT)
        print(peak, *(candidates.race(tools, edit, chunk, pruned)[1] for pruned in (True, False) for chunk in (4, 1)))
"""


def test_the_candidates_benchmark_measures_an_edit_and_a_race(tmp_path, host):
    """In small, as run.py runs it, and without the fit of a decoder, which has a benchmark of its own."""
    (tmp_path / "in_small.py").write_text(IN_SMALL)
    environment = host.environment(host.comfyui, ROOT, tmp_path)
    done = subprocess.run([sys.executable, "-m", "demo.small.run", "in_small"], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    peak, pruned, pruned_alone, together, alone = map(float, done.stdout.split())
    assert peak > 100 and 0 < pruned == pruned_alone < together == alone == 2 * 4 * 4, "small chunks ask the network for no more"
