"""Many cases in a row: how each ended, and every finding."""

from __future__ import annotations

import logging
from collections import Counter
from unittest import mock

import huggingface_hub
from hypothesis import HealthCheck, Phase, given, seed, settings

from bench.odd.cases import Case, all_cases
from bench.odd.rules import Finding, run, weights


def survey(name: str, count: int, seed_: int) -> tuple[Counter[str], list[tuple[Case, str]]]:
    """Up to `count` cases of a node or a chain: how many ended in which way, and the cases that ended in none of the right ones."""
    endings: Counter[str] = Counter()
    findings: list[tuple[Case, str]] = []

    @seed(seed_)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(all_cases()[name])
    def each(case: Case) -> None:
        try:
            endings[run(case)] += 1
        except Finding as finding:
            endings["findings"] += 1
            findings.append((case, str(finding)))

    logging.disable(logging.WARNING)
    try:
        before = weights()
        with mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True):
            each()
    finally:
        getattr(huggingface_hub.utils, "reset_sessions", int)()  # clients before 1.0 go on being offline
        logging.disable(logging.NOTSET)
    if weights() != before:
        findings.append((Case(name, {}), "one of the cases has changed a model's weights"))
    return endings, findings
